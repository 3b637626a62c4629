using Fleet.Shared.Admin;

namespace Fleet.Cli.Admin;

/// <summary>What the word before the cursor may become, by what the node told of its commands.</summary>
/// <param name="Start">Where that word begins in the line.</param>
/// <param name="Candidates">What it may be, in order; empty: nothing is known.</param>
internal sealed record Completion(int Start, IReadOnlyList<string> Candidates)
{
    /// <summary>Words that the shell takes itself.</summary>
    public static readonly IReadOnlyList<string> OwnWords = ["exit", "help", "quit"];

    /// <param name="palettes">What the node told.</param>
    /// <param name="before">The line up to the cursor.</param>
    public static Completion Of(IReadOnlyList<PaletteDefinition> palettes, string before)
    {
        var start = before.LastIndexOfAny([' ', '\t']) + 1;
        var begun = before[start..];
        IReadOnlyList<string> words;
        try
        {
            words = CommandWords.Split(before[..start]);
        }
        catch (CommandException)
        {
            // Within quotes nothing is known.
            return new(start, []);
        }
        return new(start, [.. Words(palettes, words).Where(word => word.StartsWith(begun, StringComparison.Ordinal)).Distinct()]);
    }

    /// <summary>The longest beginning that all candidates share.</summary>
    public string Shared => Candidates.Count == 0 ? "" : Candidates.Aggregate((left, right) => left[..left.AsSpan().CommonPrefixLength(right)]);

    private static IEnumerable<string> Words(IReadOnlyList<PaletteDefinition> palettes, IReadOnlyList<string> words)
    {
        var names = palettes.Select(palette => palette.Name);
        if (words.Count == 0)
            return names.Concat(OwnWords);
        if (words[0] == "help")
            return words.Count == 1 ? names : words.Count == 2 ? Verbs(palettes, words[1]) : [];
        if (words.Count == 1)
            return Verbs(palettes, words[0]);
        var command = palettes.FirstOrDefault(palette => palette.Name == words[0])?.Commands.FirstOrDefault(command => command.Name == words[1]);
        if (command is null)
            return [];
        var arguments = command.Arguments().ToList();
        var pending = arguments.FirstOrDefault(argument => !argument.Flag && argument.Switches.Contains(words[^1]));
        if (words.Count > 2 && pending is not null)
            return pending.Choices;
        var unused = arguments.Where(argument => !argument.Switches.Any(words.Skip(2).Contains)).ToList();
        return unused.Where(argument => argument.Bare).SelectMany(argument => argument.Choices).Concat(unused.SelectMany(argument => argument.Switches));
    }

    private static IEnumerable<string> Verbs(IReadOnlyList<PaletteDefinition> palettes, string palette) =>
        palettes.FirstOrDefault(one => one.Name == palette)?.Commands.Select(command => command.Name) ?? [];
}
