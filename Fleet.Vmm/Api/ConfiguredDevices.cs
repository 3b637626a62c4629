using System.Text.Json;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Devices.Virtio.Vsock;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Api;

/// <summary>The devices that requests or a configuration file asked for. What is refused changes nothing.</summary>
internal sealed class ConfiguredDevices
{
    private const string DriveError = "Drive config error: Unable to create the virtio block device: ";
    private const string VsockError = "Vsock config error: Cannot create backend for vsock device: ";
    private const string NetworkError = "Network config error: ";

    /// <summary>Of disks and network interfaces, so that with one device of each other kind there is a place for all.</summary>
    private const int Most = 17;

    private readonly List<DriveConfig> _drives = [];
    private readonly List<NetworkConfig> _networks = [];

    /// <summary>Limits of the entropy device; null: there is none.</summary>
    public LimiterSettings? Entropy { get; set; }

    /// <summary>Memory balloon; null: there is none.</summary>
    public BalloonSettings? Balloon { get; set; }

    /// <summary>Sockets between guest and host; null: there are none.</summary>
    public VsockSettings? Vsock { get; private set; }

    /// <summary>The root disk first: the guest calls it vda.</summary>
    public IReadOnlyList<DiskSettings> Disks => [.. _drives.OrderByDescending(drive => drive.IsRoot).Select(drive => drive.ToDisk())];

    public RootDevice? Root => _drives.Find(drive => drive.IsRoot) is { } root
        ? new RootDevice(root.PartUuid is { } uuid ? "PARTUUID=" + uuid : "/dev/vda", root.IsReadOnly)
        : null;

    public IReadOnlyList<NetworkSettings> Networks => [.. _networks.Select(network => network.ToSettings())];

    public IReadOnlyList<string> NetworkIds => [.. _networks.Select(network => network.Id)];

    /// <summary>A new drive, or another configuration of one that has the id already.</summary>
    public void SetDrive(DriveConfig drive)
    {
        CheckDisk(drive.PathOnHost, () =>
        {
            new DiskFile(drive.PathOnHost, drive.IsReadOnly).Dispose();
            if (drive.IsAsynchronous)
            {
                new DiskQueue().Dispose();
            }
        });
        var index = _drives.FindIndex(known => known.Id == drive.Id);
        if (drive.IsRoot && _drives.FindIndex(known => known.IsRoot) is var root and >= 0 && root != index)
        {
            throw new ApiFaultException("Drive config error: A root block device already exists!");
        }

        Put(_drives, index, drive, "Drive config error: ");
    }

    /// <summary>A new network interface, or another configuration of one that has the id already.</summary>
    public void SetNetwork(NetworkConfig network)
    {
        var index = _networks.FindIndex(known => known.Id == network.Id);
        for (var i = 0; i < _networks.Count; i++)
        {
            if (i != index && network.Mac is { } mac && _networks[i].Mac == mac)
            {
                throw new ApiFaultException($"{NetworkError}The MAC address is already in use: {NetworkConfig.Text(mac)}");
            }

            if (i != index && _networks[i].HostDevice == network.HostDevice)
            {
                throw new ApiFaultException($"{NetworkError}The host device name is already in use: {network.HostDevice}");
            }
        }

        if (!TapInterface.IsName(network.HostDevice))
        {
            throw new ApiFaultException($"{NetworkError}Could not create the network device: Open tap device failed: not a name of an interface");
        }

        try
        {
            TapInterface.Try(network.HostDevice);
        }
        catch (SystemCallException failure)
        {
            throw new ApiFaultException($"{NetworkError}Could not create the network device: Open tap device failed: {failure.Message} ({network.HostDevice})", inner: failure);
        }

        Put(_networks, index, network, NetworkError);
    }

    /// <summary>The sockets between guest and host, or another configuration of them.</summary>
    public void SetVsock(VsockSettings vsock)
    {
        CheckPath(vsock.SocketPath, VsockError);
        try
        {
            // The device itself makes it at the start; what would be wrong then is told now.
            _ = Descriptors.close(Sockets.Listen(vsock.SocketPath, 1));
            _ = Descriptors.unlink(vsock.SocketPath);
        }
        catch (Exception failure) when (failure is SystemCallException or ArgumentException)
        {
            throw new ApiFaultException($"{VsockError}{failure.Message} ({vsock.SocketPath})", inner: failure);
        }

        Vsock = vsock;
    }

    public DriveConfig? Drive(string id) => _drives.Find(drive => drive.Id == id);

    public NetworkConfig? Network(string id) => _networks.Find(network => network.Id == id);

    /// <summary>Another configuration of what is there; nothing is checked.</summary>
    public void Change(DriveConfig drive) => _drives[_drives.FindIndex(known => known.Id == drive.Id)] = drive;

    /// <summary>Another configuration of what is there; nothing is checked.</summary>
    public void Change(NetworkConfig network) => _networks[_networks.FindIndex(known => known.Id == network.Id)] = network;

    public void WriteDrives(Utf8JsonWriter json)
    {
        json.WriteStartArray("drives");
        foreach (var drive in _drives)
        {
            drive.Write(json);
        }

        json.WriteEndArray();
    }

