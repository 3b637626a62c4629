using Fleet.Vmm.Boot;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Devices.Virtio.Vsock;
using Fleet.Vmm.Fencing;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Metadata;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Api;

/// <summary>
/// The file of <c>--config-file</c>: the bodies of the API's requests under their paths' names, in one object. It is read whole
/// before anything is applied, and goes through the same checks as the requests.
/// </summary>
internal sealed class ConfigFile
{
    private const int LargestFile = 1024 * 1024;

    private static readonly string[] Sections =
    [
        "boot-source", "machine-config", "logger", "metrics", "fleet-status-port", "entropy", "drives", "network-interfaces", "vsock", "balloon", "cpu-config",
        "mmds-config", "serial", "fleet-lease", "memory-hotplug", "pmem",
    ];

    private BootSource? _bootSource;
    private MachineConfigUpdate? _machineConfig;
    private LoggerConfig? _logger;
    private MetricsConfig? _metrics;
    private string? _statusPort;
    private LimiterSettings? _entropy;
    private VsockSettings? _vsock;
    private BalloonSettings? _balloon;
    private CpuTemplate? _cpuTemplate;
    private MetadataSettings? _metadata;
    private SerialSettings? _serial;
    private LeaseTimes? _lease;
    private readonly List<DriveConfig> _drives = [];
    private readonly List<NetworkConfig> _networks = [];

    /// <summary>Throws <see cref="ApiFaultException"/> with a sentence that names the file.</summary>
    public static ConfigFile Load(string path)
    {
        try
        {
            return Parse(Descriptors.ReadFile(path, LargestFile));
        }
        catch (JsonFaultException fault)
        {
            throw new ApiFaultException($"Configuration for VMM from one single json failed: Invalid JSON: {fault.Message} ({path})", inner: fault);
        }
        catch (Exception failure) when (failure is SystemCallException or NotARegularFileException or FileTooLargeException)
        {
            throw new ApiFaultException($"Unable to open or read from the configuration file {path}: {failure.Message}", inner: failure);
        }
    }

    /// <summary>Throws <see cref="JsonFaultException"/>.</summary>
    public static ConfigFile Parse(ReadOnlySpan<byte> text)
    {
        var config = new ConfigFile();
        var body = new JsonBody(text);
        body.Begin();
        body.ExpectObject("struct VmmConfig");
        uint seen = 0;
        while (body.NextField(Sections, ref seen, out var section))
        {
            // What GET /vm/config answers is a valid file: null and empty lists say "none".
            if ((section > 0 && body.IsNull) || (section > 13 && body.IsEmptyArray()))
            {
                continue;
            }

            switch (section)
            {
                case 0: config._bootSource = BootSource.Read(ref body); break;
                case 1: config._machineConfig = MachineConfigUpdate.Read(ref body, complete: true); break;
                case 2: config._logger = LoggerConfig.Read(ref body); break;
                case 3: config._metrics = MetricsConfig.Read(ref body); break;
                case 4: config._statusPort = SingleFieldBody.ReadStatusPort(ref body); break;
                case 5: config._entropy = EntropyConfig.Read(ref body); break;
                case 6:
                    body.ExpectArray();
                    while (body.NextElement())
                    {
                        config._drives.Add(DriveConfig.Read(ref body));
                    }

                    break;
                case 7:
                    body.ExpectArray();
                    while (body.NextElement())
                    {
                        config._networks.Add(NetworkConfig.Read(ref body));
                    }

                    break;
                case 8: config._vsock = VsockConfig.Read(ref body); break;
                case 9: config._balloon = BalloonConfig.Read(ref body); break;
                case 10: config._cpuTemplate = body.IsString ? LoadCpuTemplate(body.String()) : CpuTemplateBody.Read(ref body); break;
                case 11: config._metadata = MetadataApi.ReadSettings(ref body); break;
                case 12: config._serial = SerialConfig.Read(ref body); break;
                case 13: config._lease = LeaseBody.Read(ref body); break;
                default: throw body.Fault($"`{Sections[section]}` is not supported by fleet-vmm");
            }
        }

        body.Require(Sections, seen, 0);
        body.End();
        return config;
    }

