using System.Buffers.Binary;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Devices.Virtio.Vsock;

/// <summary>What the guest's sockets to its host are made of.</summary>
/// <param name="GuestCid">The guest's address, 3 or more.</param>
/// <param name="SocketPath">Unix socket for clients of the host; a guest's connection to port P goes to this path with <c>_P</c> behind.</param>
internal sealed record VsockSettings(uint GuestCid, string SocketPath);

/// <summary>
/// Sockets between guest and host (virtio 1.2, §5.10) over Unix sockets, as Firecracker has them: streams, three queues of
/// 256. A guest that floods, lies about its buffers or never reads harms its own connections and nobody else's.
/// </summary>
internal sealed partial class VsockDevice : VirtioDevice, IDisposable
{
    public const string ApiPath = "vsock";

    private const ulong HostCid = 2;
    private const int MostConnections = 1023;
    private const int MostOrphans = 256;

    /// <summary>Bound of <see cref="Waiting"/>.</summary>
    public const int MostWaiting = MostConnections + MostOrphans;

    private const uint FirstHostPort = 1u << 30;
    private const int ReceiveQueue = 0;
    private const int TransmitQueue = 1;
    private const int EventQueue = 2;
    private const int ConfigurationSize = 8;
    private const int LargestPacket = 64 * 1024;
    private const int Backlog = 128;

    /// <summary>Of the first connections, so that a guest that sends on and on need not wait for the host's word behind each packet: 3 MiB more of the process at the most.</summary>
    public const uint LargeBuffer = 256 * 1024;
    private const int MostLargeBuffers = 16;

    private const int ReceivedBytes = 0;
    private const int ReceivedPackets = 1;
    private const int SentBytes = 2;
    private const int SentPackets = 3;
    private const int Added = 4;
    private const int Removed = 5;
    private const int Killed = 6;
    private const int Malformed = 7;

    /// <summary>For a client that does not say what it wants, a guest that does not answer, an end that is not confirmed.</summary>
    private static readonly TimeSpan DefaultPatience = TimeSpan.FromSeconds(2);

    private static readonly ushort[] Sizes = [256, 256, 256];

    private static readonly string[] MetricNames =
    [
        "rx_bytes_count", "rx_packets_count", "tx_bytes_count", "tx_packets_count", "conns_added", "conns_removed", "conns_killed", "tx_malformed_count",
    ];

    private readonly GuestMemory _memory;
    private readonly VsockSettings _settings;
    private readonly TimeProvider _clock;
    private readonly TimeSpan _patience;
    private readonly byte[] _configuration = new byte[ConfigurationSize];
    private int _listener;
    private readonly EventCounter _released = new();

    private readonly Dictionary<ulong, VsockConnection> _connections = [];
    private readonly List<VsockConnection> _newcomers = [];
    private readonly LinkedList<VsockConnection> _line = new();
    private readonly Queue<(uint HostPort, uint GuestPort)> _orphans = new();
    private readonly List<VsockConnection> _late = [];
    private uint _lastHostPort = FirstHostPort - 1;
    private IDeviceHost? _host;
    private LoopTimer? _deadlines;
    private bool _accepts;
    private bool _waits;
    private bool _tellsReset;
    private int _letGo;

    /// <summary>Makes the socket's file. Throws <see cref="SystemCallException"/> or <see cref="ArgumentException"/>.</summary>
    public VsockDevice(GuestMemory memory, VsockSettings settings, TimeProvider clock, TimeSpan? patience = null)
    {
        _patience = patience ?? DefaultPatience;
        _memory = memory;
        _settings = settings;
        _clock = clock;
        BinaryPrimitives.WriteUInt64LittleEndian(_configuration, settings.GuestCid);
        try
        {
            _listener = Sockets.Listen(settings.SocketPath, Backlog);
        }
        catch
        {
            _released.Dispose();
            throw;
        }
    }

    public override string Path => ApiPath;

    public override uint Id => 19;

    public override ulong Features => Version1 | EventIndex | IndirectDescriptors;

    public override IReadOnlyList<ushort> QueueSizes => Sizes;

    public override ReadOnlySpan<byte> Configuration => _configuration;

    public override DeviceMetrics Metrics { get; } = new("vsock", null, MetricNames);

    /// <summary>What waits for buffers of the guest: at most one packet of each connection at a time, and some resets.</summary>
    public int Waiting => _line.Count + _orphans.Count;

    private long Now => _clock.GetElapsedTime(0).Ticks;

    public override void Attend(IDeviceHost host)
    {
        _host = host;
        host.Loop.Add(_released.Descriptor, OnReleased);
        host.Loop.Add(_listener, OnClient);
        _accepts = true;
        _deadlines = new LoopTimer(host.Loop, OnDeadlines);
        foreach (var connection in _newcomers)
        {
            Watch(connection);
        }

        foreach (var connection in _connections.Values)
        {
            Watch(connection);
        }

        WatchDeadlines();
    }

