using System.Buffers.Binary;

namespace Fleet.Vmm.Metadata;

/// <summary>Who in the guest is spoken with.</summary>
/// <param name="Mac">Six bytes in an integer, the first one highest.</param>
/// <param name="Address">IPv4 address, the first byte highest.</param>
/// <param name="Port">TCP port.</param>
internal readonly record struct GuestPeer(ulong Mac, uint Address, ushort Port);

/// <summary>What a segment to the guest says, but for its payload.</summary>
internal readonly record struct SegmentHead(uint Sequence, uint Acknowledged, TcpFlags Flags, ushort Window);

/// <summary>Ethernet, ARP and IPv4 as far as the metadata service speaks them.</summary>
internal static class GuestFrame
{
    public const int EthernetHeader = 14;
    public const int IpHeader = 20;
    public const int ArpSize = EthernetHeader + 28;

    /// <summary>Largest payload of a segment to the guest: 1500 bytes of IPv4 less its header and TCP's.</summary>
    public const int LargestPayload = 1460;

    /// <summary>Largest frame that is made.</summary>
    public const int Largest = EthernetHeader + IpHeader + TcpSegment.HeaderSize + LargestPayload;

    public const ushort Arp = 0x0806;
    public const ushort Ip = 0x0800;
    public const byte Tcp = 6;
    public const ushort Port = 80;

    /// <summary>06:01:23:45:67:01, as Firecracker's.</summary>
    public const ulong Mac = 0x060123456701;

    private const ushort DoNotFragment = 0x4000;

    public static ulong ReadMac(ReadOnlySpan<byte> bytes) =>
        (ulong)BinaryPrimitives.ReadUInt16BigEndian(bytes) << 32 | BinaryPrimitives.ReadUInt32BigEndian(bytes[2..]);

    /// <summary>Writes an ARP answer that says the address is ours; returns its length.</summary>
    public static int WriteArp(Span<byte> frame, uint ours, in GuestPeer peer)
    {
        WriteEthernet(frame, peer.Mac, Arp);
        var packet = frame[EthernetHeader..ArpSize];
        ReadOnlySpan<byte> ethernetAndIpAnswer = [0, 1, 8, 0, 6, 4, 0, 2];
        ethernetAndIpAnswer.CopyTo(packet);
        WriteMac(packet[8..], Mac);
        BinaryPrimitives.WriteUInt32BigEndian(packet[14..], ours);
        WriteMac(packet[18..], peer.Mac);
        BinaryPrimitives.WriteUInt32BigEndian(packet[24..], peer.Address);
        return ArpSize;
    }

    /// <summary>Writes a TCP segment, its sums included; returns the frame's length. A SYN tells how much payload we take at once.</summary>
    public static int WriteSegment(Span<byte> frame, uint ours, in GuestPeer peer, in SegmentHead head, ReadOnlySpan<byte> payload)
    {
        var options = (head.Flags & TcpFlags.Synchronize) != 0 ? 4 : 0;
        var tcpLength = TcpSegment.HeaderSize + options + payload.Length;
        WriteEthernet(frame, peer.Mac, Ip);
        var ip = frame[EthernetHeader..];
        ip[0] = 0x45;
        ip[1] = 0;
        BinaryPrimitives.WriteUInt16BigEndian(ip[2..], (ushort)(IpHeader + tcpLength));
        BinaryPrimitives.WriteUInt16BigEndian(ip[4..], 0);
        BinaryPrimitives.WriteUInt16BigEndian(ip[6..], DoNotFragment);

        // One hop: it must not leave the guest for another network.
        ip[8] = 1;
        ip[9] = Tcp;
        BinaryPrimitives.WriteUInt16BigEndian(ip[10..], 0);
        BinaryPrimitives.WriteUInt32BigEndian(ip[12..], ours);
        BinaryPrimitives.WriteUInt32BigEndian(ip[16..], peer.Address);
        BinaryPrimitives.WriteUInt16BigEndian(ip[10..], InternetChecksum.Finish(InternetChecksum.Add(0, ip[..IpHeader])));

        var tcp = ip.Slice(IpHeader, tcpLength);
        BinaryPrimitives.WriteUInt16BigEndian(tcp, Port);
        BinaryPrimitives.WriteUInt16BigEndian(tcp[2..], peer.Port);
        BinaryPrimitives.WriteUInt32BigEndian(tcp[4..], head.Sequence);
        BinaryPrimitives.WriteUInt32BigEndian(tcp[8..], head.Acknowledged);
        tcp[12] = (byte)((TcpSegment.HeaderSize + options) / 4 << 4);
        tcp[13] = (byte)head.Flags;
        BinaryPrimitives.WriteUInt16BigEndian(tcp[14..], head.Window);
        BinaryPrimitives.WriteUInt32BigEndian(tcp[16..], 0);
        if (options > 0)
        {
            tcp[TcpSegment.HeaderSize] = TcpSegment.MaximumSizeOption;
            tcp[TcpSegment.HeaderSize + 1] = 4;
            BinaryPrimitives.WriteUInt16BigEndian(tcp[(TcpSegment.HeaderSize + 2)..], LargestPayload);
        }

        payload.CopyTo(tcp[(TcpSegment.HeaderSize + options)..]);
        BinaryPrimitives.WriteUInt16BigEndian(tcp[16..], InternetChecksum.OfSegment(ours, peer.Address, tcp));
        return EthernetHeader + IpHeader + tcpLength;
    }

    private static void WriteEthernet(Span<byte> frame, ulong destination, ushort type)
    {
        WriteMac(frame, destination);
        WriteMac(frame[6..], Mac);
        BinaryPrimitives.WriteUInt16BigEndian(frame[12..], type);
    }

    private static void WriteMac(Span<byte> target, ulong mac)
    {
        BinaryPrimitives.WriteUInt16BigEndian(target, (ushort)(mac >> 32));
        BinaryPrimitives.WriteUInt32BigEndian(target[2..], (uint)mac);
    }
}

/// <summary>The Internet's checksum: ones' complement sum of 16-bit words (RFC 1071).</summary>
internal static class InternetChecksum
{
    /// <summary>The sum with these bytes added; an odd last byte counts as the high half of a word.</summary>
    public static ulong Add(ulong sum, ReadOnlySpan<byte> bytes)
    {
        for (; bytes.Length >= 4; bytes = bytes[4..])
        {
            sum += BinaryPrimitives.ReadUInt32BigEndian(bytes);
        }

        if (bytes.Length >= 2)
        {
            sum += BinaryPrimitives.ReadUInt16BigEndian(bytes);
            bytes = bytes[2..];
        }

        return bytes.IsEmpty ? sum : sum + ((ulong)bytes[0] << 8);
    }

    /// <summary>Folded and complemented: what goes into a header, and 0 for bytes with a right sum in them.</summary>
    public static ushort Finish(ulong sum)
    {
        while (sum > ushort.MaxValue)
        {
            sum = (sum & ushort.MaxValue) + (sum >> 16);
        }

        return (ushort)~sum;
    }

    /// <summary>Of a TCP segment between two addresses.</summary>
    public static ushort OfSegment(uint source, uint destination, ReadOnlySpan<byte> segment) =>
        Finish(Add((ulong)source + destination + GuestFrame.Tcp + (uint)segment.Length, segment));
}
