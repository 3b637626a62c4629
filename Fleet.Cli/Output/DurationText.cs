using System.CommandLine.Parsing;
using System.Globalization;

namespace Fleet.Cli.Output;

/// <summary>Durations on the command line: <c>90</c> and <c>90s</c>, <c>10m</c>, <c>2h</c>, <c>7d</c>.</summary>
internal static class DurationText
{
    /// <summary>For an option; tells what is wrong with what is none.</summary>
    public static TimeSpan Parse(ArgumentResult result)
    {
        var text = result.Tokens.Count == 1 ? result.Tokens[0].Value : "";
        if (TryParse(text, out var duration))
            return duration;
        result.AddError($"'{text}' is no duration such as 90s, 10m, 2h or 7d.");
        return default;
    }

    public static bool TryParse(string text, out TimeSpan duration)
    {
        var unit = text.Length > 0 && char.IsAsciiLetter(text[^1]) ? text[^1] : 's';
        var digits = text.TrimEnd('s', 'm', 'h', 'd');
        var seconds = unit switch { 's' => 1, 'm' => 60, 'h' => 3600, 'd' => 86_400, _ => 0 };
        var known = seconds > 0 && text.Length - digits.Length <= 1 && int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out _);
        duration = known ? TimeSpan.FromSeconds((double)int.Parse(digits, CultureInfo.InvariantCulture) * seconds) : default;
        return known;
    }
}
