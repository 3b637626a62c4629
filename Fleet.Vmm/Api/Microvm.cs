using System.Text;
using System.Text.Json;
using Fleet.Vmm.Boot;
using Fleet.Vmm.Devices;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Fencing;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Metadata;

namespace Fleet.Vmm.Api;

/// <summary>Where the microVM is in its life, as <c>GET /</c> tells it.</summary>
internal enum MicrovmState
{
    NotStarted,
    Running,
    Paused,
}

/// <summary>
/// The one microVM of this process: its configuration before the start, the machine after it, and the rules about what is
/// allowed when. The HTTP API and the configuration file both come through here. A request that fails changes nothing.
/// </summary>
internal sealed partial class Microvm(string id, IMachineFactory factory, EventLoop loop, VmmLog log, VmmMetrics metrics, MetadataApi metadata, TimeProvider clock) : IDisposable
{
    /// <summary>Firecracker's, when <c>boot_args</c> is not given.</summary>
    public const string DefaultBootArgs =
        "reboot=k panic=1 nomodule 8250.nr_uarts=0 i8042.noaux i8042.nomux i8042.dumbkbd swiotlb=noforce";

    /// <summary>The kernel's own limit on x86-64, NUL included; arch/x86/include/asm/setup.h.</summary>
    private const int LongestBootArgs = 2048;

    private const string NotBeforeStart = "The requested operation is not supported before starting the microVM.";
    private const string NotAfterStart = "The requested operation is not supported after starting the microVM.";

    private static readonly TimeSpan MetricsPeriod = TimeSpan.FromSeconds(60);

    private BootSource? _bootSource;
    private MachineConfig _machineConfig = new();
    private LoggerConfig? _logger;
    private string? _statusPortPath;
    private SerialSettings _serial = new(null, null);
    private readonly ConfiguredDevices _devices = new();
    private CpuTemplate? _cpuTemplate;
    private bool _isConfigured;
    private IMachine? _machine;
    private LoopTimer? _metricsTimer;

    /// <summary>Raised on the loop when the machine has ended; once.</summary>
    public event Action<MachineEnd>? Ended;

    public string Id => id;

    public MicrovmState State { get; private set; }

    public MachineConfig MachineConfig => _machineConfig;

    public IReadOnlyList<int> VcpuThreads => _machine is null ? throw new ApiFaultException(NotBeforeStart) : _machine.VcpuThreads;

    public void SetBootSource(BootSource source)
    {
        OnlyBeforeStart();
        CheckFile(source.KernelImagePath, "Boot source error: The kernel file cannot be opened: ", "kernel");
        if (source.InitrdPath is { } initrd)
        {
            CheckFile(initrd, "Boot source error: The initrd file cannot be opened due to invalid path or invalid permissions. ", "initrd");
        }

        if (source.BootArgs is { } arguments)
        {
            CheckBootArgs(arguments);
        }

        _bootSource = source;
    }

    public void UpdateMachineConfig(MachineConfigUpdate update)
    {
        OnlyBeforeStart();
        _machineConfig = _machineConfig.With(update);
    }

    /// <summary>PUT: what is not said goes back to its default.</summary>
    public void ReplaceMachineConfig(MachineConfigUpdate update)
    {
        OnlyBeforeStart();
        _machineConfig = new MachineConfig().With(update);
    }

    public void ConfigureLogger(LoggerConfig config)
    {
        NotStarted();
        if (config.LogPath is { } path)
        {
            ConfiguredDevices.CheckPath(path, "Logger error: ");
        }

        try
        {
            log.Configure(config);
        }
        catch (SystemCallException failure)
        {
            throw new ApiFaultException($"Logger error: Failed to open target file: {failure.Reason}", inner: failure);
        }

        _logger = config;
    }

