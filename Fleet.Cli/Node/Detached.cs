using System.CommandLine;
using System.Diagnostics;
using System.Text.Json;
using Fleet.Cli.Access;
using Fleet.Cli.Api;
using Fleet.Cli.Output;

namespace Fleet.Cli.Node;

/// <summary><c>fleet up --detach</c>: starts the node in a session of its own and returns when it takes requests.</summary>
internal static class Detached
{
    private static readonly TimeSpan Patience = TimeSpan.FromMinutes(4);
    private static readonly TimeSpan Quiet = TimeSpan.FromSeconds(5);

    public static async Task<int> StartAsync(
        ParseResult parsed, DataDirectory data, Uri api, IReadOnlyList<string> arguments, bool withHost, CancellationToken cancellation)
    {
        var console = Path.Combine(data.Log, "up.out");
        try
        {
            if (NodeLock.IsHeld(data))
            {
                CommandContext.Tell(parsed, "already_running", $"Fleet already runs on {data.Root}; fleet down ends it.");
                return ExitCodes.Conflict;
            }
            Directory.CreateDirectory(data.Log);
            // What an earlier run said last is no news of this one.
            await File.WriteAllTextAsync(console, "", cancellation);
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            CommandContext.Tell(parsed, "start_failed", data.Unusable(fault));
            return ExitCodes.Failed;
        }

        if (withHost && data.Tight() is { } tight)
            CommandContext.Warn(parsed, tight);

        // setsid: a Ctrl-C or the end of this terminal must not reach it. Words are passed as words, never through the shell's parser.
        using var node = Process.Start(new ProcessStartInfo("sh", ["-c", "out=$1; shift; exec setsid \"$@\" </dev/null >\"$out\" 2>&1", "sh", console, Environment.ProcessPath!, Programs.Cli, .. arguments]))!;
        using var client = new ApiClient(api, ApiCredentials.Of(parsed));
        var clock = Stopwatch.StartNew();
        string? waitsFor = null, told = null;
        while (clock.Elapsed < Patience)
        {
            if (node.HasExited)
            {
                CommandContext.Tell(parsed, "start_failed", $"Fleet ended with status {node.ExitCode} while starting: {Tail(console)}\nThe log is in {data.Log}.");
                return ExitCodes.Failed;
            }

            waitsFor = await NotReadyAsync(client, node.Id, withHost, cancellation);
            // What is over in a moment belongs to every start.
            if (waitsFor is { Length: > 0 } && waitsFor != told && clock.Elapsed > Quiet)
                CommandContext.Warn(parsed, $"not ready yet: {told = waitsFor}");
            if (waitsFor is null)
            {
                if (parsed.GetValue(CommandContext.Json))
                    Render.Json(parsed.InvocationConfiguration.Output, new System.Text.Json.Nodes.JsonObject { ["api"] = api.ToString(), ["pid"] = node.Id, ["data"] = data.Root });
                else
                    parsed.InvocationConfiguration.Output.WriteLine($"Fleet is up: API {api}, state in {data.Root}, pid {node.Id}. fleet down ends it.");
                return ExitCodes.Ok;
            }

            await Task.Delay(100, cancellation);
        }

        CommandContext.Tell(parsed, "start_failed", $"Fleet was not ready within {Patience.TotalSeconds} s; it still tries{(waitsFor is { Length: > 0 } ? $": {waitsFor}" : ".")} The log is in {data.Log}.");
        return ExitCodes.Timeout;
    }

    /// <summary>Null: it is ready. Else why not, or nothing where only its start is awaited.</summary>
    private static async Task<string?> NotReadyAsync(ApiClient client, int pid, bool withHost, CancellationToken cancellation)
    {
        try
        {
            // Another Fleet may hold the address; ours then ends by itself and says so.
            if (!await client.IsServedByAsync(pid, cancellation))
                return "";
            if (!withHost)
                return null;
            var hosts = await client.ListAsync("v1/hosts", cancellation);
            return hosts.Any(host => JsonSerializer.SerializeToElement(host).Text("state") == "connected") ? null : "";
        }
        catch (ApiException notYet) when (notYet.Code is ApiException.Unreachable or "unavailable" or "unauthenticated" or "wrong_cell")
        {
            return notYet.Code == "unavailable" ? notYet.Message : "";
        }
    }

    private static string Tail(string file) =>
        string.Join('\n', File.ReadLines(file).Where(line => line.Length > 0).TakeLast(5)) is { Length: > 0 } text ? text : "it said nothing.";
}
