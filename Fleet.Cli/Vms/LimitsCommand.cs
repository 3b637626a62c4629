using System.CommandLine;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Api;
using Fleet.Cli.Output;

namespace Fleet.Cli.Vms;

/// <summary><c>fleet vm limits</c>: what the rate limiters of a microVM let pass and what they throttled; with settings, change that.</summary>
internal static class LimitsCommand
{
    /// <summary>A change is in force within moments; one that is not by then has its reason in the microVM.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(10);

    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(250);

    public static Command Create()
    {
        var name = VmCommands.NameArgument();
        var settings = new Argument<string[]>("setting") { Description = LimitText.Form, Arity = ArgumentArity.ZeroOrMore };
        return new Command("limits", "Show rate limiters and what they throttled; with settings, change them while it runs") { name, settings }.Calls(async (api, parsed, cancellation) =>
        {
            var path = VmCommands.PathOf(parsed.GetRequiredValue(name)) + "/rate_limits";
            var wanted = (parsed.GetValue(settings) ?? []).Select(Setting).ToList();
            foreach (var (limiter, limit) in wanted)
            {
                var one = $"{path}/{Uri.EscapeDataString(limiter)}";
                _ = limit is null ? await api.DeleteAsync(one, cancellation) : await api.PutAsync(one, limit, cancellation);
            }

            var shown = wanted.Count == 0 ? await api.GetAsync(path, cancellation) : await InForceAsync(api, path, cancellation);
            Print(parsed, shown);
            return ExitCodes.Ok;
        });
    }

    /// <summary>The body of a create: every <c>--limit</c>.</summary>
    public static JsonObject? Of(string[]? words)
    {
        if (words is not { Length: > 0 })
            return null;
        var limits = new JsonObject();
        foreach (var (name, limit) in words.Select(Setting))
            limits[name] = limit;
        return limits;
    }

    private static (string Name, JsonObject? Limit) Setting(string word) =>
        LimitText.Parse(word) ?? throw new ApiException("invalid_field", $"'{word}' is no rate limit. Write {LimitText.Form}.");

    /// <summary>Waits a moment for what was asked for; what a microVM that does not run wants is there without waiting.</summary>
    private static async Task<JsonElement> InForceAsync(ApiClient api, string path, CancellationToken cancellation)
    {
        var began = TimeProvider.System.GetTimestamp();
        while (true)
        {
            var shown = await api.GetAsync(path, cancellation);
            if (shown.GetProperty("items").EnumerateArray().All(one => one.GetProperty("in_force").GetBoolean())
                || TimeProvider.System.GetElapsedTime(began) > Patience
                || (await api.GetAsync(path[..path.LastIndexOf('/')], cancellation)).Text("state") != "running")
            {
                return shown;
            }

            await Task.Delay(Pause, cancellation);
        }
    }

    private static void Print(ParseResult parsed, JsonElement shown)
    {
        var output = parsed.InvocationConfiguration.Output;
        if (parsed.GetValue(CommandContext.Json))
        {
            Render.Json(output, shown);
            return;
        }

        var rows = shown.GetProperty("items").EnumerateArray().Select(one =>
        {
            var measured = one.GetProperty("measured");
            string Figure(string name) => measured.ValueKind == JsonValueKind.Object ? measured.Text(name) : "-";
            return (IReadOnlyList<string>)
            [
                one.Text("name"), LimitText.Of(one.GetProperty("limit")), one.GetProperty("in_force").GetBoolean() ? "yes" : "no",
                Figure("passed_ops"), Figure("passed_bytes"), Figure("throttled_count"),
                measured.ValueKind == JsonValueKind.Object ? $"{measured.GetProperty("throttled_us").GetUInt64() / 1000} ms" : "-",
            ];
        });
        Render.Table(output, ["LIMITER", "LIMIT", "IN FORCE", "OPS", "BYTES", "THROTTLED", "WAITED"], rows);
    }
}
