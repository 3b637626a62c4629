using System.CommandLine;
using Fleet.Cli.Api;
using Fleet.Cli.Output;
using Fleet.Shared.Admin;

namespace Fleet.Cli.Admin;

/// <summary>Commands line by line: from a person at a terminal, or from a file or pipe.</summary>
/// <param name="session">The node.</param>
/// <param name="parsed">Where it prints, and how.</param>
/// <param name="terminal">The person's; null: nobody is there to be asked.</param>
internal sealed class AdminShell(AdminSession session, ParseResult parsed, ConsoleTerminal? terminal)
{
    private readonly TextWriter _output = parsed.InvocationConfiguration.Output;

    /// <summary>Runs every line of standard input. Goes on after one that failed; the exit status is that of the last one that did.</summary>
    public async Task<int> RunScriptAsync(Stream input, CancellationToken cancellation)
    {
        var exit = ExitCodes.Ok;
        // A character is at most four bytes.
        await foreach (var line in LineReader.ReadAsync(input, CommandWords.MaxLine * 4, cancellation))
        {
            if (line is null)
                exit = Fail(CommandException.Invalid, $"A line is longer than {CommandWords.MaxLine} characters, the most that is taken; it was left out.");
            else if (await RunLineAsync(line, cancellation) is not { } status)
                break;
            else if (status != ExitCodes.Ok)
                exit = status;
        }
        return exit;
    }

    /// <summary>Prompts until the user leaves.</summary>
    public async Task<int> RunInteractiveAsync(CancellationToken cancellation)
    {
        var history = new History(History.DefaultFile());
        var editor = new LineEditor(terminal!, history, before => Completion.Of(session.Palettes, before));
        _output.WriteLine($"{session.Palettes.Count} palettes of {session.Node}. 'help' lists them, Tab completes, 'exit' ends.");
        while (true)
        {
            var line = await Task.Run(() => editor.Read($"[{session.Node.Authority}] fleet> "), CancellationToken.None).WaitAsync(cancellation);
            if (line is null)
                return ExitCodes.Ok;
            if (line.Trim().Length > 0)
                history.Add(line);
            if (await RunLineAsync(line, cancellation) is null)
                return ExitCodes.Ok;
        }
    }

    /// <returns>The exit status; null: that was the last line.</returns>
    private async Task<int?> RunLineAsync(string line, CancellationToken cancellation)
    {
        try
        {
            var words = CommandWords.Split(line);
            if (words.Count == 0)
                return ExitCodes.Ok;
            if (words is ["exit" or "quit"])
                return null;
            await RunAsync(words, cancellation);
            return ExitCodes.Ok;
        }
        catch (CommandException refused)
        {
            return Fail(refused.Code, refused.Message);
        }
        catch (ApiException refused)
        {
            return Fail(refused.Code, refused.Message);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            // Ctrl-C ended the command; the shell goes on.
            return ExitCodes.Interrupted;
        }
    }

    /// <summary>Runs one command, or tells help.</summary>
    /// <exception cref="CommandException">The words are no command.</exception>
    /// <exception cref="ApiException">The node refused it, or it failed.</exception>
    public async Task RunAsync(IReadOnlyList<string> words, CancellationToken cancellation)
    {
        // Also behind the palette that one wants help for.
        string[]? asked = words[0] == "help" ? [.. words.Skip(1)] : words is [var palette, "help"] ? [palette] : null;
        if (asked is not null)
        {
            foreach (var text in AdminHelp.Of(session.Palettes, asked))
                _output.WriteLine(text);
            return;
        }
        var command = session.Parse(words);
        if (terminal is null)
        {
            await session.RunAsync(words, cancellation);
            return;
        }
        if (!command.IsConfirmed)
        {
            _output.WriteLine(Render.Printable(command.Command.Confirm!));
            if (!IsConfirmed(terminal))
            {
                _output.WriteLine("Nothing was done.");
                return;
            }
            words = [.. words, CommandGrammar.Yes.Switches[0]];
        }
        await using var watch = terminal.CancelOnCtrlC(cancellation);
        await session.RunAsync(words, watch.Token);
    }

    private int Fail(string code, string message)
    {
        CommandContext.Tell(parsed, code, message);
        return ExitCodes.Of(code);
    }

    private static bool IsConfirmed(ConsoleTerminal terminal) =>
        new LineEditor(terminal, new History(null), static before => new(before.Length, [])).Read("Do it? [y/N] ")?.Trim().ToLowerInvariant() is "y" or "yes";
}
