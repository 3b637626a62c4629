using System.CommandLine;
using System.Text.RegularExpressions;

namespace Fleet.Cli.Output;

/// <summary>What is wrong with a command line, in a line each; the parser's own way buries it under the whole help.</summary>
internal static partial class UsageErrors
{
    private const string CommandMissing = "Required command was not provided.";

    [GeneratedRegex("^Cannot parse argument '(?<word>.*)' for (?:option|command|argument) '(?<option>[^']*)' as expected type '(?<type>[^']*)'\\.", RegexOptions.Singleline)]
    private static partial Regex WrongType();

    /// <summary>Tells what is wrong, if anything; a command without its verb gets the help instead.</summary>
    /// <returns>The exit status; null: nothing is wrong.</returns>
    public static async Task<int?> TellAsync(ParseResult parsed, IReadOnlyList<string> words)
    {
        if (parsed.Errors.Count == 0)
            return null;
        if (parsed.Errors is [{ Message: CommandMissing }])
        {
            await parsed.RootCommandResult.Command.Parse([.. words, "--help"]).InvokeAsync();
            return ExitCodes.Usage;
        }

        foreach (var error in parsed.Errors.Where(error => error.Message != CommandMissing))
            await parsed.InvocationConfiguration.Error.WriteLineAsync($"fleet: {Render.Printable(Plain(error.Message))}");
        await parsed.InvocationConfiguration.Error.WriteLineAsync($"fleet: see {PathOf(parsed.CommandResult)} --help");
        return ExitCodes.Usage;
    }

    internal static string Plain(string message) => WrongType().Match(message) is { Success: true } match
        ? $"{match.Groups["option"].Value} wants {Kind(match.Groups["type"].Value)}, not '{match.Groups["word"].Value}'."
        // Choices come a line each.
        : string.Join(' ', message.Split((char[]?)null, StringSplitOptions.RemoveEmptyEntries));

    private static string Kind(string type) =>
        type.Contains("Int", StringComparison.Ordinal) ? "a whole number"
        : type.Contains("Double", StringComparison.Ordinal) ? "a number"
        : type.Contains("Uri", StringComparison.Ordinal) ? "an address"
        : type.Contains("Boolean", StringComparison.Ordinal) ? "true or false"
        : "another form";

    private static string PathOf(System.CommandLine.Parsing.CommandResult command)
    {
        var names = new Stack<string>();
        for (var at = command; at is not null; at = at.Parent as System.CommandLine.Parsing.CommandResult)
            names.Push(at.Parent is null ? "fleet" : at.Command.Name);
        return string.Join(' ', names);
    }
}
