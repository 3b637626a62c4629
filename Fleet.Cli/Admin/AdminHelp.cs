using Fleet.Cli.Output;
using Fleet.Shared.Admin;

namespace Fleet.Cli.Admin;

/// <summary>Help, made from what the node told of its commands.</summary>
internal static class AdminHelp
{
    /// <summary>Of everything, of a palette, or of one command.</summary>
    /// <param name="palettes">What the node told.</param>
    /// <param name="words">What stands behind <c>help</c>.</param>
    /// <exception cref="CommandException">There is no such palette or verb.</exception>
    public static IEnumerable<string> Of(IReadOnlyList<PaletteDefinition> palettes, IReadOnlyList<string> words)
    {
        if (words.Count == 0)
            return OfAll(palettes);
        var palette = palettes.FirstOrDefault(palette => palette.Name == words[0])
            ?? throw Unknown($"There is no palette '{words[0]}'. Known: {string.Join(", ", palettes.Select(palette => palette.Name))}.");
        if (words.Count == 1)
            return OfPalette(palette);
        var command = palette.Commands.FirstOrDefault(command => command.Name == words[1])
            ?? throw Unknown($"{palette.Name} has no verb '{words[1]}'. Known: {string.Join(", ", palette.Commands.Select(command => command.Name))}.");
        return OfCommand(palette, command);
    }

    /// <summary>Palette, verb, and what it takes, in one line.</summary>
    public static string Usage(PaletteDefinition palette, CommandDefinition command) =>
        string.Join(' ', command.Arguments().Select(Usage).Prepend(command.Name).Prepend(palette.Name));

    private static IEnumerable<string> OfAll(IReadOnlyList<PaletteDefinition> palettes)
    {
        yield return "A command is PALETTE VERB [-x VALUE ...].";
        foreach (var line in Aligned(palettes.Select(palette => (palette.Name, palette.Description))))
            yield return line;
        yield return "'help PALETTE' lists its verbs, 'help PALETTE VERB' what one takes; 'exit' ends.";
    }

    private static IEnumerable<string> OfPalette(PaletteDefinition palette) =>
        Aligned(palette.Commands.Select(command => (Usage(palette, command), command.Description))).Prepend($"{palette.Name}: {palette.Description}");

    private static IEnumerable<string> OfCommand(PaletteDefinition palette, CommandDefinition command)
    {
        yield return Usage(palette, command);
        yield return command.Description;
        if (command.Confirm is not null)
            yield return command.Confirm;
        foreach (var line in Aligned(command.Arguments().Select(argument => (string.Join(", ", argument.Switches), Describe(argument)))))
            yield return line;
    }

    private static string Describe(ArgumentDefinition argument) =>
        argument.Description
        + (argument.Choices.Count > 0 ? $": {string.Join(", ", argument.Choices)}" : "")
        + (argument is { Minimum: { } least, Maximum: { } most } ? $", {least} to {most}" : "")
        + (argument.Default is { } value ? $" (default: {value})" : "")
        + (argument.Mandatory ? " (needed)" : "");

    private static string Usage(ArgumentDefinition argument)
    {
        var value = argument.Name.ToUpperInvariant();
        var usage = argument.Flag ? argument.Switches[0] : argument.Bare ? value : $"{argument.Switches[0]} {value}";
        return argument.Mandatory ? usage : $"[{usage}]";
    }

    private static IEnumerable<string> Aligned(IEnumerable<(string Left, string Right)> rows)
    {
        var all = rows.Select(row => (Left: Render.Printable(row.Left), Right: Render.Printable(row.Right))).ToList();
        var width = all.Max(row => row.Left.Length);
        return all.Select(row => $"  {row.Left.PadRight(width)}  {row.Right}");
    }

    private static CommandException Unknown(string message) => new(CommandException.Invalid, message);
}
