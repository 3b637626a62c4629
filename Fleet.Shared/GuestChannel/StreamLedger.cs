using System.Buffers.Binary;

namespace Fleet.Shared.GuestChannel;

/// <summary>
/// What may come next on one stream: the order of its frames, and how much of them may be under way. Every hop between a client
/// and fleet-init keeps one, so that none has to trust the other: what is under way is bounded by the two windows, whoever
/// lies. Not safe for several threads.
/// </summary>
/// <remarks>
/// Whatever takes room costs its payload and <see cref="Overhead"/>, so that many small frames are bounded too. What was taken is
/// given back by a credit of the same size.
/// </remarks>
/// <param name="ofLog">It is the stream of what the microVM's own command writes, which ends between host and fleet-init.</param>
public sealed class StreamLedger(bool ofLog = false)
{
    /// <summary>Cost of any frame beside its payload.</summary>
    public const int Overhead = 2048;

    /// <summary>Bytes of a refusal.</summary>
    public const int MostRefusal = 1024;

    /// <summary>Towards the guest.</summary>
    public const int InputWindow = 64 * 1024;

    /// <summary>From the guest.</summary>
    public const int OutputWindow = 256 * 1024;

    /// <summary>Windows that the log's stream may have at once: the guest goes on filling one while the host writes down another.</summary>
    public const byte LogWindows = 3;

    private bool _opened;
    private bool _started;
    private bool _inputEnded;

    /// <summary>The stream's last frame has passed.</summary>
    public bool Ended { get; private set; }

    /// <summary>Cost of frames that the guest may still send.</summary>
    public int OutputLeft { get; private set; } = OutputWindow;

    /// <summary>Cost of frames that may still be sent to the guest.</summary>
    public int InputLeft { get; private set; } = InputWindow;

    /// <summary>What a frame takes of a window; 0 for those that need no room.</summary>
    public static int Cost(FrameType type, int payload) => type switch
    {
        FrameType.Input or FrameType.InputEnd or FrameType.Output or FrameType.Errors or FrameType.Resize or FrameType.Signal or FrameType.Position or FrameType.Figures => Overhead + payload,
        _ => 0,
    };

    /// <summary>Most bytes of output, or of input, that one frame may have within that room; 0: no frame may be sent.</summary>
    public static int Room(int left) => Math.Clamp(left - Overhead, 0, Frame.MaxPayload);

    /// <summary>Books a frame towards the guest. What is wrong with it; null: nothing.</summary>
    public string? ToGuest(FrameType type, ReadOnlySpan<byte> payload)
    {
        if (Ended) return "The stream has ended.";
        if (type == FrameType.Open ? _opened : !_opened) return _opened ? "The stream is open already." : "A stream begins with Open.";
        if (!_started && type is not (FrameType.Open or FrameType.Close)) return "The guest has not said yet that it has begun.";
        switch (type)
        {
            case FrameType.Open when payload.Length is > 0 and <= Frame.MaxPayload:
                _opened = true;
                return null;
            case FrameType.Input when !_inputEnded && payload.Length is > 0 and <= Frame.MaxPayload:
            case FrameType.Resize when payload.Length == 4:
            case FrameType.Signal when payload.Length == 1 && payload[0] is >= 1 and <= 64:
                break;
            case FrameType.InputEnd when !_inputEnded && payload.Length == 0:
                _inputEnded = true;
                break;
            case FrameType.Credit:
                if (Credit(payload, OutputLeft, ofLog ? LogWindows * OutputWindow : OutputWindow) is not { } left) return "The credit is none, or more than was sent.";
                OutputLeft = left;
                return null;
            case FrameType.Stop when ofLog && payload.Length == 4:
                return null;
            case FrameType.Close when payload.Length == 0:
                Ended = true;
                return null;
            default:
                return $"{type} with {payload.Length} bytes does not go to a guest now.";
        }
        var cost = Cost(type, payload.Length);
        if (cost > InputLeft) return "More was sent than there was credit for.";
        InputLeft -= cost;
        return null;
    }

    /// <summary>Books a frame of the guest. What is wrong with it; null: nothing.</summary>
    public string? FromGuest(FrameType type, ReadOnlySpan<byte> payload)
    {
        if (Ended || !_opened) return "The stream is not open.";
        switch (type)
        {
            case FrameType.Started when !_started && payload.Length == 0:
                _started = true;
                return null;
            case FrameType.Output or FrameType.Errors when _started && payload.Length is > 0 and <= Frame.MaxPayload:
            case FrameType.Position when ofLog && _started && payload.Length == 8:
            case FrameType.Figures when ofLog && _started && payload.Length == FiguresPayload.Bytes:
                var cost = Cost(type, payload.Length);
                if (cost > OutputLeft) return "More was sent than there was credit for.";
                OutputLeft -= cost;
                return null;
            case FrameType.Credit when _started:
                if (Credit(payload, InputLeft, InputWindow) is not { } left) return "The credit is none, or more than was sent.";
                InputLeft = left;
                return null;
            case FrameType.Exit when _started && payload.Length == 4:
            case FrameType.Refused when IsRefusal(payload):
                Ended = true;
                return null;
            default:
                return $"{type} with {payload.Length} bytes does not come from a guest now.";
        }
    }

    // Codes are printed and compared as they are: what is none must not come so far.
    private static bool IsRefusal(ReadOnlySpan<byte> payload)
    {
        var space = payload.IndexOf((byte)' ');
        if (payload.Length > MostRefusal || space is < 1 or > 64) return false;
        foreach (var letter in payload[..space])
        {
            if (letter is not ((>= (byte)'a' and <= (byte)'z') or (>= (byte)'0' and <= (byte)'9') or (byte)'_')) return false;
        }
        return true;
    }

    // A credit below the cost of the smallest frame would let one stream be a flood of credits.
    private static int? Credit(ReadOnlySpan<byte> payload, int left, int window)
    {
        if (payload.Length != 4) return null;
        var bytes = BinaryPrimitives.ReadUInt32LittleEndian(payload);
        return bytes >= Overhead && bytes <= window - left ? left + (int)bytes : null;
    }
}
