using System.Buffers.Binary;
using System.Runtime.CompilerServices;
using System.Text;
using Fleet.Vmm.Api;
using Fleet.Vmm.Metadata;
using Fleet.Vmm.Tests.RateLimiting;

namespace Fleet.Vmm.Tests.Metadata;

/// <summary>A service with a document, behind one network interface, and a clock that is set by hand.</summary>
internal sealed class Service
{
    public const uint Address = MetadataSettings.DefaultAddress;

    public const string Document = """
        {"latest": {"meta-data": {"ami-id": "ami-1", "n": 43, "list": ["a", {"b": "c"}], "empty": {}, "a/b": "slash"}, "user-data": "läuft"}}
        """;

    public Service(bool needsToken = false, bool alwaysText = false, int limit = 51200, string? document = Document)
    {
        Metadata = new MetadataService(limit, Clock) { Settings = new MetadataSettings(["e"], needsToken, Address, alwaysText) };
        if (document is not null)
        {
            Metadata.Store.Replace(Parse(document));
        }

        Network = new MetadataNetwork(Metadata, Address);
    }

    public SetClock Clock { get; } = new();

    public MetadataService Metadata { get; }

    public MetadataNetwork Network { get; }

    public ulong Count(MetadataCount what) => Metadata.Metrics.Since((int)what);

    public static MetadataValue Parse(string json)
    {
        var body = new JsonBody(Encoding.UTF8.GetBytes(json));
        body.Begin();
        var value = MetadataApi.Read(ref body);
        body.End();
        return value;
    }

    /// <summary>The answer to one request, without a network.</summary>
    public (int Status, string Head, string Body) Ask(string request)
    {
        if (!Metadata.TryAnswer(Encoding.Latin1.GetBytes(request), out var answer))
        {
            throw new InvalidOperationException("the request is not complete");
        }

        Metadata.Release(answer.Bytes);
        return Split(Encoding.UTF8.GetString(answer.Bytes));
    }

    public static (int Status, string Head, string Body) Split(string answer)
    {
        var end = answer.IndexOf("\r\n\r\n", StringComparison.Ordinal);
        return (int.Parse(answer.AsSpan(9, 3), System.Globalization.CultureInfo.InvariantCulture), answer[..end], answer[(end + 4)..]);
    }
}

/// <summary>A frame from the service, looked at with code of the test's own.</summary>
internal readonly record struct SeenSegment(ushort Port, uint Sequence, uint Acknowledged, byte Flags, ushort Window, byte[] Payload)
{
    public const byte Fin = 1;
    public const byte Syn = 2;
    public const byte Rst = 4;
    public const byte Psh = 8;
    public const byte Ack = 16;

    public bool Is(byte flags) => (Flags & ~Psh) == flags;
}

/// <summary>Frames as a guest makes and checks them.</summary>
internal static class GuestStack
{
    public static readonly byte[] Mac = [2, 0, 0, 0, 0, 7];
    public static readonly byte[] ServiceMac = [6, 1, 0x23, 0x45, 0x67, 1];
    public const uint Address = 0xa9fe0001;

    /// <summary>A TCP segment in IPv4 in Ethernet, sums included.</summary>
    public static byte[] Tcp(
        ushort port, uint sequence, uint acknowledged, byte flags, ReadOnlySpan<byte> payload = default, ushort window = 65535, ushort maximum = 1460, ushort to = 80)
    {
        var options = (flags & SeenSegment.Syn) != 0 && maximum > 0 ? 4 : 0;
        var frame = new byte[54 + options + payload.Length];
        ServiceMac.CopyTo(frame, 0);
        Mac.CopyTo(frame, 6);
        frame[12] = 8;
        var ip = frame.AsSpan(14);
        ip[0] = 0x45;
        BinaryPrimitives.WriteUInt16BigEndian(ip[2..], (ushort)ip.Length);
        ip[8] = 64;
        ip[9] = 6;
        BinaryPrimitives.WriteUInt32BigEndian(ip[12..], Address);
        BinaryPrimitives.WriteUInt32BigEndian(ip[16..], Service.Address);
        var tcp = ip[20..];
        BinaryPrimitives.WriteUInt16BigEndian(tcp, port);
        BinaryPrimitives.WriteUInt16BigEndian(tcp[2..], to);
        BinaryPrimitives.WriteUInt32BigEndian(tcp[4..], sequence);
        BinaryPrimitives.WriteUInt32BigEndian(tcp[8..], acknowledged);
        tcp[12] = (byte)((20 + options) / 4 << 4);
        tcp[13] = flags;
        BinaryPrimitives.WriteUInt16BigEndian(tcp[14..], window);
        if (options > 0)
        {
            tcp[20] = 2;
            tcp[21] = 4;
            BinaryPrimitives.WriteUInt16BigEndian(tcp[22..], maximum);
        }

        payload.CopyTo(tcp[(20 + options)..]);
        Seal(frame);
        return frame;
    }