    public void WriteNetworks(Utf8JsonWriter json)
    {
        json.WriteStartArray("network-interfaces");
        foreach (var network in _networks)
        {
            network.Write(json);
        }

        json.WriteEndArray();
    }

    public void WriteEntropy(Utf8JsonWriter json)
    {
        if (Entropy is null)
        {
            json.WriteNull("entropy");
            return;
        }

        json.WriteStartObject("entropy");
        json.WritePropertyName("rate_limiter");
        LimiterConfig.Write(json, Entropy);
        json.WriteEndObject();
    }

    public static void CheckPath(string path, string prefix)
    {
        if (path.Length == 0)
        {
            throw new ApiFaultException(prefix + "the path is empty.");
        }

        // The kernel would read such a path up to the NUL and so open something else than was asked for.
        if (path.Contains('\0'))
        {
            throw new ApiFaultException(prefix + "the path contains a NUL character.");
        }
    }

    /// <summary>Opens a disk's file; what goes wrong is told as the API does.</summary>
    public static void CheckDisk(string path, Action open)
    {
        CheckPath(path, DriveError);
        try
        {
            open();
        }
        catch (Exception failure) when (failure is SystemCallException or NotARegularFileException)
        {
            throw new ApiFaultException($"{DriveError}{failure.Message} ({path})", inner: failure);
        }
    }

    private void Put<T>(List<T> list, int index, T item, string prefix)
    {
        if (index >= 0)
        {
            list[index] = item;
        }
        else if (_drives.Count + _networks.Count == Most)
        {
            throw new ApiFaultException(prefix + "Could not allocate GSI: The requested resource is not available.");
        }
        else
        {
            list.Add(item);
        }
    }
}

/// <summary>Changes of a running machine's devices, kept in their configuration as well.</summary>
internal readonly struct RunningDevices(ConfiguredDevices configured, IMachine machine)
{
    private const string NoBalloon = "Balloon config error: No balloon device found.";

    private readonly ConfiguredDevices _configured = configured;
    private readonly IMachine _machine = machine;

    /// <summary>
    /// Puts another file behind a drive (null: the same one, looked at anew, unless the limits alone are to change) and
    /// changes its limits.
    /// </summary>
    public void UpdateDrive(string id, string? pathOnHost, LimiterSettings limits)
    {
        var drive = _configured.Drive(id) ?? throw new ApiFaultException("Drive config error: Device not found");
        drive = drive with { PathOnHost = pathOnHost ?? drive.PathOnHost, Limits = drive.Limits.With(limits) };
        if (pathOnHost is not null || limits == LimiterConfig.Unlimited)
        {
            var machine = _machine;
            ConfiguredDevices.CheckDisk(drive.PathOnHost, () => machine.ReplaceDisk(id, drive.PathOnHost));
        }

        _ = _machine.Retune(BlockDevice.PathOf(id), null, limits);
        _configured.Change(drive);
    }

    public void UpdateNetwork(string id, LimiterSettings received, LimiterSettings sent)
    {
        var network = _configured.Network(id) ?? throw new ApiFaultException("Network config error: Device not found");
        _ = _machine.Retune(NetDevice.PathOf(id), NetDevice.ReceiveLimiter, received);
        _ = _machine.Retune(NetDevice.PathOf(id), NetDevice.SendLimiter, sent);
        _configured.Change(network with { Received = network.Received.With(received), Sent = network.Sent.With(sent) });
    }

    public void UpdateBalloon(uint amountMib, int memoryMib)
    {
        var balloon = _configured.Balloon ?? throw new ApiFaultException(NoBalloon);
        balloon = balloon with { AmountMib = amountMib };
        CheckBalloon(balloon, memoryMib);
        _ = _machine.ResizeBalloon(amountMib * BalloonDevice.PagesPerMib);
        _configured.Balloon = balloon;
    }

    /// <summary>How often the guest is asked; whether it is at all was settled before the start.</summary>
    public void UpdateBalloonStatistics(ushort seconds)
    {
        var device = BalloonWithStatistics();
        if (seconds == 0)
        {
            throw new ApiFaultException("Balloon config error: Statistics can't be switched off after the start.");
        }

        device.PollEvery(seconds);
        _configured.Balloon = _configured.Balloon! with { StatisticsSeconds = seconds };
    }

    /// <summary>For its statistics.</summary>
    public BalloonDevice BalloonWithStatistics() => _configured.Balloon switch
    {
        null => throw new ApiFaultException(NoBalloon),
        { StatisticsSeconds: 0 } => throw new ApiFaultException("Balloon config error: Statistics for the balloon device are not enabled."),
        _ => _machine.Devices.OfType<BalloonDevice>().First(),
    };

    public static void CheckBalloon(BalloonSettings? balloon, int memoryMib)
    {
        if (balloon?.AmountMib > (uint)memoryMib)
        {
            throw new ApiFaultException($"Balloon config error: Amount of MiB requested ({balloon.AmountMib}) is larger than the microVM's memory ({memoryMib}).");
        }
    }

    public void UpdateEntropy(LimiterSettings limits)
    {
        if (!_machine.Retune(EntropyDevice.ApiPath, null, limits))
        {
            throw new ApiFaultException("Entropy config error: Device not found");
        }

        _configured.Entropy = _configured.Entropy!.With(limits);
    }
}
