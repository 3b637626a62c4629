using System.Text;

namespace Fleet.Shared.Vms;

/// <summary>
/// Sentences for people in messages and events. Whatever failed wrote them, perhaps with what a stranger had given it, so they are cut to size
/// where they are made and again where they come from outside: thousands of them stand in one message.
/// </summary>
public static class ReasonText
{
    /// <summary>UTF-8 bytes of one sentence.</summary>
    public const int MostBytes = 512;

    private const char Ellipsis = '…';

    /// <summary>The sentence as one line of at most <see cref="MostBytes"/> bytes, without control characters.</summary>
    public static string Shorten(string text)
    {
        ArgumentNullException.ThrowIfNull(text);
        var line = text.Any(char.IsControl) ? string.Concat(text.Select(c => char.IsControl(c) ? ' ' : c)) : text;
        if (Encoding.UTF8.GetByteCount(line) <= MostBytes)
            return line;
        var bytes = Encoding.UTF8.GetByteCount([Ellipsis]);
        var kept = 0;
        foreach (var rune in line.EnumerateRunes())
        {
            if (bytes + rune.Utf8SequenceLength > MostBytes)
                break;
            bytes += rune.Utf8SequenceLength;
            kept += rune.Utf16SequenceLength;
        }
        return string.Concat(line.AsSpan(0, kept), [Ellipsis]);
    }
}
