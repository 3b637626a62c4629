using System.CommandLine;
using System.CommandLine.Parsing;
using System.Runtime.InteropServices;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;
using Fleet.Shared.GuestChannel;

namespace Fleet.Cli.Vms;

/// <summary><c>fleet vm exec</c>: a command in a running microVM, beside its own; ends with that command's status.</summary>
internal static class ExecCommand
{
    private const string Verb = "exec";

    /// <summary>Long enough for an orderly end of scheduler and agent, and of what <c>vm run</c> started.</summary>
    private static readonly TimeSpan OthersPatience = TimeSpan.FromSeconds(40);

    /// <summary>How long the program may go on after a signal: with <c>exec</c>, whose command may answer one and go on, as long as that does.</summary>
    public static TimeSpan PatienceOf(ParseResult parsed) => parsed.CommandResult.Command.Name == Verb ? Timeout.InfiniteTimeSpan : OthersPatience;

    public static Command Create()
    {
        var name = VmCommands.NameArgument();
        var command = new Argument<string[]>("command") { Description = "What to run, after --", Arity = ArgumentArity.OneOrMore };
        var interactive = new Option<bool>("--interactive", "-i") { Description = "Send standard input to the command" };
        var terminal = new Option<bool>("--tty", "-t") { Description = "Give the command a terminal" };
        var workdir = new Option<string?>("--workdir", "-w") { Description = "Folder in the guest" };
        var user = new Option<string?>("--user", "-u") { Description = "Who to be in the guest, USER or USER:GROUP" };
        var env = new Option<string[]>("--env", "-e") { Description = "Added to the environment, KEY=VALUE" };
        var exec = new Command(Verb, "Run a command in a running microVM") { name, command, interactive, terminal, workdir, user, env };
        return exec.Calls(
            async (api, parsed, cancellation) =>
            {
                // Options behind the name and before -- would be taken for the command.
                if (parsed.GetRequiredValue(command) is [['-', ..] unknown, ..] words && words.Length > parsed.Tokens.Reverse().TakeWhile(token => token.Type != TokenType.DoubleDash).Count())
                    throw new ApiException("invalid_field", $"vm exec has no option {unknown}; a command that begins with '-' goes after --.");
                var request = new JsonObject { ["command"] = new JsonArray([.. parsed.GetRequiredValue(command).Select(word => JsonValue.Create(word))]) };
                var variables = new JsonObject();
                foreach (var word in parsed.GetValue(env) ?? [])
                {
                    var (key, value) = KeyValue.Parse(word) ?? throw new ApiException("invalid_field", $"--env wants KEY=VALUE, not '{word}'.");
                    variables[key] = value;
                }
                if (parsed.GetValue(workdir) is { } folder)
                    request["workdir"] = folder;
                if (parsed.GetValue(user) is { } account)
                    request["user"] = account;
                if (!parsed.GetValue(terminal))
                {
                    request["env"] = variables;
                    return await PlainAsync(api, parsed.GetRequiredValue(name), request, parsed.GetValue(interactive), cancellation);
                }
                if (Environment.GetEnvironmentVariable("TERM") is { Length: > 0 } kind)
                    variables.TryAdd("TERM", kind);
                request["env"] = variables;
                return await InTerminalAsync(api, parsed.GetRequiredValue(name), request, parsed.GetValue(interactive), cancellation);
            },
            code => code switch
            {
                "command_not_found" => ExitCodes.CommandNotFound,
                "command_not_executable" => ExitCodes.CommandNotExecutable,
                _ => ExitCodes.RunFailed,
            });
    }

    /// <summary>Signals that would end us go to the command, which ends us by its own end; where nobody takes them they end us.</summary>
    private static async Task<int> PlainAsync(ApiClient api, string vm, JsonObject request, bool interactive, CancellationToken cancellation)
    {
        await using var stream = await ExecStream.OpenAsync(api, vm, request, cancellation);
        var givenUp = new TaskCompletionSource();
        using var interrupt = Pass(PosixSignal.SIGINT, 2, stream, givenUp);
        using var terminate = Pass(PosixSignal.SIGTERM, 15, stream, givenUp);
        using var quit = Pass(PosixSignal.SIGQUIT, 3, stream, givenUp);
        // One that came before somebody passed it on.
        cancellation.ThrowIfCancellationRequested();
        using var input = interactive ? RawTerminal.OpenInput() : null;
        await using var output = Console.OpenStandardOutput();
        await using var errors = Console.OpenStandardError();
        // Not the program's own token: the signal that cancels it is the command's to answer.
        using var over = new CancellationTokenSource();
        var running = stream.RunAsync(input, output, errors, over.Token);
        await Task.WhenAny(running, givenUp.Task);
        await over.CancelAsync();
        try
        {
            // A write to one who does not read can't be called off: it ends with us.
            return givenUp.Task.IsCompleted ? await running.WaitAsync(TimeSpan.FromSeconds(1), CancellationToken.None) : await running;
        }
        catch (Exception gone) when (gone is OperationCanceledException or TimeoutException)
        {
            return ExitCodes.Interrupted;
        }
    }

    private static async Task<int> InTerminalAsync(ApiClient api, string vm, JsonObject request, bool interactive, CancellationToken cancellation)
    {
        using var own = interactive ? RawTerminal.TryEnter() : null;
        var (rows, columns) = WindowSize();
        (request["tty"], request["rows"], request["columns"]) = (true, rows, columns);
        await using var stream = await ExecStream.OpenAsync(api, vm, request, cancellation);
        using var resized = PosixSignalRegistration.Create(PosixSignal.SIGWINCH, _ => stream.Resize(WindowSize()));
        using var input = interactive ? RawTerminal.OpenInput() : null;
        await using var output = Console.OpenStandardOutput();
        return await stream.RunAsync(input, output, output, cancellation);
    }

    private static PosixSignalRegistration Pass(PosixSignal signal, byte number, ExecStream stream, TaskCompletionSource nobodyTakesIt) => PosixSignalRegistration.Create(signal, context =>
    {
        context.Cancel = true;
        if (!stream.TrySignal(number))
            nobodyTakesIt.TrySetResult();
    });

    private static (ushort Rows, ushort Columns) WindowSize()
    {
        try
        {
            return ((ushort)Math.Clamp(Console.WindowHeight, 1, 1000), (ushort)Math.Clamp(Console.WindowWidth, 1, 1000));
        }
        catch (IOException)
        {
            return (24, 80);
        }
    }
}