    public void ConfigureMetrics(MetricsConfig config)
    {
        NotStarted();
        if (metrics.IsConfigured)
        {
            throw new ApiFaultException("Metrics error: Reinitialization of metrics not allowed.");
        }

        ConfiguredDevices.CheckPath(config.MetricsPath, "Metrics error: ");
        LoopTimer? timer = null;
        try
        {
            timer = new LoopTimer(loop, FlushMetricsOrWarn);
            metrics.Configure(config);
        }
        catch (SystemCallException failure)
        {
            timer?.Dispose();
            throw new ApiFaultException($"Metrics error: Failed to open target file: {failure.Reason}", inner: failure);
        }

        _metricsTimer = timer;
        _metricsTimer.Start(MetricsPeriod, MetricsPeriod);
    }

    /// <summary>The devices, to be configured; not any more once the machine was started.</summary>
    public ConfiguredDevices DevicesBeforeStart
    {
        get
        {
            OnlyBeforeStart();
            return _devices;
        }
    }

    /// <summary>What the guest is told about itself.</summary>
    public MetadataApi Metadata => metadata;

    public void ConfigureMetadata(MetadataSettings settings) => metadata.Configure(settings, DevicesBeforeStart.NetworkIds);

    /// <summary>The devices of the machine, to be changed.</summary>
    public RunningDevices RunningDevices => new(_devices, Started());

    public void UpdateBalloon(uint amountMib) => RunningDevices.UpdateBalloon(amountMib, _machineConfig.MemSizeMib);

    /// <summary>The balloon as it is configured.</summary>
    public BalloonSettings Balloon => _devices.Balloon ?? throw new ApiFaultException("Balloon config error: No balloon device found.");

    /// <summary>Every limiter of the running machine: where it is, what is in force, what passed and what had to wait.</summary>
    public void WriteLimiters(Utf8JsonWriter json)
    {
        var devices = Started().Devices;
        json.WriteStartObject();
        json.WriteStartArray("limiters");
        foreach (var device in devices)
        {
            foreach (var (queue, limiter) in device.Limiters)
            {
                json.WriteStartObject();
                json.WriteString("device", device.Path);
                json.WriteString("queue", queue);
                json.WritePropertyName("rate_limiter");
                LimiterConfig.Write(json, limiter.Settings);
                json.WriteNumber("passed_ops", limiter.PassedOperations);
                json.WriteNumber("passed_bytes", limiter.PassedBytes);
                json.WriteNumber("throttled_count", limiter.Throttled);
                json.WriteNumber("throttled_us", limiter.ThrottledTime / TimeSpan.TicksPerMicrosecond);
                json.WriteEndObject();
            }
        }

        json.WriteEndArray();
        json.WriteEndObject();
    }

    /// <summary>Whether the host can follow it is seen at the start.</summary>
    public void SetCpuTemplate(CpuTemplate template)
    {
        NotStarted();
        _cpuTemplate = template;
    }

    /// <summary>As with log and metrics, this process' and not the guest's: a snapshot does not have it, and may be loaded afterwards.</summary>
    public void SetSerial(SerialSettings serial)
    {
        NotStarted();
        if (serial.OutputPath is { } path)
        {
            ConfiguredDevices.CheckPath(path, "Serial error: ");
        }

        _serial = serial;
    }

    public void SetStatusPort(string outputPath)
    {
        OnlyBeforeStart();
        ConfiguredDevices.CheckPath(outputPath, "Status port error: ");
        _statusPortPath = outputPath;
    }

    /// <summary>The right to run the guest.</summary>
    public Lease Lease { get; } = new();

    /// <summary>Takes when the guest runs; null: nobody wants to know.</summary>
    public RunLog? RunLog { get; set; }

    /// <summary>Gives the lease, or makes it longer; a time that is not later than the one there is changes nothing.</summary>
    public void ExtendLease(LeaseTimes times)
    {
        if (Lease.Extend(times))
        {
            _machine?.ObserveLease();
        }
    }

