using System.Globalization;
using System.Text;
using System.Text.Json.Nodes;
using Fleet.Scheduler.Api;
using Fleet.Shared.Admin;

namespace Fleet.Scheduler.Admin;

/// <summary>A piece of an answer: a line for people, or what it means for programs. One of them is set; none in a mere sign of life.</summary>
internal readonly record struct CommandFrame(string? Text, JsonObject? Row);

/// <summary>
/// What a command says, for people or for programs. A command never waits for its reader in any other way than by
/// these calls, and what it can say is bounded unless it streams.
/// </summary>
/// <param name="write">Takes the pieces in order; comes back when there is room for the next.</param>
/// <param name="forPrograms">Rows instead of aligned text.</param>
/// <param name="streams">It goes on until its reader leaves: only each line is bounded.</param>
internal sealed class CommandOutput(Func<CommandFrame, ValueTask> write, bool forPrograms, bool streams = false)
{
    /// <summary>Far above what each command bounds itself to; the last resort.</summary>
    public const int MaxFrames = 20_000;

    /// <summary>Longest line for people; a longer one is cut.</summary>
    public const int MaxLine = 16 * 1024;

    private int _frames;

    /// <summary>A sentence; programs get it too.</summary>
    public ValueTask SayAsync(string text) => WriteAsync(new(Cut(text), null));

    /// <summary>One thing that is a line for people and an object for programs.</summary>
    public ValueTask EntryAsync(string text, params ReadOnlySpan<(string Name, object? Value)> fields) =>
        WriteAsync(forPrograms ? new(null, ToRow(fields)) : new(Cut(text), null));

    /// <summary>Says nothing, but keeps middle boxes from closing a quiet stream, and finds out about a client that is gone.</summary>
    public ValueTask KeepAliveAsync() => WriteAsync(default);

    /// <summary>One thing with its fields below each other.</summary>
    public async ValueTask SheetAsync(params (string Name, object? Value)[] fields)
    {
        if (forPrograms)
        {
            await WriteAsync(new(null, ToRow(fields)));
            return;
        }
        var width = fields.Max(field => field.Name.Length);
        foreach (var (name, value) in fields)
            await WriteAsync(new(Cut($"{name.Replace('_', ' ').PadRight(width)}  {ToText(value)}"), null));
    }

    /// <summary>Rows under their columns; without any, the sentence that says so.</summary>
    /// <param name="columns">In snake_case, as programs get them.</param>
    /// <param name="rows">As many cells each as there are columns.</param>
    /// <param name="none">For people, when there is no row.</param>
    public async ValueTask TableAsync(IReadOnlyList<string> columns, IReadOnlyCollection<object?[]> rows, string none)
    {
        if (forPrograms)
        {
            foreach (var row in rows)
                await WriteAsync(new(null, ToRow(columns.Zip(row, static (name, value) => (name, value)).ToArray())));
            return;
        }
        if (rows.Count == 0)
        {
            await SayAsync(none);
            return;
        }
        var lines = rows.Select(row => row.Select(ToText).ToArray()).Prepend(columns.Select(name => name.Replace('_', ' ').ToUpperInvariant()).ToArray()).ToList();
        var widths = Enumerable.Range(0, columns.Count).Select(at => lines.Max(line => line[at].Length)).ToArray();
        foreach (var line in lines)
            await WriteAsync(new(Cut(string.Join("  ", line.Select((cell, at) => cell.PadRight(widths[at]))).TrimEnd()), null));
    }

    private ValueTask WriteAsync(CommandFrame frame)
    {
        if (!streams && ++_frames > MaxFrames)
            throw new CommandException(ErrorCodes.PayloadTooLarge, $"The answer has more than {MaxFrames} lines; the rest is left out. Ask for less.");
        return write(frame);
    }

    private static JsonObject ToRow(ReadOnlySpan<(string Name, object? Value)> fields)
    {
        var row = new JsonObject();
        foreach (var (name, value) in fields)
        {
            row[name] = value switch
            {
                null => null,
                bool yes => yes,
                int or long or uint => JsonValue.Create(Convert.ToInt64(value, CultureInfo.InvariantCulture)),
                ulong number => number,
                double number => double.IsFinite(number) ? number : null,
                DateTimeOffset at => ToText(at),
                _ => value.ToString(),
            };
        }
        return row;
    }

    private static string ToText(object? value) => value switch
    {
        null or "" => "-",
        bool yes => yes ? "yes" : "no",
        double number => number.ToString("0.###", CultureInfo.InvariantCulture),
        DateTimeOffset at => at.UtcDateTime.ToString("yyyy-MM-dd'T'HH:mm:ss.fff'Z'", CultureInfo.InvariantCulture),
        _ => OneLine(Convert.ToString(value, CultureInfo.InvariantCulture) ?? ""),
    };

    // A cell is part of a line, whatever a host or a tenant wrote into it.
    private static string OneLine(string text) =>
        text.Any(char.IsControl) ? new StringBuilder(text).Replace('\n', ' ').Replace('\r', ' ').Replace('\t', ' ').ToString() : text;

    private static string Cut(string text) => text.Length <= MaxLine ? text : text[..MaxLine] + "…";
}
