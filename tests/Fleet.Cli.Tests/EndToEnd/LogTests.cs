using System.Text.Json;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>What a microVM's command writes, from the guest to the command line, on whatever this machine's <c>auto</c> is.</summary>
[Trait("Kind", "Slow")]
public sealed class LogTests
{
    private static readonly TimeSpan Boot = TimeSpan.FromSeconds(120);

    [Fact]
    public async Task Should_keep_the_outputs_apart_over_the_end_and_kill_9_of_the_agent()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var (exit, output, error) = await fleet.CliAsync(
            "vm", "run", "-d", "--name", "talks", "--", "sh", "-c", "echo out; echo err >&2; until [ -e /tmp/go ]; do sleep 0.2; done; seq 1 200000; echo last >&2; exit 3");
        Assert.True(exit == 0, $"{output}\n{error}\n{fleet.Log()}");
        await RunningFleet.WaitAsync("the first lines", async () => await LogsAsync(fleet) == ("out\n", "err\n"), Boot);
        var following = fleet.CliAsync("vm", "logs", "-f", "talks", "--stream", "stdout");

        // What is written while there is no agent comes to the next one; who follows notices nothing.
        fleet.Kill();
        await fleet.UpAsync();
        await fleet.WaitForAsync("talks", "running");
        await RunningFleet.WaitAsync("the guest's answer to the next agent", async () => (await fleet.CliAsync("vm", "exec", "talks", "--", "touch", "/tmp/go")).Exit == 0, Boot);
        var stopped = await fleet.WaitForAsync("talks", "stopped,failed");
        Assert.Equal(3, stopped.GetProperty("exit_status").GetInt32());
        Assert.Equal("""{"first":0,"end":1288908,"lost_bytes":0}""", stopped.GetProperty("log").GetRawText());

        var numbers = string.Concat(Enumerable.Range(1, 200_000).Select(i => $"{i}\n"));
        (exit, output, error) = await following.WaitAsync(Boot);
        Assert.True(exit == 0, error);
        Assert.True(output == "out\n" + numbers, $"{output.Length} bytes of {numbers.Length + 4} came to who followed");
        var all = await LogsAsync(fleet);
        Assert.Equal(("out\n" + numbers, "err\nlast\n"), all);

        Assert.Equal(("199999\n200000\n", ""), await LogsAsync(fleet, "--tail", "2", "--stream", "stdout"));
        Assert.Equal(("", ""), await LogsAsync(fleet, "--since", "2100-01-01T00:00:00Z"));
        (_, output, _) = await fleet.CliAsync("vm", "logs", "talks", "--json", "--tail", "1");
        var line = JsonDocument.Parse(output).RootElement;
        Assert.Equal(("stderr", "last"), (line.GetProperty("stream").GetString(), line.GetProperty("line").GetString()));
        Assert.InRange(line.GetProperty("time").GetDateTimeOffset(), DateTimeOffset.UtcNow.AddMinutes(-5), DateTimeOffset.UtcNow.AddSeconds(1));

        var folder = Path.Combine(fleet.Data, "host", "vms", stopped.GetProperty("id").GetString()!);
        Assert.True(File.Exists(Path.Combine(folder, "log.1")));
        (exit, _, error) = await fleet.CliAsync("vm", "delete", "talks");
        Assert.True(exit == 0, error);
        Assert.False(Directory.Exists(folder));
        (exit, _, error) = await fleet.CliAsync("vm", "logs", "talks");
        Assert.Equal(3, exit);
    }

    [Fact]
    public async Task Should_show_what_a_guest_says_of_itself_and_tell_how_a_stop_went()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var (exit, output, error) = await fleet.CliAsync(
            "vm", "run", "-d", "--name", "talks", "--stop-grace", "6", "--health", "[interval=1]exec:true", "--", "sh", "-c", "trap '' TERM; echo up; while :; do sleep 1; done");
        Assert.True(exit == 0, $"{output}\n{error}\n{fleet.Log()}");
        await RunningFleet.WaitAsync("the command's first line", async () => (await LogsAsync(fleet)).Output == "up\n", Boot);
        JsonElement guest = default;
        await RunningFleet.WaitAsync("the guest's word", async () =>
        {
            var usage = JsonDocument.Parse((await fleet.CliAsync("vm", "show", "talks", "--json")).Output).RootElement.GetProperty("usage");
            return usage.ValueKind == JsonValueKind.Object && (guest = usage.GetProperty("guest")).ValueKind == JsonValueKind.Object
                && guest.GetProperty("health").GetProperty("state").GetString() == "passing";
        }, Boot);
        Assert.InRange(guest.GetProperty("memory_mib").GetInt32(), 128, 256);
        Assert.InRange(guest.GetProperty("available_mib").GetInt32(), 1, guest.GetProperty("memory_mib").GetInt32());
        Assert.Equal(3, guest.GetProperty("load").GetArrayLength());
        (_, output, _) = await fleet.CliAsync("vm", "show", "talks");
        Assert.Contains("health   passing", output, StringComparison.Ordinal);

        // It has the grace of its spec, of which its command gets four seconds.
        var began = System.Diagnostics.Stopwatch.StartNew();
        (exit, output, error) = await fleet.CliAsync("vm", "stop", "talks");
        Assert.True(exit == 0, error);
        Assert.InRange(began.Elapsed.TotalSeconds, 3.5, 30);
        var stopped = await fleet.WaitForAsync("talks", "stopped");
        Assert.Equal(("stop_requested", 137), (stopped.GetProperty("reason").GetProperty("code").GetString(), stopped.GetProperty("exit_status").GetInt32()));
        Assert.Contains("was killed", stopped.GetProperty("reason").GetProperty("message").GetString(), StringComparison.Ordinal);
        (exit, _, error) = await fleet.CliAsync("vm", "delete", "talks");
        Assert.True(exit == 0, error);
    }

    private static async Task<(string Output, string Errors)> LogsAsync(RunningFleet fleet, params string[] options)
    {
        var (exit, output, errors) = await fleet.CliAsync(["vm", "logs", "talks", .. options]);
        return exit == 0 ? (output, errors) : ("", $"exit {exit}: {errors}");
    }
}
