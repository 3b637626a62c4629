using System.Buffers.Binary;

namespace Fleet.Vmm.Metadata;

/// <summary>TCP's control bits (RFC 9293, §3.1).</summary>
[Flags]
internal enum TcpFlags : byte
{
    None = 0,
    Finish = 1,
    Synchronize = 2,
    Reset = 4,
    Push = 8,
    Acknowledge = 16,
}

/// <summary>A TCP segment that came, its lengths checked; the payload is a part of the frame.</summary>
internal readonly ref struct TcpSegment
{
    public const int HeaderSize = 20;

    /// <summary>Option of 4 bytes that tells how much payload the sender of it takes at once.</summary>
    public const byte MaximumSizeOption = 2;

    public ushort Source { get; private init; }

    public ushort Destination { get; private init; }

    public uint Sequence { get; private init; }

    public uint Acknowledged { get; private init; }

    public TcpFlags Flags { get; private init; }

    public ushort Window { get; private init; }

    /// <summary>0 when it is not told.</summary>
    public ushort MaximumSize { get; private init; }

    public ReadOnlySpan<byte> Payload { get; private init; }

    public bool Has(TcpFlags flag) => (Flags & flag) != 0;

    /// <summary>What it takes of the sequence space.</summary>
    public uint SequenceLength => (uint)Payload.Length + (Has(TcpFlags.Synchronize) ? 1u : 0) + (Has(TcpFlags.Finish) ? 1u : 0);

    /// <summary>False when lengths or options contradict each other.</summary>
    public static bool TryParse(ReadOnlySpan<byte> bytes, out TcpSegment segment)
    {
        segment = default;
        if (bytes.Length < HeaderSize)
        {
            return false;
        }

        var offset = (bytes[12] >> 4) * 4;
        if (offset < HeaderSize || offset > bytes.Length || !TryFindMaximumSize(bytes[HeaderSize..offset], out var maximum))
        {
            return false;
        }

        segment = new TcpSegment
        {
            Source = BinaryPrimitives.ReadUInt16BigEndian(bytes),
            Destination = BinaryPrimitives.ReadUInt16BigEndian(bytes[2..]),
            Sequence = BinaryPrimitives.ReadUInt32BigEndian(bytes[4..]),
            Acknowledged = BinaryPrimitives.ReadUInt32BigEndian(bytes[8..]),
            Flags = (TcpFlags)(bytes[13] & 0x1f),
            Window = BinaryPrimitives.ReadUInt16BigEndian(bytes[14..]),
            MaximumSize = maximum,
            Payload = bytes[offset..],
        };
        return true;
    }

    private static bool TryFindMaximumSize(ReadOnlySpan<byte> options, out ushort maximum)
    {
        maximum = 0;
        while (!options.IsEmpty && options[0] != 0)
        {
            if (options[0] == 1)
            {
                options = options[1..];
                continue;
            }

            if (options.Length < 2 || options[1] < 2 || options[1] > options.Length)
            {
                return false;
            }

            if (options[0] == MaximumSizeOption)
            {
                if (options[1] != 4)
                {
                    return false;
                }

                maximum = BinaryPrimitives.ReadUInt16BigEndian(options[2..]);
            }

            options = options[options[1]..];
        }

        return true;
    }
}
