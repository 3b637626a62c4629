using System.Buffers.Binary;
using System.Diagnostics;
using System.Net;
using System.Runtime.InteropServices;

namespace Fleet.Chaos.Network;

/// <summary>How packets fare in one direction between two nodes.</summary>
/// <param name="Cut">None arrives.</param>
/// <param name="DelayMs">How late one arrives at least.</param>
/// <param name="JitterMs">And how much later at most: so that they overtake each other.</param>
/// <param name="Loss">How many of 1 get lost.</param>
/// <param name="Twice">How many of 1 arrive twice.</param>
internal readonly record struct Way(bool Cut = false, int DelayMs = 0, int JitterMs = 0, double Loss = 0, double Twice = 0);

/// <summary>
/// Joins network namespaces: carries each packet to the node that it is for, as the ways between the two say. In our own process, since not every
/// kernel has netem, and since nothing of it outlives us.
/// </summary>
internal sealed unsafe partial class PacketSwitch : IDisposable
{
    private const int LargestPacket = 65_536;
    private const int MostDelayed = 20_000;
    private const short Readable = 1;

    private readonly Dictionary<uint, int> _nodes;
    private readonly int[] _tuns;
    private readonly Way[] _ways;
    private readonly Lock _gate = new();
    private readonly PriorityQueue<(int To, byte[] Packet), long> _late = new();
    private readonly Random _random = new();
    private readonly byte[] _packet = new byte[LargestPacket];
    private readonly Thread _thread;
    private volatile bool _over;

    /// <param name="nodes">Address and tun of each; node numbers are their places.</param>
    public PacketSwitch(IReadOnlyList<(string Address, int Tun)> nodes)
    {
        _nodes = nodes.Select((node, at) => (Key: BinaryPrimitives.ReadUInt32BigEndian(IPAddress.Parse(node.Address).GetAddressBytes()), at)).ToDictionary(node => node.Key, node => node.at);
        _tuns = [.. nodes.Select(node => node.Tun)];
        _ways = new Way[nodes.Count * nodes.Count];
        _thread = new Thread(Carry) { IsBackground = true, Name = "switch" };
        _thread.Start();
    }

    public int Count => _tuns.Length;

    /// <summary>From now on, for what one node sends to another.</summary>
    public void Set(int from, int to, Way way)
    {
        lock (_gate)
            _ways[(from * Count) + to] = way;
    }

    public void Dispose()
    {
        _over = true;
        _thread.Join();
    }

    private void Carry()
    {
        var polled = new PollEntry[Count];
        for (var i = 0; i < Count; i++)
            polled[i] = new PollEntry { Descriptor = _tuns[i], Events = Readable };
        while (!_over)
        {
            int ready;
            // SAFETY: pinned for the call, count as given.
            fixed (PollEntry* entries = polled)
                ready = poll(entries, (nuint)Count, Patience());
            for (var from = 0; ready > 0 && from < Count; from++)
            {
                if ((polled[from].Happened & Readable) != 0)
                    Drain(from);
            }

            Deliver();
        }
    }

    private int Patience() => _late.TryPeek(out _, out var due) ? (int)Math.Clamp(due - Now, 0, 50) : 50;

    private static long Now => Stopwatch.GetTimestamp() / (Stopwatch.Frequency / 1000);

    private void Drain(int from)
    {
        // SAFETY: the buffer is pinned while it is read into and written from, with its length.
        fixed (byte* packet = _packet)
        {
            // Bounded, so that one that floods does not keep the others waiting.
            for (var i = 0; i < 64; i++)
            {
                var length = (int)read(_tuns[from], packet, LargestPacket);
                if (length <= 0)
                    return;
                // IPv4 only, its destination at 16: what else the kernel says by itself is for nobody.
                if (length < 20 || packet[0] >> 4 != 4
                    || !_nodes.TryGetValue(BinaryPrimitives.ReadUInt32BigEndian(new ReadOnlySpan<byte>(packet + 16, 4)), out var to))
                {
                    continue;
                }

                Way way;
                lock (_gate)
                    way = _ways[(from * Count) + to];
                if (way.Cut || (way.Loss > 0 && _random.NextDouble() < way.Loss))
                    continue;
                var copies = way.Twice > 0 && _random.NextDouble() < way.Twice ? 2 : 1;
                for (var copy = 0; copy < copies; copy++)
                {
                    var delay = way.DelayMs + (way.JitterMs > 0 ? _random.Next(way.JitterMs) : 0);
                    if (delay == 0)
                        _ = write(_tuns[to], packet, length);
                    else if (_late.Count < MostDelayed)
                        _late.Enqueue((to, new ReadOnlySpan<byte>(packet, length).ToArray()), Now + delay);
                }
            }
        }
    }

    private void Deliver()
    {
        while (_late.TryPeek(out var late, out var due) && due <= Now)
        {
            _late.Dequeue();
            // SAFETY: pinned for the call, length as given.
            fixed (byte* packet = late.Packet)
                _ = write(_tuns[late.To], packet, late.Packet.Length);
        }
    }

    private struct PollEntry
    {
        public int Descriptor;
        public short Events;
        public short Happened;
    }

    [LibraryImport("libc")]
    private static partial int poll(PollEntry* entries, nuint count, int milliseconds);

    [LibraryImport("libc")]
    private static partial nint read(int descriptor, byte* buffer, nint length);

    [LibraryImport("libc")]
    private static partial nint write(int descriptor, byte* buffer, nint length);
}
