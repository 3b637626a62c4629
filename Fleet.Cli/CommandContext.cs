using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;

namespace Fleet.Cli;

/// <summary>The options that every command has, and the one place where a failure becomes a message and an exit code.</summary>
internal static class CommandContext
{
    public static readonly Option<Uri> Api = new("--api")
    {
        Description = "Address of the HTTP API (or FLEET_API)",
        Recursive = true,
        DefaultValueFactory = _ => new Uri(Environment.GetEnvironmentVariable("FLEET_API") is { Length: > 0 } set ? set : "http://127.0.0.1:7070"),
        CustomParser = result =>
        {
            var text = result.Tokens.Count == 1 ? result.Tokens[0].Value : "";
            if (Uri.TryCreate(text, UriKind.Absolute, out var uri) && uri.Scheme is "http" or "https")
                return uri;
            result.AddError($"--api wants an address such as http://127.0.0.1:7070, not '{text}'.");
            return null;
        },
    };

    public static readonly Option<bool> Json = new("--json") { Description = "Print JSON for programs", Recursive = true };

    /// <summary>Makes <paramref name="command"/> call the API, with failures told on standard error.</summary>
    public static Command Calls(this Command command, Func<ApiClient, ParseResult, CancellationToken, Task<int>> action, Func<string, int>? exitCode = null)
    {
        command.SetAction(async (parsed, cancellation) =>
        {
            using var client = new ApiClient(parsed.GetRequiredValue(Api));
            try
            {
                return await action(client, parsed, cancellation);
            }
            catch (ApiException refused)
            {
                Tell(parsed, refused.Code, refused.Message, refused.Problem);
                return (exitCode ?? ExitCodes.Of)(refused.Code);
            }
            catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
            {
                return ExitCodes.Interrupted;
            }
        });
        return command;
    }

    /// <summary>A failure: with --json the problem document on standard output, else a sentence on standard error.</summary>
    public static void Tell(ParseResult parsed, string code, string message, JsonElement? problem = null)
    {
        if (parsed.GetValue(Json))
        {
            if (problem is { } document)
                Render.Json(parsed.InvocationConfiguration.Output, document);
            else
                Render.Json(parsed.InvocationConfiguration.Output, new JsonObject { ["code"] = code, ["detail"] = message });
            return;
        }

        parsed.InvocationConfiguration.Error.WriteLine($"fleet: {Render.Printable(message)} ({code})");
    }
}