    public override void Leave()
    {
        if (_host is not { Loop: var loop })
        {
            return;
        }

        foreach (var connection in _newcomers)
        {
            connection.Ignore(loop);
        }

        foreach (var connection in _connections.Values)
        {
            connection.Ignore(loop);
        }

        loop.Remove(_released.Descriptor);
        loop.Remove(_listener);
        _deadlines?.Dispose();
        _deadlines = null;
        _waits = false;
        _host = null;
    }

    /// <summary>The driver let go. This may be a vCPU's thread; sockets are the loop's.</summary>
    public override void Reset()
    {
        Volatile.Write(ref _letGo, 1);
        _released.Signal();
    }

    /// <summary>Connections do not come along: the guest is told that all are gone.</summary>
    public override bool Restore(ref StateReader reader)
    {
        ResetConnections();
        return false;
    }

    /// <summary>Ends every connection and has the guest told that all are gone: it was restored from a snapshot.</summary>
    public void ResetConnections()
    {
        EndAll();
        _tellsReset = true;
    }

    public override TimeSpan? Process(int queue)
    {
        EndWhenReleased();
        switch (queue)
        {
            case ReceiveQueue:
                return ProcessReceive();
            case TransmitQueue:
                var again = base.Process(queue);
                return Queues[ReceiveQueue].IsEnabled ? Sooner(again, ProcessReceive()) : again;
            default:
                ProcessEvents();
                return null;
        }
    }

    public void Dispose()
    {
        Leave();
        EndAll();
        if (_listener >= 0)
        {
            _ = Descriptors.close(_listener);
            _ = Descriptors.unlink(_settings.SocketPath);
            _released.Dispose();
            _listener = -1;
        }
    }

    protected override uint? Serve(int queue, VirtQueue request, ushort head)
    {
        Span<byte> bytes = stackalloc byte[VsockHeader.Size];
        var rest = bytes;
        foreach (var buffer in request.Readable)
        {
            var part = Math.Min(rest.Length, buffer.Length);
            _memory.View(buffer.Address, part).CopyTo(rest);
            rest = rest[part..];
        }

        var header = VsockHeader.Read(bytes);
        if (!rest.IsEmpty || header.Length > LargestPacket || header.Length > VirtQueue.LengthOf(request.Readable) - VsockHeader.Size
            || (header.Operation != VsockOperation.Data && header.Length > 0))
        {
            Metrics.Add(Malformed);
        }
        else if (header.SourceCid == _settings.GuestCid && header.TargetCid == HostCid)
        {
            Metrics.Add(SentPackets);
            Metrics.Add(SentBytes, header.Length);
            Take(header, request.Readable);
        }

        return 0;
    }

    private void Take(in VsockHeader packet, ReadOnlySpan<GuestBuffer> buffers)
    {
        if (packet.Type != VsockHeader.Stream)
        {
            Orphan(packet.TargetPort, packet.SourcePort);
            return;
        }

        if (!_connections.TryGetValue(Key(packet.TargetPort, packet.SourcePort), out var connection))
        {
            if (packet.Operation == VsockOperation.Request)
            {
                Connect(packet);
            }
            else if (packet.Operation != VsockOperation.Reset)
            {
                Orphan(packet.TargetPort, packet.SourcePort);
            }

            return;
        }

        var flow = connection.Flow!;
        switch (flow.Take(packet))
        {
            case VsockVerdict.Connected:
                connection.Deadline = long.MaxValue;
                if (!connection.Welcome())
                {
                    flow.Reset();
                }

                break;
            case VsockVerdict.Data when !connection.Deliver(_memory, buffers, VsockHeader.Size, packet.Length):
                flow.Reset();
                break;
            case VsockVerdict.GuestShut:
                CloseWhatIsShut(connection);
                break;
            case VsockVerdict.Ended:
                End(connection);
                return;
            case VsockVerdict.Refused:
                Metrics.Add(Killed);
                break;
        }

        Schedule(connection);
    }

    // Sends what the connections have, one packet each in turn, while the guest has buffers.
    private TimeSpan? ProcessReceive()
    {
        var queue = Queues[ReceiveQueue];
        TimeSpan? again = null;
        var budget = (int)queue.Size;
        while (_line.Count + _orphans.Count > 0)
        {
            if (budget-- == 0)
            {
                again = TimeSpan.Zero;
                break;
            }

            if (!queue.TryTake(out var head))
            {
                if (queue.AskForNotification())
                {
                    continue;
                }

                break;
            }

            var room = VirtQueue.LengthOf(queue.Writable) - VsockHeader.Size;
            if (room < 0)
            {
                throw new VirtQueueException("a buffer too small for a packet's header");
            }

            if (TrySend(queue.Writable, Math.Min(room, LargestPacket), out var length))
            {
                Metrics.Add(ReceivedPackets);
                Metrics.Add(ReceivedBytes, (ulong)length);
                queue.AddUsed(head, (uint)(VsockHeader.Size + length));
            }
            else
            {
                queue.PutBack();
            }
        }

        if (queue.TakeInterruptNeed())
        {
            Interrupt();
        }

        return again;
    }

