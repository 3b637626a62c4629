using System.Buffers.Binary;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Metadata;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>What a network interface is made of.</summary>
/// <param name="Id">Its name at the API.</param>
/// <param name="HostDevice">The tap interface on the host.</param>
/// <param name="Mac">Six bytes in an integer, the first one highest; null: the guest chooses for itself.</param>
/// <param name="Mtu">What the guest is told; null: nothing.</param>
/// <param name="Received">Limits of frames to the guest.</param>
/// <param name="Sent">Limits of frames from the guest.</param>
internal sealed record NetworkSettings(string Id, string HostDevice, ulong? Mac, ushort? Mtu, LimiterSettings Received, LimiterSettings Sent);

/// <summary>
/// A network interface (virtio 1.2, §5.1) with a receive and a transmit queue of 256 over a tap of the host: check sums and
/// segmentation are left to whoever can do them, received frames go into as many buffers as they need.
/// </summary>
/// <remarks>
/// A frame for which the guest has no buffers, or which its limiter does not admit yet, waits here; the ones behind it wait
/// in the tap, which drops what it has no room for. Meanwhile nobody listens to the tap: epoll would tell without end.
/// </remarks>
internal sealed class NetDevice : VirtioDevice, IDisposable
{
    /// <summary>struct virtio_net_hdr_v1.</summary>
    public const int HeaderSize = 12;

    /// <summary>Largest frame with its header: 64 KiB of IPv4, Ethernet's header, and a bit.</summary>
    public const int LargestFrame = 65562 + HeaderSize;

    /// <summary>Name of the limiter of frames to the guest.</summary>
    public const string ReceiveLimiter = "rx";

    /// <summary>Name of the limiter of frames from the guest.</summary>
    public const string SendLimiter = "tx";

    private const int ReceiveQueue = 0;
    private const int TransmitQueue = 1;
    private const int EthernetHeader = 14;
    private const int CountOffset = 10;
    private const int ConfigurationSize = 12;

    private const ulong GuestChecksum = 1 << 1;
    private const ulong OffersMtu = 1 << 3;
    private const ulong OffersMac = 1 << 5;
    private const ulong GuestTso4 = 1 << 7;
    private const ulong GuestTso6 = 1 << 8;
    private const ulong GuestUfo = 1 << 10;
    private const ulong MergesBuffers = 1 << 15;

    // HOST_CSUM, HOST_TSO4, HOST_TSO6, HOST_UFO: the tap takes frames whose check sums and segmentation are still to be done.
    private const ulong HostOffloads = 1 << 0 | 1 << 11 | 1 << 12 | 1 << 14;

    private const int ReceivedBytes = 0;
    private const int ReceivedFrames = 1;
    private const int ReceiveFailures = 2;
    private const int ReceiveWithoutBuffer = 3;
    private const int ReceiveThrottled = 4;
    private const int SentBytes = 5;
    private const int SentFrames = 6;
    private const int SendFailures = 7;
    private const int MalformedFrames = 8;
    private const int SendThrottled = 9;

    private static readonly ushort[] Sizes = [256, 256];

    private static readonly string[] MetricNames =
    [
        "rx_bytes_count", "rx_packets_count", "rx_fails", "no_rx_avail_buffer", "rx_rate_limiter_throttled",
        "tx_bytes_count", "tx_packets_count", "tx_fails", "tx_malformed_frames", "tx_rate_limiter_throttled",
    ];

    private readonly GuestMemory _memory;
    private readonly NetworkSettings _settings;
    private readonly INetworkPort _port;
    private readonly RateLimiter _received;
    private readonly RateLimiter _sent;
    private readonly byte[] _configuration = new byte[ConfigurationSize];

    // The frame that is on its way to the guest, and what it is put into.
    private readonly LazyBuffer _frame = new(LargestFrame);
    private readonly GuestBuffer[] _pieces = new GuestBuffer[256];
    private readonly (ushort Head, int Length)[] _chains = new (ushort, int)[256];
    private int _waiting;
    private bool _admitted;
    private bool _merges;

    // The metadata service, and the frame for it, whole and out of the guest's reach.
    private readonly MetadataNetwork? _metadata;
    private readonly LazyBuffer _metadataFrame = new(LargestFrame);

    private IDeviceHost? _host;
    private bool _listens;

    /// <summary>Owns the port from now on.</summary>
    public NetDevice(GuestMemory memory, NetworkSettings settings, INetworkPort port, TimeProvider clock, MetadataNetwork? metadata = null)
    {
        _metadata = metadata;
        _memory = memory;
        _settings = settings;
        _port = port;
        _received = new RateLimiter(settings.Received, clock);
        _sent = new RateLimiter(settings.Sent, clock);
        Metrics = new DeviceMetrics("net", settings.Id, MetricNames);
        Limiters = [new(ReceiveLimiter, _received), new(SendLimiter, _sent)];
        for (var i = 0; settings.Mac is { } mac && i < 6; i++)
        {
            _configuration[i] = (byte)(mac >> (8 * (5 - i)));
        }

        BinaryPrimitives.WriteUInt16LittleEndian(_configuration.AsSpan(10), settings.Mtu ?? 0);
    }

