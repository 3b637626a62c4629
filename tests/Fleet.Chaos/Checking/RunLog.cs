using System.Globalization;
using System.Text.Json;

namespace Fleet.Chaos.Checking;

/// <summary>
/// Reads what VMMs wrote about when their guests ran: one file per launch, <c>VM.EPOCH.N.jsonl</c>, one JSON object a line
/// (docs/fencing.md). A VMM that was killed leaves its last line torn or none at all.
/// </summary>
internal static class RunLog
{
    /// <summary>How often a VMM says that its guest runs.</summary>
    public const long AliveEveryMs = 500;

    /// <summary>A line later than this after the one before tells of a silence, and <see cref="Executions"/> what that means.</summary>
    public const long OnTimeMs = 2 * AliveEveryMs;

    /// <summary>All launches below a folder.</summary>
    /// <exception cref="InvalidDataException">A line that is not the last of its file can't be understood.</exception>
    public static IReadOnlyList<RunInterval> ReadFolder(string folder) =>
        [.. Directory.EnumerateFiles(folder, "*.jsonl").Order(StringComparer.Ordinal).SelectMany(file => Parse(Path.GetFileNameWithoutExtension(file), File.ReadAllText(file)))];

    /// <param name="launch">Names the file.</param>
    /// <param name="text">What stands in it.</param>
    public static IEnumerable<RunInterval> Parse(string launch, string text)
    {
        Line? open = null;
        var last = 0L;
        foreach (var line in Lines(launch, text))
        {
            if (open is { } begun && line.Event != "run" && line.Event != "alive")
            {
                yield return Interval(launch, begun, line.BootMs - last <= OnTimeMs ? line.BootMs : last, line.BootMs) with { Stood = true };
                open = null;
            }
            else if (line.Event is "run" or "alive")
            {
                if (open is { } before && line.BootMs - last > OnTimeMs)
                {
                    yield return Interval(launch, before, last, line.BootMs);
                    open = null;
                }

                // After a line that was never written (the disk was full) the first sign is what is sure.
                open ??= line;
                last = line.BootMs;
            }
        }

        if (open is { } unfinished)
            yield return Interval(launch, unfinished, last, last + AliveEveryMs) with { Open = true };
    }

    private static RunInterval Interval(string launch, Line from, long sureTo, long possibleTo) =>
        new(from.Vm, from.Epoch, launch, from.Host, from.Strict, from.BootMs, sureTo, possibleTo);

    private readonly record struct Line(long BootMs, string Vm, ulong Epoch, string Host, bool Strict, string Event);

    private static IEnumerable<Line> Lines(string launch, string text)
    {
        var lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        for (var i = 0; i < lines.Length; i++)
        {
            Line line;
            try
            {
                using var json = JsonDocument.Parse(lines[i]);
                var root = json.RootElement;
                line = new(
                    root.GetProperty("boot_ms").GetInt64(),
                    root.GetProperty("vm").GetString()!,
                    root.GetProperty("epoch").GetUInt64(),
                    root.GetProperty("host").GetString()!,
                    root.GetProperty("policy").GetString() != "relaxed",
                    root.GetProperty("event").GetString()!);
            }
            catch (Exception torn) when (torn is JsonException or KeyNotFoundException or InvalidOperationException or FormatException)
            {
                if (i == lines.Length - 1)
                    yield break;
                throw new InvalidDataException(string.Create(CultureInfo.InvariantCulture, $"{launch}.jsonl line {i + 1} can't be understood: {torn.Message}"), torn);
            }

            yield return line;
        }
    }
}
