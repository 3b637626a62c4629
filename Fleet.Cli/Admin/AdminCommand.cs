using System.CommandLine;
using Fleet.Cli.Output;
using Fleet.Shared.Admin;

namespace Fleet.Cli.Admin;

/// <summary><c>fleet admin</c>: the operator's console of one control-plane node. What commands there are, that node says.</summary>
internal static class AdminCommand
{
    public static Command Create()
    {
        var node = new Option<Uri?>("--node")
        {
            Description = "The control-plane node to speak to (default: --api)",
            CustomParser = result => CommandContext.Address(result, "--node", "http://127.0.0.1:7070"),
        };
        var words = new Argument<string[]>("command")
        {
            Description = "PALETTE VERB [-x VALUE ...]; without, an interactive shell, or commands from standard input line by line",
            Arity = ArgumentArity.ZeroOrMore,
        };
        return new Command("admin", "The operator's console of one control-plane node: 'fleet admin help' lists its commands") { node, words }.Calls(
            async (api, parsed, cancellation) =>
            {
                var session = await AdminSession.OpenAsync(api, parsed.InvocationConfiguration.Output, parsed.GetValue(CommandContext.Json), cancellation);
                if (parsed.GetValue(words) is { Length: > 0 } command)
                {
                    try
                    {
                        await new AdminShell(session, parsed, null).RunAsync(command, cancellation);
                        return ExitCodes.Ok;
                    }
                    catch (CommandException refused)
                    {
                        CommandContext.Tell(parsed, refused.Code, refused.Message);
                        return ExitCodes.Of(refused.Code);
                    }
                }
                if (!Console.IsInputRedirected && !Console.IsOutputRedirected)
                {
                    using var terminal = new ConsoleTerminal();
                    return await new AdminShell(session, parsed, terminal).RunInteractiveAsync(cancellation);
                }
                await using var input = Console.OpenStandardInput();
                return await new AdminShell(session, parsed, null).RunScriptAsync(input, cancellation);
            },
            address: parsed => parsed.GetValue(node) ?? parsed.GetRequiredValue(CommandContext.Api));
    }
}