    public override string Path => PathOf(_settings.Id);

    public override uint Id => 1;

    public override ulong Features =>
        Version1 | EventIndex | IndirectDescriptors | MergesBuffers | HostOffloads | GuestChecksum | GuestTso4 | GuestTso6 | GuestUfo
        | (_settings.Mac is null ? 0 : OffersMac) | (_settings.Mtu is null ? 0 : OffersMtu);

    public override IReadOnlyList<ushort> QueueSizes => Sizes;

    public override ReadOnlySpan<byte> Configuration => _configuration;

    public override DeviceMetrics Metrics { get; }

    public override IReadOnlyList<QueueLimiter> Limiters { get; }

    /// <summary>Place in the API of the interface with an id.</summary>
    public static string PathOf(string id) => "network-interfaces/" + id;

    public override RateLimiter LimiterOf(int queue) => queue == ReceiveQueue ? _received : _sent;

    public override void Activate(ulong features)
    {
        _merges = (features & MergesBuffers) != 0;
        _port.SetOffloads(
            Translate(features, GuestChecksum, NetworkOffloads.Checksum) | Translate(features, GuestTso4, NetworkOffloads.Tso4)
            | Translate(features, GuestTso6, NetworkOffloads.Tso6) | Translate(features, GuestUfo, NetworkOffloads.Ufo));
    }

    public override void Reset()
    {
        _waiting = 0;
        _admitted = false;
    }

    public override void Attend(IDeviceHost host)
    {
        _host = host;
        _listens = false;
        host.Loop.Add(_port.Descriptor, LoopEvents.None, OnPort);
    }

    public override void Leave()
    {
        _host?.Loop.Remove(_port.Descriptor);
        _host = null;
    }

    public override TimeSpan? Process(int queue)
    {
        if (_metadata is null)
        {
            return queue == ReceiveQueue ? ProcessReceived() : base.Process(queue);
        }

        _metadata.Tick();
        var again = queue == ReceiveQueue ? null : base.Process(queue);

        // Answers do not wait until the guest gives back a buffer or the host has a frame.
        if (queue == ReceiveQueue || (Queues[ReceiveQueue].IsEnabled && (_waiting > 0 || _metadata.HasFrames)))
        {
            again = Sooner(again, ProcessReceived());
        }

        return Sooner(again, _metadata.NextDeadline);
    }

    public void Dispose()
    {
        Leave();
        _port.Dispose();
        _frame.Dispose();
        _metadataFrame.Dispose();
    }

    protected override void OnThrottled() => Metrics.Add(SendThrottled);

    protected override ulong Weigh(VirtQueue request) => (ulong)Math.Max(0, VirtQueue.LengthOf(request.Readable) - HeaderSize);

    protected override uint? Serve(int queue, VirtQueue request, ushort head)
    {
        var length = VirtQueue.LengthOf(request.Readable);
        if (length is < HeaderSize + EthernetHeader or > LargestFrame)
        {
            Metrics.Add(MalformedFrames);
        }
        else if (_metadata is not null && IsForMetadata(request.Readable))
        {
            Metrics.Add(SentFrames);
            Metrics.Add(SentBytes, (ulong)(length - HeaderSize));
        }
        else if (_port.Send(request.Readable))
        {
            Metrics.Add(SentFrames);
            Metrics.Add(SentBytes, (ulong)(length - HeaderSize));
        }
        else
        {
            Metrics.Add(SendFailures);
        }

        return 0;
    }

    private TimeSpan? ProcessReceived()
    {
        var queue = Queues[ReceiveQueue];
        TimeSpan? again = TimeSpan.Zero;
        var listen = false;
        for (var budget = (int)queue.Size; budget > 0; budget--)
        {
            if (_waiting == 0)
            {
                _waiting = NextReceived();
                _admitted = false;
            }

            if (_waiting <= HeaderSize)
            {
                _waiting = 0;
                again = null;
                listen = true;
                break;
            }

            if (!_admitted)
            {
                if (!_received.TryTake((ulong)(_waiting - HeaderSize), out var wait))
                {
                    Metrics.Add(ReceiveThrottled);
                    again = wait;
                    break;
                }

                _admitted = true;
            }

            if (!TryDeliver(queue))
            {
                again = null;
                break;
            }
        }

        Listen(listen);
        if (queue.TakeInterruptNeed())
        {
            Interrupt();
        }

        return again;
    }

    private int NextReceived()
    {
        var frame = _frame.Bytes;
        if (_metadata?.NextFrame(frame[HeaderSize..]) is { } length and > 0)
        {
            frame[..HeaderSize].Clear();
            return HeaderSize + length;
        }

        return _port.Receive(frame);
    }

