using System.CommandLine;
using System.CommandLine.Parsing;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Access;
using Fleet.Cli.Api;
using Fleet.Cli.Node;
using Fleet.Cli.Output;

namespace Fleet.Cli;

/// <summary>The options that every command has, and the one place where a failure becomes a message and an exit code.</summary>
internal static class CommandContext
{
    /// <summary>Environment variable that says where the API is.</summary>
    public const string ApiVariable = "FLEET_API";

    private const string ApiExample = "http://127.0.0.1:7070";

    /// <summary>Where the API is when nobody says otherwise.</summary>
    public static readonly Uri DefaultApi = new(ApiExample);

    public static readonly Option<Uri> Api = new("--api")
    {
        Description = "Address of the HTTP API (or FLEET_API)",
        Recursive = true,
        DefaultValueFactory = result => Address(result, DefaultText(), ApiVariable, ApiExample)!,
        CustomParser = result => Address(result, "--api", ApiExample),
    };

    public static readonly Option<DirectoryInfo> Data = DataDirectory.Option();

    public static readonly Option<string?> Token = new("--token")
    {
        Description = "Token for the API, or to join with (better FLEET_TOKEN, which other users can't read; default: the one of the node on this machine)",
        Recursive = true,
        DefaultValueFactory = _ => Environment.GetEnvironmentVariable("FLEET_TOKEN") is { Length: > 0 } set ? set : null,
    };

    public static readonly Option<FileInfo?> Authority = new("--ca")
    {
        Description = "The cell's root certificate, PEM, to know an HTTPS API by (or FLEET_CA; default: by the token)",
        Recursive = true,
        DefaultValueFactory = _ => Environment.GetEnvironmentVariable("FLEET_CA") is { Length: > 0 } set ? new FileInfo(set) : null,
    };

    public static readonly Option<bool> Json = new("--json") { Description = "Print JSON for programs", Recursive = true };

    /// <summary>An http address out of an option's word; one without a scheme is http.</summary>
    public static Uri? Address(ArgumentResult result, string option, string example) =>
        Address(result, result.Tokens.Count == 1 ? result.Tokens[0].Value : "", option, example);

    /// <summary>Where the API is when <see cref="Api"/> is not given; null: the variable holds no address.</summary>
    public static Uri? DefaultAddress() => Parse(DefaultText());

    /// <summary>Whether an address says its port: without one it is that of the web, where no part of Fleet listens unless told to.</summary>
    public static bool NamesPort(Uri address) => !address.IsDefaultPort || address.OriginalString.TrimEnd('/').EndsWith($":{address.Port}", StringComparison.Ordinal);

    private static string DefaultText() => Environment.GetEnvironmentVariable(ApiVariable) is { Length: > 0 } set ? set : ApiExample;

    private static Uri? Address(ArgumentResult result, string text, string option, string example)
    {
        if (Parse(text) is { } address)
            return address;
        result.AddError($"{option} wants an address such as {example}, not '{text}'.");
        return null;
    }

    private static Uri? Parse(string text) =>
        Uri.TryCreate(text.Contains("://", StringComparison.Ordinal) ? text : $"http://{text}", UriKind.Absolute, out var uri) && uri is { Scheme: "http" or "https", Host.Length: > 0 } ? uri : null;

    /// <summary>Makes <paramref name="command"/> call the API, with failures told on standard error.</summary>
    public static Command Calls(
        this Command command, Func<ApiClient, ParseResult, CancellationToken, Task<int>> action, Func<string, int>? exitCode = null, Func<ParseResult, Uri>? address = null)
    {
        command.SetAction(async (parsed, cancellation) =>
        {
            using var client = new ApiClient(address?.Invoke(parsed) ?? parsed.GetRequiredValue(Api), ApiCredentials.Of(parsed));
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

    /// <summary>What should be known beside the answer: a sentence on standard error.</summary>
    public static void Warn(ParseResult parsed, string message) => parsed.InvocationConfiguration.Error.WriteLine($"fleet: {Render.Printable(message)}");

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

        parsed.InvocationConfiguration.Error.WriteLine($"fleet: {string.Join('\n', message.Split('\n').Select(Render.Printable))} ({code})");
    }
}