    /// <summary>Builds the machine and starts it. When it can't be built the configuration stands and can be corrected.</summary>
    public void Start()
    {
        OnlyBeforeStart();
        if (Lease.HasLapsed)
        {
            throw new ApiFaultException("Start microvm error: The lease has lapsed.", "lease_over");
        }

        if (_bootSource is null)
        {
            throw new ApiFaultException("Start microvm error: Cannot start microvm without kernel configuration.");
        }

        RunningDevices.CheckBalloon(_devices.Balloon, _machineConfig.MemSizeMib);
        IMachine? machine = null;
        try
        {
            machine = factory.Build(Describe(_bootSource), loop);
            machine.Ended += OnEnded;
            machine.Start();
        }
        catch (MachineException failure)
        {
            machine?.Dispose();
            throw new ApiFaultException($"Start microvm error: {failure.Message}", ExitReport.ReasonOf(failure.Fault), failure);
        }
        catch
        {
            machine?.Dispose();
            throw;
        }

        _machine = machine;
        ObserveDevices(machine);
        State = MicrovmState.Running;
        log.Info($"The microVM runs: {_machineConfig.VcpuCount} vCPUs, {_machineConfig.MemSizeMib} MiB, kernel {_bootSource.KernelImagePath}.");
        FlushMetricsOrWarn();
    }

    public void SendCtrlAltDel() => Started().SendCtrlAltDel();

    public void Pause()
    {
        var machine = Started();
        if (State != MicrovmState.Paused)
        {
            var began = clock.GetTimestamp();
            machine.Pause();
            metrics.PauseLatency = Microseconds(began);
            State = MicrovmState.Paused;
            log.Info("The microVM is paused.");
        }
    }

    public void Resume()
    {
        var machine = Started();
        if (State == MicrovmState.Paused)
        {
            var began = clock.GetTimestamp();
            machine.Resume();
            metrics.ResumeLatency = Microseconds(began);
            State = MicrovmState.Running;
            log.Info("The microVM goes on.");
        }
    }

    public void FlushMetrics()
    {
        _ = Started();
        ReadCounters();
        if (!metrics.Flush())
        {
            throw new ApiFaultException("Internal VMM error: Failed to write metrics: the metrics file or FIFO takes no more now.");
        }
    }

    /// <summary>The last line, when the process ends.</summary>
    public void FlushLastMetrics() => FlushMetricsOrWarn();

    /// <summary>Ends the machine from outside; false when there is none, and then nothing follows.</summary>
    public bool Stop()
    {
        _machine?.Stop();
        return _machine is not null;
    }

    /// <summary>Firecracker's FullVmConfiguration with what this VMM does not have as null or empty, and our own part last.</summary>
    public void WriteConfiguration(Utf8JsonWriter json)
    {
        json.WriteStartObject();
        json.WritePropertyName("balloon");
        WriteBalloon(json);
        _devices.WriteDrives(json);
        json.WritePropertyName("boot-source");
        BootSource.Write(json, _bootSource);
        json.WriteNull("cpu-config");
        json.WritePropertyName("logger");
        if (_logger is null)
        {
            json.WriteNullValue();
        }
        else
        {
            _logger.Write(json);
        }

        json.WritePropertyName("machine-config");
        _machineConfig.Write(json);
        json.WritePropertyName("metrics");
        metrics.WriteConfiguration(json);
        json.WriteNull("memory-hotplug");
        metadata.WriteSettings(json);
        _devices.WriteNetworks(json);
        json.WriteStartArray("pmem");
        json.WriteEndArray();
        VsockConfig.Write(json, _devices.Vsock);
        _devices.WriteEntropy(json);
        json.WritePropertyName("fleet-status-port");
        if (_statusPortPath is null)
        {
            json.WriteNullValue();
        }
        else
        {
            json.WriteStartObject();
            json.WriteString("output_path", _statusPortPath);
            json.WriteEndObject();
        }

        json.WriteEndObject();
    }