    /// <summary>Configures the microVM, the log first. Throws <see cref="ApiFaultException"/>.</summary>
    public void Apply(Microvm microvm)
    {
        if (_logger is not null)
        {
            microvm.ConfigureLogger(_logger);
        }

        if (_metrics is not null)
        {
            microvm.ConfigureMetrics(_metrics);
        }

        if (_serial is not null)
        {
            microvm.SetSerial(_serial);
        }

        if (_lease is { } lease)
        {
            microvm.ExtendLease(lease);
        }

        ApplyGuest(microvm);
        if (_cpuTemplate is not null)
        {
            microvm.SetCpuTemplate(_cpuTemplate);
        }

        microvm.SetBootSource(_bootSource!);
    }

    /// <summary>Puts what a load asks for in the place of what the snapshot says. Throws <see cref="ApiFaultException"/>.</summary>
    public void Override(SnapshotLoad load)
    {
        _machineConfig = (_machineConfig ?? throw new ApiFaultException("the snapshot's configuration has no machine-config")) with { TrackDirtyPages = load.TrackDirtyPages };
        _statusPort = load.StatusPortOverride is null || _statusPort is not null
            ? load.StatusPortOverride ?? _statusPort
            : throw NoSuch("fleet_status_port_override", "status port", "");
        foreach (var (id, file) in load.DriveOverrides)
        {
            var index = _drives.FindIndex(drive => drive.Id == id);
            _drives[index >= 0 ? index : throw NoSuch("drive_overrides", "drive", id)] = _drives[index] with { PathOnHost = file };
        }

        foreach (var (id, tap) in load.NetworkOverrides)
        {
            var index = _networks.FindIndex(network => network.Id == id);
            _networks[index >= 0 ? index : throw NoSuch("network_overrides", "network interface", id)] = _networks[index] with { HostDevice = tap };
        }

        if (load.VsockOverride is { } path)
        {
            _vsock = (_vsock ?? throw NoSuch("vsock_override", "vsock device", "")) with { SocketPath = path };
        }
    }

    /// <summary>Configures the guest of a snapshot; log and metrics are this process', and the processor is in the saved state.</summary>
    public void ApplyRestored(Microvm microvm)
    {
        ApplyGuest(microvm);
        microvm.AdoptBootSource(_bootSource!);
    }

    // As Firecracker's configuration files do: the template is in a file of its own.
    private static CpuTemplate LoadCpuTemplate(string path)
    {
        try
        {
            var body = new JsonBody(Descriptors.ReadFile(path, LargestFile));
            body.Begin();
            var template = CpuTemplateBody.Read(ref body);
            body.End();
            return template;
        }
        catch (JsonFaultException fault)
        {
            throw new JsonFaultException($"{fault.Message} of the CPU template {path}");
        }
        catch (Exception failure) when (failure is SystemCallException or NotARegularFileException or FileTooLargeException)
        {
            throw new JsonFaultException($"the CPU template {path} can't be read: {failure.Message}");
        }
    }

    private static ApiFaultException NoSuch(string field, string what, string id) =>
        new($"Load snapshot error: {field}: the snapshot has no {what}{(id.Length > 0 ? $" {id}" : "")}.");

    private void ApplyGuest(Microvm microvm)
    {
        if (_machineConfig is not null)
        {
            microvm.ReplaceMachineConfig(_machineConfig);
        }

        if (_statusPort is not null)
        {
            microvm.SetStatusPort(_statusPort);
        }

        var devices = microvm.DevicesBeforeStart;
        foreach (var drive in _drives)
        {
            ResourceId.Check(drive.Id, drive.Id);
            devices.SetDrive(drive);
        }

        foreach (var network in _networks)
        {
            ResourceId.Check(network.Id, network.Id);
            devices.SetNetwork(network);
        }

        if (_vsock is not null)
        {
            devices.SetVsock(_vsock);
        }

        if (_metadata is not null)
        {
            microvm.ConfigureMetadata(_metadata);
        }

        devices.Balloon = _balloon;
        devices.Entropy = _entropy;
    }
}
