using System.Globalization;

namespace Fleet.Shared.Admin;

/// <summary>A command that its definition allows.</summary>
/// <param name="Palette">The first word.</param>
/// <param name="Command">The second.</param>
/// <param name="Arguments">Values by the name of their argument, defaults filled in; a flag that is there has the value <c>true</c>.</param>
public sealed record ParsedCommand(PaletteDefinition Palette, CommandDefinition Command, IReadOnlyDictionary<string, string> Arguments)
{
    /// <summary>Nobody has to be asked any more.</summary>
    public bool IsConfirmed => Command.Confirm is null || Arguments.ContainsKey(CommandGrammar.Yes.Name);
}

/// <summary>
/// <c>palette verb -x value …</c>, by the definitions of a node. The client checks by it before it sends, and the node again, so that both say
/// the same about the same line.
/// </summary>
public static class CommandGrammar
{
    private const int MaxQuoted = 64;

    /// <summary>What every command takes that has to be confirmed.</summary>
    public static readonly ArgumentDefinition Yes = new("yes", "Do it without asking", ["--yes"]) { Flag = true };

    /// <summary>All that a command takes.</summary>
    public static IEnumerable<ArgumentDefinition> Arguments(this CommandDefinition command)
    {
        ArgumentNullException.ThrowIfNull(command);
        return command.Confirm is null ? command.Arguments : command.Arguments.Append(Yes);
    }

    /// <summary>The command that the words are.</summary>
    /// <exception cref="CommandException">They are none; the message says what is known in that place.</exception>
    public static ParsedCommand Parse(IReadOnlyList<PaletteDefinition> palettes, IReadOnlyList<string> words)
    {
        ArgumentNullException.ThrowIfNull(palettes);
        CommandWords.Check(words);
        if (words.Count == 0)
            throw Invalid($"A command is a palette and a verb. Palettes: {Names(palettes.Select(palette => palette.Name))}.");
        var palette = palettes.FirstOrDefault(palette => palette.Name == words[0])
            ?? throw Invalid($"There is no palette {Short(words[0])}. Known: {Names(palettes.Select(palette => palette.Name))}.");
        var verbs = Names(palette.Commands.Select(command => command.Name));
        if (words.Count == 1)
            throw Invalid($"{palette.Name} needs a verb: {verbs}.");
        var command = palette.Commands.FirstOrDefault(command => command.Name == words[1])
            ?? throw Invalid($"{palette.Name} has no verb {Short(words[1])}. Known: {verbs}.");
        return new(palette, command, Values(palette, command, words));
    }

    private static Dictionary<string, string> Values(PaletteDefinition palette, CommandDefinition command, IReadOnlyList<string> words)
    {
        var place = $"{palette.Name} {command.Name}";
        var arguments = command.Arguments().ToList();
        var values = new Dictionary<string, string>(StringComparer.Ordinal);
        for (var at = 2; at < words.Count; at++)
        {
            var argument = arguments.FirstOrDefault(argument => argument.Switches.Contains(words[at]));
            string value;
            if (argument is null)
            {
                argument = words[at].StartsWith('-') ? null : arguments.FirstOrDefault(argument => argument.Bare);
                value = words[at];
            }
            else if (argument.Flag)
            {
                value = "true";
            }
            else if (at + 1 < words.Count && !arguments.Any(other => other.Switches.Contains(words[at + 1])))
            {
                value = words[++at];
            }
            else
            {
                throw Invalid($"{place}: {words[at]} wants a value: {argument.Description.ToLowerInvariant()}.");
            }

            if (argument is null)
            {
                var known = arguments.SelectMany(argument => argument.Switches).ToList();
                throw Invalid($"{place} does not take {Short(words[at])}. " + (known.Count == 0 ? "It takes nothing." : $"It takes {Names(known)}."));
            }
            CheckValue(place, argument, value);
            if (!values.TryAdd(argument.Name, value))
                throw Invalid($"{place}: {argument.Name} is given twice.");
        }

        foreach (var argument in arguments.Where(argument => !values.ContainsKey(argument.Name)))
        {
            if (argument.Mandatory)
                throw Invalid($"{place} needs {(argument.Bare ? "" : argument.Switches[0] + " ")}{argument.Name.ToUpperInvariant()}: {argument.Description.ToLowerInvariant()}.");
            if (argument.Default is { } value)
                values.Add(argument.Name, value);
        }
        return values;
    }

    private static void CheckValue(string place, ArgumentDefinition argument, string value)
    {
        if (argument.Choices.Count > 0 && !argument.Choices.Contains(value))
            throw Invalid($"{place}: {argument.Name} is one of {Names(argument.Choices)}, not {Short(value)}.");
        if (argument is { Minimum: { } least, Maximum: { } most }
            && !(long.TryParse(value, NumberStyles.None, CultureInfo.InvariantCulture, out var number) && number >= least && number <= most))
            throw Invalid($"{place}: {argument.Name} is a whole number from {least} to {most}, not {Short(value)}.");
        if (value.Length == 0)
            throw Invalid($"{place}: {argument.Name} is empty.");
    }

    private static string Names(IEnumerable<string> names) => string.Join(", ", names);

    private static string Short(string word) => $"'{(word.Length <= MaxQuoted ? word : word[..MaxQuoted] + "…")}'";

    private static CommandException Invalid(string message) => new(CommandException.Invalid, message);
}
