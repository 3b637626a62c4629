namespace Fleet.Host.Logs;

/// <summary>One line that a command wrote, or what is missing between two.</summary>
/// <param name="Kind">Which output wrote it.</param>
/// <param name="At">When the host got its first byte, microseconds since 1970.</param>
/// <param name="Position">Of its first byte in all that the command wrote to both outputs; rises, and no two lines have the same.</param>
/// <param name="Bytes">Without its end; at most <see cref="LogLines.MaxLine"/>. Valid only while it is handed out.</param>
/// <param name="IsPartial">It goes on in the next one of its output, or was never finished.</param>
/// <param name="Lost">Above 0: no line, but so many bytes that are missing.</param>
internal readonly record struct LogLine(LogStreamKind Kind, long At, ulong Position, ReadOnlyMemory<byte> Bytes, bool IsPartial, ulong Lost);

/// <summary>Makes lines of records, each output's for itself. Not safe for several threads.</summary>
/// <param name="take">Gets every line, in order.</param>
internal sealed class LogLines(Action<LogLine> take)
{
    /// <summary>A longer line comes in several.</summary>
    public const int MaxLine = 16 * 1024;

    private readonly Begun _output = new(LogStreamKind.Output);
    private readonly Begun _errors = new(LogStreamKind.Errors);
    private ulong? _next;
    private long _at;

    private sealed class Begun(LogStreamKind kind)
    {
        public LogStreamKind Kind { get; } = kind;

        public byte[] Bytes { get; } = new byte[MaxLine];

        public int Length { get; set; }

        public long At { get; set; }

        public ulong Position { get; set; }
    }

    public void Take(LogRecordHeader header, ReadOnlyMemory<byte> payload)
    {
        Miss(header);
        (_next, _at) = (header.Position + (ulong)payload.Length, header.At);
        var begun = header.Kind == LogStreamKind.Output ? _output : _errors;
        var position = header.Position;
        while (!payload.IsEmpty)
        {
            if (begun.Length == 0) (begun.At, begun.Position) = (_at, position);
            var end = payload.Span.IndexOf((byte)'\n');
            var count = Math.Min(end < 0 ? payload.Length : end, MaxLine - begun.Length);
            payload.Span[..count].CopyTo(begun.Bytes.AsSpan(begun.Length));
            begun.Length += count;
            payload = payload[count..];
            position += (ulong)count;
            if (!payload.IsEmpty && payload.Span[0] == (byte)'\n')
            {
                Give(begun, begun.Length, isPartial: false);
                payload = payload[1..];
                position++;
            }
            else if (begun.Length == MaxLine)
            {
                Give(begun, WholeCharacters(begun.Bytes), isPartial: true);
            }
        }
    }

    /// <summary>What is next stands there: hands out what is missing before it.</summary>
    public void Miss(LogRecordHeader header)
    {
        if (_next is not { } next || header.Position <= next) return;
        Finish();
        take(new LogLine(header.Kind, header.At, next, default, IsPartial: false, header.Position - next));
    }

    /// <summary>Nothing more will come: hands out what has no end of line.</summary>
    public void Finish()
    {
        foreach (var begun in (Begun[])[_output, _errors])
        {
            if (begun.Length > 0) Give(begun, begun.Length, isPartial: true);
        }
    }

    private void Give(Begun begun, int count, bool isPartial)
    {
        take(new LogLine(begun.Kind, begun.At, begun.Position, begun.Bytes.AsMemory(0, count), isPartial, 0));
        begun.Bytes.AsSpan(count, begun.Length - count).CopyTo(begun.Bytes);
        (begun.Length, begun.Position, begun.At) = (begun.Length - count, begun.Position + (ulong)count, _at);
    }

    // Not in the middle of a character of UTF-8, where it is one.
    private static int WholeCharacters(ReadOnlySpan<byte> bytes)
    {
        for (var back = 1; back <= 3; back++)
        {
            var lead = bytes[^back];
            if ((lead & 0xC0) == 0x80) continue;
            var length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
            return length > back ? bytes.Length - back : bytes.Length;
        }
        return bytes.Length;
    }
}
