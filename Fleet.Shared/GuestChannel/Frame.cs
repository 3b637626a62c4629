using System.Buffers.Binary;

namespace Fleet.Shared.GuestChannel;

/// <summary>What a frame of the channel between host and fleet-init says (docs/guest-protocol.md). Numbers are for ever.</summary>
public enum FrameType : byte
{
    /// <summary>No frame has it.</summary>
    None = 0,

    /// <summary>Of the channel itself: begins a conversation, answered by the same.</summary>
    Greeting = 1,

    /// <summary>Begins a stream; JSON that says what is wanted.</summary>
    Open = 2,

    /// <summary>The guest has begun what was wanted.</summary>
    Started = 3,

    /// <summary>Standard input.</summary>
    Input = 4,

    /// <summary>Standard input is at its end.</summary>
    InputEnd = 5,

    /// <summary>Standard output, or all output of a terminal.</summary>
    Output = 6,

    /// <summary>Standard error.</summary>
    Errors = 7,

    /// <summary>So many more bytes may be sent the other way, 32 bits.</summary>
    Credit = 8,

    /// <summary>The terminal's rows and columns, 16 bits each.</summary>
    Resize = 9,

    /// <summary>A signal for the command, one byte.</summary>
    Signal = 10,

    /// <summary>How the command ended, 32 bits. The stream's last.</summary>
    Exit = 11,

    /// <summary>It can't be: a code, a space and a sentence. The stream's last.</summary>
    Refused = 12,

    /// <summary>The host wants no more of the stream; its last.</summary>
    Close = 13,

    /// <summary>Of the stream of the command's output: so many bytes were written before what comes next, 64 bits. What is missing then is lost.</summary>
    Position = 14,

    /// <summary>Of the same stream: what the guest says of itself, a <see cref="FiguresPayload"/>.</summary>
    Figures = 15,

    /// <summary>Of the same stream: the command is to end within so many milliseconds, 32 bits, and to be killed then.</summary>
    Stop = 16,
}

/// <summary>
/// One frame: a marker byte, a <see cref="FrameType"/>, the payload's length (16 bits), the stream's number (32 bits, 0: the
/// channel itself) and the payload. Numbers are little-endian.
/// </summary>
public static class Frame
{
    public const byte Marker = 0xF1;

    public const int HeaderBytes = 8;

    /// <summary>Most bytes behind the header.</summary>
    public const int MaxPayload = 16 * 1024;

    public const int MaxBytes = HeaderBytes + MaxPayload;

    /// <summary>A greeting's payload: <see cref="Magic"/>, and a number by which its answer is known.</summary>
    public const int GreetingBytes = 16;

    /// <summary>Begins a greeting's payload.</summary>
    public static ReadOnlySpan<byte> Magic => "FLEETCH1"u8;

    /// <summary>Writes a whole frame.</summary>
    /// <returns>Its bytes.</returns>
    /// <exception cref="ArgumentException">The payload is too long, or <paramref name="target"/> too short.</exception>
    public static int Write(Span<byte> target, FrameType type, uint stream, ReadOnlySpan<byte> payload)
    {
        WriteHeader(target, type, stream, payload.Length);
        payload.CopyTo(target[HeaderBytes..]);
        return HeaderBytes + payload.Length;
    }

    /// <summary>Writes what stands before a payload of so many bytes.</summary>
    /// <exception cref="ArgumentException">The payload is too long, or <paramref name="target"/> too short.</exception>
    public static void WriteHeader(Span<byte> target, FrameType type, uint stream, int payload)
    {
        if (payload > MaxPayload) throw new ArgumentException($"A frame takes {MaxPayload} bytes.", nameof(payload));
        target[0] = Marker;
        target[1] = (byte)type;
        BinaryPrimitives.WriteUInt16LittleEndian(target[2..], (ushort)payload);
        BinaryPrimitives.WriteUInt32LittleEndian(target[4..], stream);
    }

    /// <summary>A greeting as it goes over the channel.</summary>
    public static byte[] Greeting(ulong nonce)
    {
        var payload = new byte[GreetingBytes];
        Magic.CopyTo(payload);
        BinaryPrimitives.WriteUInt64LittleEndian(payload.AsSpan(Magic.Length), nonce);
        var frame = new byte[HeaderBytes + GreetingBytes];
        Write(frame, FrameType.Greeting, 0, payload);
        return frame;
    }

    /// <summary>Payload of a <see cref="FrameType.Credit"/> or <see cref="FrameType.Exit"/>.</summary>
    public static byte[] Number(uint value)
    {
        var payload = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(payload, value);
        return payload;
    }
}
