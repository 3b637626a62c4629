using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Metadata;

/// <summary>
/// The metadata service's place in one network interface: takes the guest's frames for its address and makes the frames that
/// answer them. Ethernet frames without a virtio header, complete, their sums computed.
/// </summary>
/// <remarks>
/// Event loop only. Frames come from the guest and may hold anything; they must be copied before, so that they don't change
/// while they are looked at. What it keeps is bounded: connections, requests, answers, and replies that wait. Frames are made
/// when the guest has room for them, so a guest that takes none costs nothing but what it asked for.
/// </remarks>
internal sealed class MetadataNetwork(MetadataService service, uint address)
{
    /// <summary>As Firecracker's.</summary>
    public const int MostConnections = 30;

    /// <summary>What <see cref="NextFrame"/> needs.</summary>
    public const int LargestFrame = GuestFrame.Largest;

    /// <summary>Bytes of a frame that <see cref="Concerns"/> looks at.</summary>
    public const int HeadSize = GuestFrame.ArpSize;

    /// <summary>Answers to ARP and resets that wait for room; more are not made, and the guest asks again.</summary>
    private const int MostReplies = 32;

    /// <summary>Least that IPv4 itself lets a network carry, less the headers, would be 28; below this a document is thousands of frames.</summary>
    private const int LeastPayload = 100;

    /// <summary>A connection that was silent for so long may be ended in favour of a new one.</summary>
    private static readonly TimeSpan Idle = TimeSpan.FromMilliseconds(500);

    private readonly long _start = service.Clock.GetTimestamp();
    private readonly TcpConnection?[] _connections = new TcpConnection?[MostConnections];
    private readonly Reply[] _replies = new Reply[MostReplies];
    private int _firstReply;
    private int _replyCount;
    private int _turn;

    private TimeSpan Now => service.Clock.GetElapsedTime(_start);

    /// <summary>Whether <see cref="NextFrame"/> has something.</summary>
    public bool HasFrames
    {
        get
        {
            var has = _replyCount > 0;
            for (var i = 0; i < MostConnections && !has; i++)
            {
                has = _connections[i] is { HasSegment: true };
            }

            return has;
        }
    }

    /// <summary>How long until <see cref="Tick"/> is to be called, zero when it is overdue; null while nothing waits for the time.</summary>
    public TimeSpan? NextDeadline
    {
        get
        {
            TimeSpan? next = null;
            foreach (var connection in _connections)
            {
                if (connection?.Deadline is { } deadline && (next is null || deadline < next))
                {
                    next = deadline;
                }
            }

            return next is { } at ? TimeSpan.FromTicks(Math.Max(0, (at - Now).Ticks)) : null;
        }
    }

    /// <summary>Whether a frame that begins so is for us: ARP about our address, or IPv4 to it. Of longer frames <see cref="HeadSize"/> bytes will do.</summary>
    public bool Concerns(ReadOnlySpan<byte> beginning)
    {
        if (beginning.Length < GuestFrame.EthernetHeader + GuestFrame.IpHeader)
        {
            return false;
        }

        return BinaryPrimitives.ReadUInt16BigEndian(beginning[12..]) switch
        {
            GuestFrame.Ip => BinaryPrimitives.ReadUInt32BigEndian(beginning[(GuestFrame.EthernetHeader + 16)..]) == address,
            GuestFrame.Arp => beginning.Length >= GuestFrame.ArpSize
                && BinaryPrimitives.ReadUInt32BigEndian(beginning[(GuestFrame.EthernetHeader + 24)..]) == address,
            _ => false,
        };
    }

    /// <summary>
    /// Takes a frame of the guest. True when it was for us, whatever came of it: it must not go to the host's network, where
    /// somebody else may have the address.
    /// </summary>
    /// <param name="frame">The Ethernet frame.</param>
    /// <param name="checksumIsPartial">The guest left TCP's sum to the device (VIRTIO_NET_HDR_F_NEEDS_CSUM).</param>
    public bool TryTake(ReadOnlySpan<byte> frame, bool checksumIsPartial)
    {
        if (!Concerns(frame))
        {
            return false;
        }

        service.Count(MetadataCount.Received);
        if (BinaryPrimitives.ReadUInt16BigEndian(frame[12..]) == GuestFrame.Arp)
        {
            TakeArp(frame[GuestFrame.EthernetHeader..]);
        }
        else
        {
            TakeIp(frame, checksumIsPartial);
        }

        return true;
    }

    /// <summary>Writes the next frame for the guest; its length, 0 when there is none.</summary>
    /// <param name="frame">At least <see cref="LargestFrame"/> bytes.</param>
    public int NextFrame(Span<byte> frame)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(frame.Length, LargestFrame);
        var length = 0;
        if (_replyCount > 0)
        {
            ref readonly var reply = ref _replies[_firstReply];
            length = reply.IsArp
                ? GuestFrame.WriteArp(frame, address, reply.Peer)
                : GuestFrame.WriteSegment(frame, address, reply.Peer, reply.Head, []);
            _firstReply = (_firstReply + 1) % MostReplies;
            _replyCount--;
        }

        // One frame each in turn, so that a long answer does not hold up the others.
        for (var i = 0; i < MostConnections && length == 0; i++)
        {
            _turn = (_turn + 1) % MostConnections;
            if (_connections[_turn] is { } connection)
            {
                length = connection.WriteNext(frame, address, Now, out var fate);
                Settle(_turn, fate);
            }
        }

