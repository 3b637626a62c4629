using System.Buffers.Binary;

namespace Fleet.Shared.GuestChannel;

/// <summary>What <see cref="FrameReader.Read"/> found.</summary>
public enum FrameFound
{
    /// <summary>All bytes are taken; more are needed.</summary>
    Nothing,

    /// <summary>A frame; there may be another.</summary>
    Frame,

    /// <summary>The bytes are no frames. Everything up to the next greeting is passed over.</summary>
    Garbage,
}

/// <summary>
/// Cuts a stream of bytes into frames, whatever pieces it comes in. Until the first greeting, and after garbage, it passes over
/// everything up to a greeting: a carrier may still hold what was meant for somebody earlier. Holds one frame and allocates
/// nothing more. Not safe for several threads.
/// </summary>
public sealed class FrameReader
{
    private readonly byte[] _held = new byte[Frame.MaxBytes];
    private int _length;
    private bool _inStep;

    public FrameType Type { get; private set; }

    public uint Stream { get; private set; }

    /// <summary>Of the frame that was found; valid until the next call.</summary>
    public ReadOnlySpan<byte> Payload => _held.AsSpan(Frame.HeaderBytes, _payload);

    private int _payload;

    /// <summary>Looks for the next frame.</summary>
    /// <param name="bytes">What came; left without what was taken.</param>
    public FrameFound Read(ref ReadOnlySpan<byte> bytes)
    {
        while (true)
        {
            if (_length < Frame.HeaderBytes)
            {
                Take(ref bytes, Frame.HeaderBytes);
                if (_length < Frame.HeaderBytes) return FrameFound.Nothing;
            }
            if (!IsHeader(_held))
            {
                if (_inStep)
                {
                    _inStep = false;
                    return FrameFound.Garbage;
                }
                Skip();
                continue;
            }
            var payload = BinaryPrimitives.ReadUInt16LittleEndian(_held.AsSpan(2));
            Take(ref bytes, Frame.HeaderBytes + payload);
            if (_length < Frame.HeaderBytes + payload) return FrameFound.Nothing;
            Type = (FrameType)_held[1];
            if (Type == FrameType.Greeting)
            {
                if (!_held.AsSpan(Frame.HeaderBytes).StartsWith(Frame.Magic))
                {
                    _inStep = false;
                    Skip();
                    continue;
                }
                _inStep = true;
            }
            Stream = BinaryPrimitives.ReadUInt32LittleEndian(_held.AsSpan(4));
            _payload = payload;
            _length = 0;
            return FrameFound.Frame;
        }
    }

    /// <summary>Takes a frame that lies whole in what came, without a copy of it; false: look for it by <see cref="Read"/>.</summary>
    /// <param name="bytes">What came; left without what was taken.</param>
    /// <param name="payload">A part of <paramref name="bytes"/>.</param>
    public bool TryReadWhole(ref ReadOnlyMemory<byte> bytes, out ReadOnlyMemory<byte> payload)
    {
        payload = default;
        var header = bytes.Span;
        if (!_inStep || _length > 0 || header.Length < Frame.HeaderBytes || header[1] == (byte)FrameType.Greeting || !IsHeader(header)) return false;
        var length = BinaryPrimitives.ReadUInt16LittleEndian(header[2..]);
        if (header.Length < Frame.HeaderBytes + length) return false;
        (Type, Stream) = ((FrameType)header[1], BinaryPrimitives.ReadUInt32LittleEndian(header[4..]));
        payload = bytes.Slice(Frame.HeaderBytes, length);
        bytes = bytes[(Frame.HeaderBytes + length)..];
        return true;
    }

    /// <summary>Forgets what it holds: the carrier was opened anew.</summary>
    public void Reset() => (_length, _inStep) = (0, false);

    private bool IsHeader(ReadOnlySpan<byte> bytes)
    {
        if (bytes[0] != Frame.Marker || bytes[1] is 0 or > (byte)FrameType.Stop) return false;
        var payload = BinaryPrimitives.ReadUInt16LittleEndian(bytes[2..]);
        var stream = BinaryPrimitives.ReadUInt32LittleEndian(bytes[4..]);
        if (bytes[1] == (byte)FrameType.Greeting) return payload == Frame.GreetingBytes && stream == 0;
        return _inStep && payload <= Frame.MaxPayload && stream != 0;
    }

    private void Take(ref ReadOnlySpan<byte> bytes, int wanted)
    {
        var count = Math.Min(wanted - _length, bytes.Length);
        bytes[..count].CopyTo(_held.AsSpan(_length));
        _length += count;
        bytes = bytes[count..];
    }

    // To the next byte that may begin a greeting.
    private void Skip()
    {
        var next = _held.AsSpan(1, _length - 1).IndexOf(Frame.Marker);
        if (next < 0)
        {
            _length = 0;
            return;
        }
        _held.AsSpan(1 + next, _length - 1 - next).CopyTo(_held);
        _length -= 1 + next;
    }
}
