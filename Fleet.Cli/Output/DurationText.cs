using System.CommandLine.Parsing;
using System.Globalization;

namespace Fleet.Cli.Output;

/// <summary>Durations on the command line: <c>90s</c>, <c>10m</c>, <c>2h</c>, <c>7d</c>.</summary>
internal static class DurationText
{
    /// <summary>For an option; tells what is wrong with what is none. A number without a unit is: who writes 5 may mean minutes.</summary>
    public static TimeSpan Parse(ArgumentResult result)
    {
        var text = Word(result);
        if (TryParse(text, out var duration))
            return duration;
        result.AddError(text.Length > 0 && text.All(char.IsAsciiDigit)
            ? $"{text} of what? Write {text}s, {text}m, {text}h or {text}d."
            : $"'{text}' is no duration such as 90s, 10m, 2h or 7d.");
        return default;
    }

    /// <summary>For an option of whole seconds, which is all that a number without a unit can mean.</summary>
    public static int Seconds(ArgumentResult result)
    {
        var text = Word(result);
        if (TryParse(text.Length > 0 && char.IsAsciiDigit(text[^1]) ? text + "s" : text, out var duration) && duration.TotalSeconds <= int.MaxValue)
            return (int)duration.TotalSeconds;
        result.AddError($"'{text}' is no duration such as 90, 90s or 10m.");
        return default;
    }

    public static bool TryParse(string text, out TimeSpan duration)
    {
        var seconds = text.Length == 0 ? 0 : text[^1] switch { 's' => 1, 'm' => 60, 'h' => 3600, 'd' => 86_400, _ => 0 };
        var known = int.TryParse(seconds > 0 ? text.AsSpan(0, text.Length - 1) : "", NumberStyles.None, CultureInfo.InvariantCulture, out var number);
        duration = known ? TimeSpan.FromSeconds((double)number * seconds) : default;
        return known;
    }

    private static string Word(ArgumentResult result) => result.Tokens.Count == 1 ? result.Tokens[0].Value : "";
}