        if (length > 0)
        {
            service.Count(MetadataCount.Sends);
            service.Count(MetadataCount.SentFrames);
            service.Count(MetadataCount.SentBytes, (ulong)length);
        }

        return length;
    }

    /// <summary>Has what was not acknowledged in time sent again, and gives up what was so too often.</summary>
    public void Tick()
    {
        var now = Now;
        for (var i = 0; i < MostConnections; i++)
        {
            if (_connections[i] is { } connection)
            {
                Settle(i, connection.Tick(now));
            }
        }
    }

    private void TakeArp(ReadOnlySpan<byte> packet)
    {
        ReadOnlySpan<byte> ethernetAndIpRequest = [0, 1, 8, 0, 6, 4, 0, 1];
        if (!packet.StartsWith(ethernetAndIpRequest))
        {
            service.Count(MetadataCount.BadEthernet);
            return;
        }

        service.Count(MetadataCount.Accepted);
        Enqueue(new Reply(true, new GuestPeer(GuestFrame.ReadMac(packet[8..]), BinaryPrimitives.ReadUInt32BigEndian(packet[14..]), 0), default));
    }

    private void TakeIp(ReadOnlySpan<byte> frame, bool checksumIsPartial)
    {
        var packet = frame[GuestFrame.EthernetHeader..];
        var header = (packet[0] & 15) * 4;
        int total = BinaryPrimitives.ReadUInt16BigEndian(packet[2..]);
        if (packet[0] >> 4 != 4 || header < GuestFrame.IpHeader || total < header || total > packet.Length
            || InternetChecksum.Finish(InternetChecksum.Add(0, packet[..header])) != 0)
        {
            service.Count(MetadataCount.AcceptedWithError);
            return;
        }

        const ushort FragmentBits = 0x3fff;
        if (packet[9] != GuestFrame.Tcp || (BinaryPrimitives.ReadUInt16BigEndian(packet[6..]) & FragmentBits) != 0)
        {
            service.Count(MetadataCount.AcceptedUnusual);
            return;
        }

        var source = BinaryPrimitives.ReadUInt32BigEndian(packet[12..]);
        var bytes = packet[header..total];
        if (!TcpSegment.TryParse(bytes, out var segment) || (!checksumIsPartial && InternetChecksum.OfSegment(source, address, bytes) != 0))
        {
            service.Count(MetadataCount.AcceptedWithError);
            return;
        }

        service.Count(MetadataCount.Accepted);
        Take(new GuestPeer(GuestFrame.ReadMac(frame[6..]), source, segment.Source), segment);
    }

    private void Take(in GuestPeer peer, in TcpSegment segment)
    {
        var now = Now;
        if (segment.Destination == GuestFrame.Port)
        {
            var free = -1;
            for (var i = 0; i < MostConnections; i++)
            {
                if (_connections[i] is not { } connection)
                {
                    free = i;
                }
                else if (connection.Peer == peer)
                {
                    Settle(i, connection.Receive(segment, now));
                    return;
                }
            }

            const TcpFlags Deciding = TcpFlags.Synchronize | TcpFlags.Acknowledge | TcpFlags.Reset | TcpFlags.Finish;
            if ((segment.Flags & Deciding) == TcpFlags.Synchronize && segment.MaximumSize is 0 or >= LeastPayload)
            {
                Open(peer, segment, free, now);
                return;
            }
        }

        if (!segment.Has(TcpFlags.Reset))
        {
            // RFC 9293, §3.10.7.1.
            Enqueue(new Reply(false, peer, segment.Has(TcpFlags.Acknowledge)
                ? new SegmentHead(segment.Acknowledged, 0, TcpFlags.Reset, 0)
                : new SegmentHead(0, segment.Sequence + segment.SequenceLength, TcpFlags.Reset | TcpFlags.Acknowledge, 0)));
        }
    }

    private void Open(in GuestPeer peer, in TcpSegment opening, int free, TimeSpan now)
    {
        if (free < 0)
        {
            free = LongestSilent();
            if (now - _connections[free]!.LastHeard < Idle)
            {
                // All are busy. The guest will ask again, and something may have ended by then.
                service.Count(MetadataCount.AcceptedUnusual);
                return;
            }

            Settle(free, TcpFate.Aborted);
        }

        var first = 0u;
        RandomBytes.Fill(MemoryMarshal.AsBytes(new Span<uint>(ref first)));
        _connections[free] = new TcpConnection(service, peer, first, opening, now);
        service.Count(MetadataCount.ConnectionsCreated);
    }

    private int LongestSilent()
    {
        var longest = 0;
        for (var i = 1; i < MostConnections; i++)
        {
            if (_connections[i]!.LastHeard < _connections[longest]!.LastHeard)
            {
                longest = i;
            }
        }

        return longest;
    }

    private void Settle(int index, TcpFate fate)
    {
        if (fate == TcpFate.Goes || _connections[index] is not { } connection)
        {
            return;
        }

        if (fate == TcpFate.Aborted)
        {
            Enqueue(new Reply(false, connection.Peer, connection.Reset));
        }

        connection.Close();
        _connections[index] = null;
        service.Count(MetadataCount.ConnectionsDestroyed);
    }

    private void Enqueue(in Reply reply)
    {
        if (_replyCount == MostReplies)
        {
            service.Count(MetadataCount.SendFailures);
            return;
        }

        _replies[(_firstReply + _replyCount) % MostReplies] = reply;
        _replyCount++;
    }

    /// <summary>A frame that belongs to no connection.</summary>
    private readonly record struct Reply(bool IsArp, GuestPeer Peer, SegmentHead Head);
}