    public void Dispose()
    {
        _metricsTimer?.Dispose();
        _metricsTimer = null;
        _machine?.Dispose();
        _machine = null;
    }

    private IMachine Started() => _machine ?? throw new ApiFaultException(NotBeforeStart);

    private MachineSettings Describe(BootSource source) => new()
    {
        Vcpus = _machineConfig.VcpuCount,
        MemoryMib = _machineConfig.MemSizeMib,
        TrackDirtyPages = _machineConfig.TrackDirtyPages,
        CpuTemplate = _cpuTemplate,
        KernelPath = source.KernelImagePath,
        InitrdPath = source.InitrdPath,
        BootArgs = source.BootArgs ?? DefaultBootArgs,
        StatusPortPath = _statusPortPath,
        Serial = _serial,
        Disks = _devices.Disks,
        Root = _devices.Root,
        Networks = _devices.Networks,
        Balloon = _devices.Balloon,
        Vsock = _devices.Vsock,
        Entropy = _devices.Entropy,
        Metadata = metadata.Configured,
        Lease = Lease,
        RunLog = RunLog,
    };

    /// <summary>For what belongs to the guest: from now on no snapshot can be loaded, whether the request succeeds or not.</summary>
    private void OnlyBeforeStart()
    {
        NotStarted();
        _isConfigured = true;
    }

    /// <summary>For what belongs to this process or its host.</summary>
    private void NotStarted()
    {
        if (_machine is not null)
        {
            throw new ApiFaultException(NotAfterStart);
        }
    }

    private void WriteBalloon(Utf8JsonWriter json)
    {
        if (_devices.Balloon is { } balloon)
        {
            BalloonConfig.Write(json, balloon);
        }
        else
        {
            json.WriteNullValue();
        }
    }

    private void ObserveDevices(IMachine machine)
    {
        IEnumerable<DeviceMetrics?> counted = [.. machine.Devices.Select(device => device.Metrics), metadata.Configured?.Metrics];
        metrics.ObserveDevices([.. counted.OfType<DeviceMetrics>()]);
    }

    private void OnEnded(MachineEnd end) => Ended?.Invoke(end);

    private void FlushMetricsOrWarn()
    {
        ReadCounters();
        if (!metrics.Flush())
        {
            log.Warn("A line of metrics could not be written: the file or FIFO takes no more now. Its counts come with the next line.");
        }
    }

    private void ReadCounters()
    {
        if (_machine is not null)
        {
            metrics.Observe(_machine.ReadCounters());
        }

        metrics.ObserveLog(log);
    }

    private ulong Microseconds(long since) => (ulong)(clock.GetElapsedTime(since).Ticks / TimeSpan.TicksPerMicrosecond);

    private static void CheckFile(string path, string prefix, string what)
    {
        ConfiguredDevices.CheckPath(path, prefix);
        try
        {
            _ = Descriptors.close(Descriptors.OpenRegularFile(path));
        }
        catch (SystemCallException failure)
        {
            throw new ApiFaultException(prefix + failure.Reason, failure.ErrorNumber == SystemCallException.NoEntry ? what + "_missing" : what + "_invalid", failure);
        }
        catch (NotARegularFileException failure)
        {
            throw new ApiFaultException(prefix + failure.Message, what + "_invalid", failure);
        }
    }

    private static void CheckBootArgs(string arguments)
    {
        const string Prefix = "Boot source error: The kernel command line is invalid: ";
        if (arguments.AsSpan().ContainsAnyExceptInRange(' ', '~'))
        {
            throw new ApiFaultException(Prefix + "String contains a non-printable ASCII character.", "boot_args_invalid");
        }

        if (Encoding.UTF8.GetByteCount(arguments) >= LongestBootArgs)
        {
            throw new ApiFaultException(Prefix + "Inserting string would make command line too long.", "boot_args_invalid");
        }
    }
}
