using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Devices.Virtio.Vsock;
using Fleet.Vmm.Linux;
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
        "boot-source", "machine-config", "logger", "metrics", "fleet-status-port", "entropy", "drives", "network-interfaces", "vsock", "balloon",
        "mmds-config", "cpu-config", "memory-hotplug", "pmem", "serial",
    ];

    private BootSource? _bootSource;
    private MachineConfigUpdate? _machineConfig;
    private LoggerConfig? _logger;
    private MetricsConfig? _metrics;
    private string? _statusPort;
    private LimiterSettings? _entropy;
    private VsockSettings? _vsock;
    private BalloonSettings? _balloon;
    private MetadataSettings? _metadata;
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
            if ((section > 0 && body.IsNull) || (section > 10 && body.IsEmptyArray()))
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
                case 10: config._metadata = MetadataApi.ReadSettings(ref body); break;
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

        ApplyMachine(microvm);
        microvm.SetBootSource(_bootSource!);
    }

    /// <summary>
    /// Configures a microVM that is restored: the kernel is in its memory, and log and metrics are this process's own.
    /// Throws <see cref="ApiFaultException"/>.
    /// </summary>
    public void Restore(Microvm microvm, SnapshotOverrides overrides)
    {
        Override(_drives, overrides.Drives, "drive", drive => drive.Id, (drive, path) => drive with { PathOnHost = path });
        Override(_networks, overrides.Networks, "network interface", network => network.Id, (network, tap) => network with { HostDevice = tap });
        if (overrides.VsockPath is { } vsock)
        {
            _vsock = (_vsock ?? throw new ApiFaultException("Load snapshot error: The snapshot has no vsock to override.")) with { SocketPath = vsock };
        }

        ApplyMachine(microvm);
        microvm.RestoreBootSource(_bootSource!);
    }

    private static void Override<T>(
        List<T> devices, IReadOnlyDictionary<string, string> overrides, string what, Func<T, string> idOf, Func<T, string, T> change)
    {
        foreach (var (id, value) in overrides)
        {
            var index = devices.FindIndex(device => idOf(device) == id);
            devices[index >= 0 ? index : throw new ApiFaultException($"Load snapshot error: The snapshot has no {what} {id}.")] = change(devices[index], value);
        }
    }

    private void ApplyMachine(Microvm microvm)
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
