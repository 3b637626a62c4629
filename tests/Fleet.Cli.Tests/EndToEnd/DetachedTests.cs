using System.Text.Json;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

public class DetachedTests
{
    [Fact]
    public async Task Should_say_that_another_fleet_holds_the_address()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var other = Path.Combine(fleet.Files, "other");

        var (exit, output, error) = await fleet.CliAsync("up", "--detach", "--data", other);

        Assert.True(exit != 0, output);
        Assert.Contains("can't listen on", error, StringComparison.Ordinal);
        Assert.Empty(fleet.Leftovers(other));

        (exit, _, error) = await fleet.CliAsync("up", "--detach", "--data", fleet.Data);
        Assert.NotEqual(0, exit);
        Assert.Contains("already_running", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_say_why_it_does_not_start_once_and_with_the_words_it_was_given()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var other = Path.Combine(fleet.Files, "other");
        var (exit, output, error) = await fleet.CliAsync("up", "--data", other, "--link", $"127.0.0.1:{FreePort.Next()}");
        Assert.Equal(1, exit);
        Assert.Single((output + error).Split('\n'), line => line.Contains("can't listen on", StringComparison.Ordinal));

        (exit, _, error) = await fleet.CliAsync("host", "--join", fleet.Link.ToString(), "--id", "BAD_ID", "--token", "nonsense", "--data", other);
        Assert.Equal(2, exit);
        Assert.Contains("not 'BAD_ID'", error, StringComparison.Ordinal);

        (exit, output, _) = await fleet.CliAsync("scheduler", "init", "--data", Path.Combine(fleet.Files, "new"));
        Assert.Equal(0, exit);
        Assert.EndsWith($"fleet scheduler --data {Path.Combine(fleet.Files, "new")}\n", output, StringComparison.Ordinal);

        (exit, output, error) = await fleet.CliAsync("lab", "up", "--link", fleet.Http.BaseAddress!.Authority, "--data", fleet.Data);
        Assert.Equal(1, exit);
        Assert.Contains("no link port", error, StringComparison.Ordinal);
        Assert.Contains("No node was started", error, StringComparison.Ordinal);
        (_, output, _) = await fleet.CliAsync("token", "list");
        Assert.DoesNotContain(output.Split('\n'), line => line.Contains("lab-1", StringComparison.Ordinal) && line.Contains("valid", StringComparison.Ordinal));
    }

    /// <summary>A host that is gone for good would keep its microVMs, and the fleet, for ever.</summary>
    [Fact]
    [Trait("Kind", "Slow")]
    public async Task Should_go_down_without_the_microvms_of_a_host_that_is_gone_and_say_so()
    {
        await using var fleet = await RunningFleet.StartAsync("--lease", "60");
        using (var host = new JoinedHost(fleet, "rack-1"))
        {
            await host.ConnectedAsync();
            foreach (var on in new[] { "rack-1", "box" })
                await fleet.WaitForAsync((await fleet.CreateAsync(new System.Text.Json.Nodes.JsonObject { ["driver"] = "simulated", ["host"] = on })).GetProperty("id").GetString()!, "running");
            host.Signal("KILL");
            await RunningFleet.WaitAsync("the host to be missed", async () => (await host.ShowAsync()).GetProperty("state").GetString() != "connected");

            var (exit, output, error) = await fleet.CliAsync("down", "--vms", "--data", fleet.Data);
            Assert.True(exit == 7, error);
            Assert.Matches("^fleet: 1 microVM is on host rack-1, which is disconnected: deleted when it is back or given up.*fleet host remove rack-1\n$", error);
            Assert.Equal("Fleet is down.\n", output);
        }

        // What it was told to do is done as soon as it can be.
        await fleet.UpAsync();
        await RunningFleet.WaitAsync("the host to be forgotten", async () => (await fleet.CliAsync("host", "remove", "rack-1")) is (0, "rack-1: removed\n", _), TimeSpan.FromSeconds(100));
        await RunningFleet.WaitAsync("its microVM to be gone", async () => (await fleet.SendAsync(HttpMethod.Get, "/v1/vms")).Body.GetProperty("items").GetArrayLength() == 0);
    }

