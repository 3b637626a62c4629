using System.Buffers.Binary;
using System.Net.Sockets;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Devices.Virtio.Vsock;
using Fleet.Vmm.Metadata;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Tests.Metadata;

namespace Fleet.Vmm.Tests.Fuzz;

internal sealed class EntropyTarget : DeviceTarget
{
    public EntropyTarget() => Use(new EntropyDevice(Memory, new LimiterSettings(null, null), TimeProvider.System));

    public override string Name => "entropy";

    protected override int Readable(FuzzRandom random, int queue, int buffers) => Breaks(random) ? random.Below(buffers + 1) : 0;
}

/// <summary>A disk; its file keeps its size whatever is asked, and its content when it is read-only.</summary>
internal sealed class BlockTarget : DeviceTarget
{
    private const int Sectors = 64;

    private readonly bool _asynchronous;
    private readonly bool _readOnly;
    private readonly string _path = Path.GetTempFileName();
    private readonly byte[] _content = new byte[(Sectors * 512) + 100];

    public BlockTarget(bool asynchronous, bool readOnly)
    {
        _asynchronous = asynchronous;
        _readOnly = readOnly;
        new Random(1).NextBytes(_content);
        File.WriteAllBytes(_path, _content);
        Use(new BlockDevice(
            Memory, new DiskSettings("disk", _path, readOnly, Flushes: true, asynchronous, new LimiterSettings(null, null)), TimeProvider.System));
    }

    public override string Name => (_asynchronous ? "block io_uring" : "block") + (_readOnly ? " read-only" : "");

    public override string? Check()
    {
        var now = File.ReadAllBytes(_path);
        var kept = _readOnly ? 0 : Sectors * 512;
        return !now.AsSpan(kept).SequenceEqual(_content.AsSpan(kept)) ? "the disk's file is not what it should be" : base.Check();
    }

    public override void Dispose()
    {
        base.Dispose();
        File.Delete(_path);
    }

    protected override int Readable(FuzzRandom random, int queue, int buffers) => Breaks(random) ? random.Below(buffers + 1) : Math.Min(1 + random.Below(buffers), buffers - 1);

    protected override void FillHeader(FuzzRandom random, Span<byte> header)
    {
        // A flush costs a write to the host's disk: seldom.
        BinaryPrimitives.WriteUInt32LittleEndian(header, random.OneIn(10) ? (uint)random.Wild() : random.Pick<uint>([0, 1, 8]));
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], random.OneIn(5) ? random.Wild() : (ulong)random.Below(Sectors + 2));
    }
}

internal sealed class NetTarget : DeviceTarget
{
    private readonly Port _port = new();

    public NetTarget()
    {
        var unlimited = new LimiterSettings(null, null);
        var service = new MetadataService(51200, TimeProvider.System)
        {
            Settings = new MetadataSettings(["eth0"], NeedsToken: false, Service.Address, AlwaysText: false),
        };
        Use(new NetDevice(
            Memory, new NetworkSettings("eth0", "none", 0x020000000001, 1500, unlimited, unlimited), _port, TimeProvider.System, new MetadataNetwork(service, Service.Address)));
    }

    public override string Name => "net";

    public override string? Check() => _port.Longest > NetDevice.LargestFrame ? $"a frame of {_port.Longest} bytes was sent" : base.Check();

    protected override void BeforeRequests(FuzzRandom random) => _port.Waiting = random.Below(6);

    // Half of the frames are for the metadata service: connections opened, and what comes next, with right and wrong sums.
    protected override void FillHeader(FuzzRandom random, Span<byte> header)
    {
        if (random.OneIn(2))
        {
            header[..NetDevice.HeaderSize].Clear();
            header[0] = (byte)(random.OneIn(2) ? 1 : 0);
            GuestStack.Tcp((ushort)(1000 + random.Below(40)), (uint)random.Below(3), (uint)random.Next(), random.Pick<byte>([2, 2, 16, 17, 24, 4]), [])
                .CopyTo(header[NetDevice.HeaderSize..]);
        }
    }

