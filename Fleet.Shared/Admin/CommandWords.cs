using System.Text;

namespace Fleet.Shared.Admin;

/// <summary>
/// A line and its words. Blanks separate; 'single quotes' keep everything, "double quotes" everything but <c>\"</c> and <c>\\</c>; a backslash
/// outside of quotes is a letter like others.
/// </summary>
public static class CommandWords
{
    /// <summary>Longest line, in UTF-16 units.</summary>
    public const int MaxLine = 4096;

    /// <summary>Most words of a command.</summary>
    public const int MaxWords = 64;

    /// <summary>The words of a line; none of an empty one.</summary>
    /// <exception cref="CommandException">It is too long, has control characters, or a quote is open at its end.</exception>
    public static IReadOnlyList<string> Split(string line)
    {
        ArgumentNullException.ThrowIfNull(line);
        if (line.Length > MaxLine)
            throw new CommandException(CommandException.Invalid, $"The line has {line.Length} characters; at most {MaxLine} are taken.");
        var words = new List<string>();
        var word = new StringBuilder();
        var within = false;
        for (var at = 0; at < line.Length; at++)
        {
            var letter = line[at];
            if (letter is ' ' or '\t')
            {
                if (within)
                    words.Add(word.ToString());
                word.Clear();
                within = false;
                continue;
            }
            within = true;
            if (letter is '\'' or '"')
                at = Quoted(line, at, word);
            else
                word.Append(letter);
        }
        if (within)
            words.Add(word.ToString());
        Check(words);
        return words;
    }

    /// <summary>A line that <see cref="Split"/> takes apart into the same words.</summary>
    public static string Join(IEnumerable<string> words)
    {
        ArgumentNullException.ThrowIfNull(words);
        return string.Join(' ', words.Select(Quote));
    }

    /// <summary>Refuses words that no line could hold.</summary>
    /// <exception cref="CommandException">Too many, too long, or with control characters.</exception>
    public static void Check(IReadOnlyList<string> words)
    {
        ArgumentNullException.ThrowIfNull(words);
        if (words.Count > MaxWords)
            throw new CommandException(CommandException.Invalid, $"The command has {words.Count} words; at most {MaxWords} are taken.");
        if (words.Sum(word => (long)word.Length) > MaxLine)
            throw new CommandException(CommandException.Invalid, $"The command is longer than {MaxLine} characters, the most that is taken.");
        if (words.Any(word => word.Any(char.IsControl)))
            throw new CommandException(CommandException.Invalid, "The command has control characters.");
    }

    /// <summary>Appends what stands between quotes; answers where the closing one is.</summary>
    private static int Quoted(string line, int opening, StringBuilder word)
    {
        var quote = line[opening];
        for (var at = opening + 1; at < line.Length; at++)
        {
            if (line[at] == quote)
                return at;
            if (quote == '"' && line[at] == '\\' && at + 1 < line.Length && line[at + 1] is '"' or '\\')
                at++;
            word.Append(line[at]);
        }
        throw new CommandException(CommandException.Invalid, $"The quote {quote} is not closed.");
    }

    private static string Quote(string word) => word.Length > 0 && !word.Any(letter => letter is ' ' or '\t' or '\'' or '"')
        ? word
        : $"\"{word.Replace("\\", "\\\\", StringComparison.Ordinal).Replace("\"", "\\\"", StringComparison.Ordinal)}\"";
}