    /// <summary>The directory and the API's address are two words of the command; they must lead to one node.</summary>
    [Fact]
    [Trait("Kind", "Slow")]
    public async Task Should_not_delete_the_microvms_of_another_fleet()
    {
        await using var other = await RunningFleet.StartAsync();
        var kept = await other.CreateAsync(new System.Text.Json.Nodes.JsonObject { ["driver"] = "simulated" });
        await using var fleet = await RunningFleet.StartAsync();

        var (exit, _, error) = await other.CliAsync("down", "--vms", "--data", fleet.Data);

        Assert.NotEqual(0, exit);
        Assert.Contains("other_fleet", error, StringComparison.Ordinal);
        Assert.Equal(System.Net.HttpStatusCode.OK, (await other.SendAsync(HttpMethod.Get, $"/v1/vms/{kept.GetProperty("id")}")).Status);
        Assert.Equal(System.Net.HttpStatusCode.OK, (await fleet.SendAsync(HttpMethod.Get, "/v1/vms")).Status);
    }

    /// <summary>A command in the foreground does not care that the control plane is started anew meanwhile.</summary>
    [Fact]
    [Trait("Kind", "Slow")]
    public async Task Should_go_on_with_a_run_over_a_restart_of_the_control_plane()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var run = fleet.CliAsync("vm", "run", "--name", "waits", "--host", "nobody", "--driver", "simulated", "--simulate", "run_ms=1,exit_status=5");
        await RunningFleet.WaitAsync("the microVM", async () => (await fleet.SendAsync(HttpMethod.Get, "/v1/vms/waits")).Status == System.Net.HttpStatusCode.OK);
        fleet.Kill();
        await fleet.UpAsync();
        await fleet.CliAsync("vm", "delete", "waits");

        var (exit, _, error) = await run;
        Assert.Equal(125, exit);
        Assert.DoesNotContain("unreachable", error, StringComparison.Ordinal);
        Assert.Contains("not_found", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_show_and_change_rate_limits_of_a_running_microvm()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var (exit, _, error) = await fleet.CliAsync("vm", "run", "--name", "limited", "--driver", "simulated", "--limit", "entropy=64KiB/s+1MiB", "--detach");
        Assert.True(exit == 0, error);
        await RunningFleet.WaitAsync("the host's figures", async () => (await fleet.CliAsync("vm", "limits", "limited")).Output.Contains("yes       0", StringComparison.Ordinal));

        (exit, var output, error) = await fleet.CliAsync("vm", "limits", "limited", "entropy=100ops/s");
        Assert.True(exit == 0, error);
        Assert.Equal("LIMITER  LIMIT     IN FORCE  OPS  BYTES  THROTTLED  WAITED\nentropy  100ops/s  yes       0    0      0          0 ms\n", output);
        Assert.Contains("fleet_vm_limiter_throttled_total{host=\"box\",vm=\"vm-", await fleet.Http.GetStringAsync("/metrics"), StringComparison.Ordinal);

        (_, output, _) = await fleet.CliAsync("vm", "limits", "limited", "entropy=none", "--json");
        Assert.Equal(JsonValueKind.Null, JsonDocument.Parse(output).RootElement.GetProperty("items")[0].GetProperty("limit").ValueKind);

        (exit, _, error) = await fleet.CliAsync("vm", "limits", "limited", "entropy=fast");
        Assert.Equal(2, exit);
        Assert.Contains("64KiB/s", error, StringComparison.Ordinal);
        (exit, _, error) = await fleet.CliAsync("vm", "limits", "limited", "disk=1/s");
        Assert.True(exit != 0);
        Assert.Contains("There is no rate limiter 'disk'", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_leave_a_node_behind_that_down_ends()
    {
        await using var fleet = await RunningFleet.StartAsync();
        await fleet.DownAsync();

        var (exit, output, error) = await fleet.CliAsync("up", "--detach", "--json", "--data", fleet.Data, "--link", $"127.0.0.1:{fleet.Link.Port}");
        Assert.True(exit == 0, error);
        var pid = JsonDocument.Parse(output).RootElement.GetProperty("pid").GetInt32();
        Assert.Contains(fleet.Data, RunningFleet.CommandLine(pid), StringComparison.Ordinal);

        (exit, _, error) = await fleet.CliAsync("down", "--data", fleet.Data);
        Assert.True(exit == 0, error);
        // The directory is free when down returns; the process behind it needs an instant more to be gone.
        await RunningFleet.WaitAsync("the process to be gone", () => Task.FromResult(RunningFleet.CommandLine(pid).Length == 0));
    }
}