    /// <summary>Puts right sums into a frame that was changed.</summary>
    public static void Seal(byte[] frame)
    {
        var ip = frame.AsSpan(14);
        ip[10] = ip[11] = 0;
        BinaryPrimitives.WriteUInt16BigEndian(ip[10..], Sum(ip[..20]));
        ip[36] = ip[37] = 0;
        BinaryPrimitives.WriteUInt16BigEndian(ip[36..], Sum([.. ip[12..20], 0, 6, (byte)((ip.Length - 20) >> 8), (byte)(ip.Length - 20), .. ip[20..]]));
    }

    /// <summary>Takes a frame of the service apart; every sum and fixed field is checked.</summary>
    public static SeenSegment Read(ReadOnlySpan<byte> frame)
    {
        Expect(true, frame[..6].SequenceEqual(Mac));
        Expect(true, frame[6..12].SequenceEqual(ServiceMac));
        Expect((ushort)0x0800, BinaryPrimitives.ReadUInt16BigEndian(frame[12..]));
        var ip = frame[14..];
        Expect((byte)0x45, ip[0]);
        Expect((ushort)ip.Length, BinaryPrimitives.ReadUInt16BigEndian(ip[2..]));
        Expect((byte)1, ip[8]);
        Expect((ushort)0, Sum(ip[..20]));
        Expect(Service.Address, BinaryPrimitives.ReadUInt32BigEndian(ip[12..]));
        Expect((ushort)0, Sum([.. ip[12..20], 0, 6, (byte)((ip.Length - 20) >> 8), (byte)(ip.Length - 20), .. ip[20..]]));
        var tcp = ip[20..];
        Expect((ushort)80, BinaryPrimitives.ReadUInt16BigEndian(tcp));
        return new SeenSegment(
            BinaryPrimitives.ReadUInt16BigEndian(tcp[2..]),
            BinaryPrimitives.ReadUInt32BigEndian(tcp[4..]),
            BinaryPrimitives.ReadUInt32BigEndian(tcp[8..]),
            tcp[13],
            BinaryPrimitives.ReadUInt16BigEndian(tcp[14..]),
            tcp[((tcp[12] >> 4) * 4)..].ToArray());
    }

    /// <summary>The next segment of the service; null when it has none.</summary>
    public static SeenSegment? Next(MetadataNetwork network)
    {
        var frame = new byte[MetadataNetwork.LargestFrame];
        Expect(network.HasFrames, network.NextFrame(frame) is var length && length > 0);
        return length > 0 ? Read(frame.AsSpan(0, length)) : null;
    }

    // Not xunit's: the fuzzer of the benchmarks reads frames too.
    private static void Expect<T>(T expected, T seen, [CallerArgumentExpression(nameof(seen))] string what = "")
    {
        if (!EqualityComparer<T>.Default.Equals(expected, seen))
        {
            throw new InvalidOperationException($"{what} is {seen}, expected {expected}");
        }
    }

    private static ushort Sum(ReadOnlySpan<byte> bytes)
    {
        var sum = 0u;
        for (var i = 0; i < bytes.Length; i++)
        {
            sum += i % 2 == 0 ? (uint)bytes[i] << 8 : bytes[i];
        }

        while (sum >> 16 != 0)
        {
            sum = (sum & 0xffff) + (sum >> 16);
        }

        return (ushort)~sum;
    }
}