    protected override int Readable(FuzzRandom random, int queue, int buffers) =>
        Breaks(random) ? random.Below(buffers + 1) : queue == 0 ? 0 : buffers;

    /// <summary>Frames of all sizes come in; those that go out are measured.</summary>
    private sealed class Port : INetworkPort
    {
        private readonly FuzzRandom _random = new(3);

        public int Waiting { get; set; }

        public long Longest { get; private set; }

        public int Descriptor => -1;

        public void SetOffloads(NetworkOffloads offloads)
        {
        }

        public int Receive(Span<byte> frame)
        {
            if (Waiting == 0)
            {
                return 0;
            }

            Waiting--;
            return _random.OneIn(5) ? _random.Below(frame.Length + 1) : 12 + _random.Below(3000);
        }

        public bool Send(ReadOnlySpan<GuestBuffer> buffers)
        {
            Longest = Math.Max(Longest, VirtQueue.LengthOf(buffers));
            return !_random.OneIn(50);
        }

        public void Dispose()
        {
        }
    }
}

/// <summary>Sockets of a guest that floods, lies and mixes up its connections; one program of the host listens and never reads.</summary>
internal sealed class VsockTarget : DeviceTarget
{
    private const uint Cid = 42;
    private const uint Port = 77;

    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-fuzz-").FullName;
    private readonly Socket _listener = new(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
    private readonly VsockDevice _device;

    public VsockTarget()
    {
        var path = Path.Combine(_folder, "v");
        _listener.Bind(new UnixDomainSocketEndPoint($"{path}_{Port}"));
        _listener.Listen(8);
        _device = new VsockDevice(Memory, new VsockSettings(Cid, path), TimeProvider.System);
        Use(_device);
    }

    public override string Name => "vsock";

    public override string? Check() => _device.Waiting > VsockDevice.MostWaiting ? $"{_device.Waiting} wait for buffers" : base.Check();

    public override void Dispose()
    {
        base.Dispose();
        _listener.Dispose();
        Directory.Delete(_folder, recursive: true);
    }

    protected override void BeforeRequests(FuzzRandom random)
    {
        // So that the guest can be connected again.
        while (_listener.Poll(0, SelectMode.SelectRead))
        {
            _listener.Accept().Dispose();
        }
    }

    protected override int Readable(FuzzRandom random, int queue, int buffers) => Breaks(random) ? random.Below(buffers + 1) : queue == 1 ? buffers : 0;

    protected override void FillHeader(FuzzRandom random, Span<byte> header) =>
        new VsockHeader(
            Breaks(random) ? random.Wild() : Cid,
            Breaks(random) ? random.Wild() : 2,
            1000u + (uint)random.Below(2),
            Breaks(random) ? (uint)random.Wild() : Port + (uint)(random.OneIn(10) ? 1 : 0),
            random.OneIn(3) ? 0 : random.OneIn(5) ? (uint)random.Wild() : (uint)random.Below(2000),
            (ushort)(random.OneIn(20) ? random.Wild() : 1),
            (VsockOperation)(random.OneIn(10) ? (ushort)random.Wild() : random.Pick<ushort>([1, 1, 1, 3, 4, 5, 5, 5, 6, 7])),
            (uint)random.Below(5),
            random.OneIn(4) ? (uint)random.Wild() : 65536,
            random.OneIn(4) ? (uint)random.Wild() : 0).Write(header);
}

internal sealed class BalloonTarget : DeviceTarget
{
    public BalloonTarget() => Use(new BalloonDevice(Memory, new BalloonSettings(0, true, 1, true)));

    public override string Name => "balloon";

    protected override int Readable(FuzzRandom random, int queue, int buffers) => Breaks(random) ? random.Below(buffers + 1) : queue == 3 ? 0 : buffers;

    // Pages in the guest's memory, and a few that are not.
    protected override void FillHeader(FuzzRandom random, Span<byte> header)
    {
        for (var at = 0; at < header.Length; at += 4)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(header[at..], Breaks(random) ? (uint)random.Wild() : (uint)random.Below(257));
        }
    }
}