    // The next packet of the first in line; false when it turned out to have none.
    private bool TrySend(ReadOnlySpan<GuestBuffer> buffers, long room, out int length)
    {
        length = 0;
        if (_orphans.TryDequeue(out var orphan))
        {
            Write(buffers, orphan.HostPort, orphan.GuestPort, VsockOperation.Reset, 0, 0, VsockFlow.SmallBuffer, 0);
            return true;
        }

        var connection = _line.First!.Value;
        _line.RemoveFirst();
        var flow = connection.Flow!;
        if (flow.HasDue)
        {
            var (operation, flags) = flow.TakeDue();
            Write(buffers, connection.HostPort, connection.GuestPort, operation, flags, 0, flow.BufferSize, flow.TellForwarded());
            if (flow.HasEnded)
            {
                End(connection);
            }
            else
            {
                Schedule(connection);
            }

            return true;
        }

        var most = Math.Min(room, flow.Credit);
        var got = most > 0 && connection.MayRead ? connection.Read(_memory, buffers, VsockHeader.Size, most) : -1;
        if (got <= 0)
        {
            // Without room or credit nothing was read: there may be bytes still.
            connection.MayRead &= most == 0;
            if (got == 0)
            {
                flow.ShutHost(VsockShutdown.SendsNoMore);
                CloseWhatIsShut(connection);
            }

            Schedule(connection);
            return false;
        }

        flow.Send((uint)got);
        Write(buffers, connection.HostPort, connection.GuestPort, VsockOperation.Data, 0, (uint)got, flow.BufferSize, flow.TellForwarded());
        length = got;
        Schedule(connection);
        return true;
    }

    private void Write(ReadOnlySpan<GuestBuffer> buffers, uint hostPort, uint guestPort, VsockOperation operation, uint flags, uint length, uint bufferSize, uint forwarded)
    {
        Span<byte> bytes = stackalloc byte[VsockHeader.Size];
        new VsockHeader(HostCid, _settings.GuestCid, hostPort, guestPort, length, VsockHeader.Stream, operation, flags, bufferSize, forwarded).Write(bytes);
        foreach (var buffer in buffers)
        {
            var part = Math.Min(bytes.Length, buffer.Length);
            bytes[..part].CopyTo(_memory.Slice(buffer.Address, part));
            bytes = bytes[part..];
        }
    }

    private void ProcessEvents()
    {
        var queue = Queues[EventQueue];
        if (_tellsReset && queue.TryTake(out var head))
        {
            // VIRTIO_VSOCK_EVENT_TRANSPORT_RESET is 0.
            if (queue.Writable is not [{ Length: >= 4 } buffer, ..])
            {
                throw new VirtQueueException("an event buffer of less than four bytes");
            }

            _memory.Slice(buffer.Address, 4).Clear();
            queue.AddUsed(head, 4);
            _tellsReset = false;
        }

        if (queue.TakeInterruptNeed())
        {
            Interrupt();
        }
    }

    // Once the guest sends no more and everything is given to the host, the host hears the end; when both directions are
    // over the connection is.
    private void CloseWhatIsShut(VsockConnection connection)
    {
        var flow = connection.Flow!;
        if ((flow.GuestShut & VsockShutdown.SendsNoMore) != 0 && !connection.HoldsBytes)
        {
            connection.ShutSending();
            if ((flow.GuestShut & VsockShutdown.ReceivesNoMore) != 0 || (flow.HostShut & VsockShutdown.SendsNoMore) != 0)
            {
                flow.Reset();
                Schedule(connection);
            }
        }

        if (flow.HostShut == VsockShutdown.Both && connection.Deadline == long.MaxValue)
        {
            connection.Deadline = Now + _patience.Ticks;
            WatchDeadlines();
        }
    }

    private void Schedule(VsockConnection connection)
    {
        if (_host is not null)
        {
            connection.Adjust(_host.Loop);
        }

        if (!connection.IsInLine && connection.HasSomethingForGuest)
        {
            _line.AddLast(connection.PlaceInLine);
        }
    }

    private void Orphan(uint hostPort, uint guestPort)
    {
        // Beyond that a guest that floods goes without an answer.
        if (_orphans.Count < MostOrphans)
        {
            _orphans.Enqueue((hostPort, guestPort));
        }
    }
}