    // Most frames are not, and their heads tell. What the guest changes in its memory between looking and sending it could
    // have sent at once: this keeps honest guests' requests from the host's network, not hostile frames.
    private bool IsForMetadata(ReadOnlySpan<GuestBuffer> buffers)
    {
        const byte ChecksumIsPartial = 1;
        Span<byte> head = stackalloc byte[HeaderSize + MetadataNetwork.HeadSize];
        if (!_metadata!.Concerns(head[..Gather(buffers, head)][HeaderSize..]))
        {
            return false;
        }

        var frame = _metadataFrame.Bytes;
        frame = frame[..Gather(buffers, frame)];
        return _metadata.TryTake(frame[HeaderSize..], (frame[0] & ChecksumIsPartial) != 0);
    }

    // Copies as much as there is, or there is room for; how much that was.
    private int Gather(ReadOnlySpan<GuestBuffer> buffers, Span<byte> target)
    {
        var length = 0;
        foreach (var buffer in buffers)
        {
            var part = Math.Min(buffer.Length, target.Length - length);
            if (part > 0)
            {
                _memory.View(buffer.Address, part).CopyTo(target[length..]);
                length += part;
            }
        }

        return length;
    }

    // False when the guest has no buffers for the frame that waits; the driver will notify of new ones.
    private bool TryDeliver(VirtQueue queue)
    {
        var frame = _frame.Bytes[.._waiting];
        int count;
        while (!TryGather(queue, frame.Length, out count))
        {
            if (!queue.AskForNotification(count))
            {
                Metrics.Add(ReceiveWithoutBuffer);
                return false;
            }
        }

        if (count == 0)
        {
            // One buffer is all it may fill, and the frame is longer; or the buffers are in too many pieces.
            Metrics.Add(ReceiveFailures);
            _waiting = 0;
            return true;
        }

        BinaryPrimitives.WriteUInt16LittleEndian(frame[CountOffset..], (ushort)count);
        Scatter(frame);
        var left = frame.Length;
        for (var i = 0; i < count; i++)
        {
            var part = Math.Min(left, _chains[i].Length);
            queue.StageUsed(_chains[i].Head, (uint)part);
            left -= part;
        }

        queue.PublishUsed();
        Metrics.Add(ReceivedFrames);
        Metrics.Add(ReceivedBytes, (ulong)(frame.Length - HeaderSize));
        _waiting = 0;
        return true;
    }

    // Takes chains until they hold so many bytes, and says how many; 0 when the first is too short and more are not allowed,
    // or when they are in too many pieces.
    // False when the guest has too few; then all are put back, and count is how many there were.
    private bool TryGather(VirtQueue queue, int length, out int count)
    {
        var pieces = 0;
        var room = 0L;
        for (count = 0; room < length; count++)
        {
            if (count == _chains.Length || !queue.TryTake(out var head))
            {
                queue.PutBack(count);
                return false;
            }

            var chain = queue.Writable;
            if (pieces + chain.Length > _pieces.Length)
            {
                // Lawful, and senseless: the frame goes without, like one that is too long.
                queue.PutBack(count + 1);
                count = 0;
                return true;
            }

            var size = VirtQueue.LengthOf(chain);
            if (size < HeaderSize)
            {
                throw new VirtQueueException($"a buffer of {size} bytes for a frame's header of {HeaderSize}");
            }

            chain.CopyTo(_pieces.AsSpan(pieces));
            pieces += chain.Length;
            _chains[count] = (head, (int)Math.Min(size, int.MaxValue));
            room += size;
            if (!_merges && room < length)
            {
                queue.PutBack(1);
                count = 0;
                return true;
            }
        }

        return true;
    }

    private void Scatter(ReadOnlySpan<byte> frame)
    {
        for (var i = 0; !frame.IsEmpty; i++)
        {
            var part = Math.Min(frame.Length, _pieces[i].Length);
            frame[..part].CopyTo(_memory.Slice(_pieces[i].Address, part));
            frame = frame[part..];
        }
    }

    private void OnPort(LoopEvents events)
    {
        if ((events & (LoopEvents.Failed | LoopEvents.HungUp)) != 0)
        {
            _host!.Warn($"The network interface {_settings.Id} is cut off: the host's {_settings.HostDevice} is gone.");
            Leave();
        }
        else if (!_host!.Process(ReceiveQueue))
        {
            Listen(false);
        }
    }

    private void Listen(bool on)
    {
        if (on != _listens && _host is not null)
        {
            _host.Loop.Change(_port.Descriptor, on ? LoopEvents.Readable : LoopEvents.None);
            _listens = on;
        }
    }

    private static NetworkOffloads Translate(ulong features, ulong feature, NetworkOffloads offload) =>
        (features & feature) != 0 ? offload : NetworkOffloads.None;
}
