using System.CommandLine;
using System.Globalization;
using System.Text;
using System.Text.Json;
using Fleet.Cli.Api;
using Fleet.Cli.Output;

namespace Fleet.Cli.Vms;

/// <summary><c>fleet vm logs</c>: what a microVM's command wrote, its two outputs to the two of this program.</summary>
internal static class LogsCommand
{
    /// <summary>How often a cut stream is opened again behind the last line, before giving up.</summary>
    private const int Reconnects = 30;

    public static Command Create()
    {
        var name = VmCommands.NameArgument();
        var follow = new Option<bool>("--follow", "-f") { Description = "Go on until the microVM has ended" };
        var since = new Option<string?>("--since") { Description = "Only what came at that time or later: 2026-11-23T12:00:00Z, or 90s, 10m, 2h ago" };
        var tail = new Option<uint?>("--tail", "-n") { Description = "Only so many of the last lines" };
        var stream = new Option<string?>("--stream") { Description = "stdout or stderr (default: both)" };
        var times = new Option<bool>("--timestamps") { Description = "Put before each line when the host got it" };
        return new Command("logs", "Show what a microVM's command wrote") { name, follow, since, tail, stream, times }.Calls(async (api, parsed, cancellation) =>
        {
            var query = new Dictionary<string, string>(StringComparer.Ordinal) { ["follow"] = parsed.GetValue(follow) ? "true" : "false" };
            if (parsed.GetValue(since) is { } from)
                query["since"] = Time(from, TimeProvider.System.GetUtcNow());
            if (parsed.GetValue(tail) is { } lines)
                query["tail"] = lines.ToString(CultureInfo.InvariantCulture);
            if (parsed.GetValue(stream) is { } one)
                query["stream"] = one;
            await CopyAsync(api, parsed.GetRequiredValue(name), query, parsed.GetValue(CommandContext.Json) ? Form.Json : parsed.GetValue(times) ? Form.Timed : Form.Plain, cancellation);
            return ExitCodes.Ok;
        });
    }

    private enum Form
    {
        Plain,
        Timed,
        Json,
    }

    private static async Task CopyAsync(ApiClient api, string vm, Dictionary<string, string> query, Form form, CancellationToken cancellation)
    {
        await using var output = Console.OpenStandardOutput();
        await using var errors = Console.OpenStandardError();
        for (var attempt = 0; ; attempt++)
        {
            try
            {
                using var response = await api.OpenLogAsync(vm, "?" + string.Join('&', query.Select(pair => $"{pair.Key}={Uri.EscapeDataString(pair.Value)}")), cancellation);
                await using var body = await response.Content.ReadAsStreamAsync(cancellation);
                using var reader = new StreamReader(body, Encoding.UTF8);
                while (await reader.ReadLineAsync(cancellation) is { Length: > 0 } text)
                {
                    using var document = JsonDocument.Parse(text);
                    var line = document.RootElement;
                    var target = form != Form.Json && line.Text("stream") != "stdout" ? errors : output;
                    await target.WriteAsync(Encoding.UTF8.GetBytes(form == Form.Json ? text + "\n" : Shown(line, form)), cancellation);
                    await target.FlushAsync(cancellation);
                    // What was asked for of the first lines holds no more: these have been shown.
                    query["after"] = line.Text("position");
                    query.Remove("tail");
                    attempt = 0;
                }

                return;
            }
            catch (Exception broken) when (query["follow"] == "true" && attempt < Reconnects && ConsoleCommand.IsPassing(broken))
            {
                await Task.Delay(TimeSpan.FromMilliseconds(Math.Min(2000, 100 << Math.Min(attempt, 5))), cancellation);
            }
        }
    }

    private static string Shown(JsonElement line, Form form)
    {
        var time = form == Form.Timed ? line.Text("time") + " " : "";
        if (line.TryGetProperty("lost_bytes", out _))
            return $"{time}fleet: {line.Text("lost_bytes")} bytes are missing here\n";
        // A line of more than 16 KiB comes in pieces, and one that was never finished as the last of them.
        var isPartial = line.TryGetProperty("partial", out var partial) && partial.GetBoolean();
        return time + line.GetProperty("line").GetString() + (isPartial && form == Form.Plain ? "" : "\n");
    }

    private static string Time(string text, DateTimeOffset now) =>
        DurationText.TryParse(text, out var ago) ? (now - ago).UtcDateTime.ToString("o", CultureInfo.InvariantCulture)
        : DateTimeOffset.TryParse(text, CultureInfo.InvariantCulture, out _) ? text
        : throw new ApiException("invalid_query", "--since wants a time, as 2026-11-23T12:00:00Z, or how long ago, as 90s, 10m or 2h.");
}
