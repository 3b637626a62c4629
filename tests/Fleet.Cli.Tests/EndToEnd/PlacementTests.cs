using System.Globalization;
using System.Text.Json;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>Where microVMs go and would go, as the command line says it.</summary>
public sealed class PlacementTests
{
    [Fact]
    public async Task Should_say_where_a_microvm_would_go_and_keep_a_group_apart()
    {
        await using var fleet = await RunningFleet.StartAsync("--zone", "a", "--label", "public/disk=ssd");
        string[] sleeper = ["--driver", "simulated", "--memory", "64"];
        var (exit, output, error) = await fleet.CliAsync(["vm", "place", .. sleeper, "--zone", "a", "--host-label", "public/disk=ssd", "--spread", "web", "--", "sleep", "100"]);
        Assert.True(exit == 0, error);
        Assert.StartsWith("It would go to box; 1 would do.", output, StringComparison.Ordinal);
        Assert.Contains("FIT", output, StringComparison.Ordinal);

        (exit, output, _) = await fleet.CliAsync(["vm", "place", "--driver", "simulated", "--memory", "1048576", "--zone", "a"]);
        Assert.Equal(1, exit);
        Assert.Contains("short of memory", output, StringComparison.Ordinal);
        Assert.Contains("memory_mib of ", output, StringComparison.Ordinal);
        (exit, output, _) = await fleet.CliAsync(["vm", "place", .. sleeper, "--zone", "b", "--json"]);
        Assert.Equal(1, exit);
        Assert.Equal("zones", JsonDocument.Parse(output).RootElement.GetProperty("would_fit_if")[0].GetProperty("field").GetString());
        Assert.Empty(JsonDocument.Parse((await fleet.CliAsync("vm", "list", "--json")).Output).RootElement.EnumerateArray());

        (exit, _, error) = await fleet.CliAsync(["vm", "run", "--detach", "--name", "one", .. sleeper, "--group", "web", "--apart", "web"]);
        Assert.True(exit == 0, error);
        // It is there and waits: not what a script does again.
        (exit, output, error) = await fleet.CliAsync(["vm", "run", "--detach", "--name", "two", .. sleeper, "--group", "web", "--apart", "web"]);
        Assert.Equal(7, exit);
        Assert.Contains("kept from it by its rules about groups", output, StringComparison.Ordinal);
        Assert.Contains("two was created, and runs as soon as there is room; fleet vm delete two ends that", error, StringComparison.Ordinal);
        (exit, output, _) = await fleet.CliAsync(["vm", "place", .. sleeper, "--with", "web,soft", "--apart", "web,zone"]);
        Assert.Equal(1, exit);
        Assert.Contains("without placement.affinity[1]", output, StringComparison.Ordinal);
        (exit, _, error) = await fleet.CliAsync(["vm", "run", .. sleeper, "--spread", "web,zone"]);
        Assert.Equal(125, exit);
        Assert.Contains("--spread wants GROUP", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_let_the_lower_class_give_way_and_come_back()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var host = JsonDocument.Parse((await fleet.CliAsync("host", "list", "--json")).Output).RootElement[0];
        string Share(int percent) => Math.Min(host.GetProperty("memory_mib").GetInt64() * percent / 100, 1_048_576).ToString(CultureInfo.InvariantCulture);
        var (exit, _, error) = await fleet.CliAsync("vm", "run", "--detach", "--name", "low", "--driver", "simulated", "--priority", "low", "--memory", Share(90));
        Assert.True(exit == 0, error);
        (exit, var output, error) = await fleet.CliAsync("vm", "place", "--driver", "simulated", "--memory", Share(50));
        Assert.True(exit == 0, error);
        Assert.StartsWith("It would take the room of microVMs of lower classes on box.", output, StringComparison.Ordinal);
        // Its node has just started, and says that it waits.
        (exit, _, error) = await fleet.CliAsync("vm", "run", "--detach", "--name", "normal", "--driver", "simulated", "--memory", Share(50));
        Assert.True(exit is 0 or 7, error);
        await fleet.WaitForAsync("normal", "running", seconds: 90);
        Assert.Equal("no_capacity", (await fleet.WaitForAsync("low", "unplaced")).GetProperty("reason").GetProperty("code").GetString());
        (exit, _, error) = await fleet.CliAsync("vm", "delete", "normal");
        Assert.True(exit == 0, error);
        var back = await fleet.WaitForAsync("low", "running");
        Assert.Equal((2, 0), (back.GetProperty("epoch").GetInt32(), back.GetProperty("restarts").GetInt32()));
    }

    [Fact]
    public async Task Should_say_that_the_host_of_a_volume_is_away_and_run_when_it_is_back()
    {
        await using var fleet = await RunningFleet.StartAsync();
        string[] wanted = ["--driver", "simulated", "--memory", "64", "--volume", "data:/data"];
        using (var far = new JoinedHost(fleet, "far"))
        {
            await far.ConnectedAsync();
            var (made, _, why) = await fleet.CliAsync("volume", "create", "data", "--host", "far", "--size", "16M");
            Assert.True(made == 0, why);
            await far.EndAsync();
            await RunningFleet.WaitAsync("host far to be missed", async () => (await far.ShowAsync()).GetProperty("state").GetString() != "connected", onTimeout: fleet.Log);
        }

        var (exit, output, error) = await fleet.CliAsync(["vm", "run", "--detach", "--name", "one", .. wanted]);
        Assert.Equal(7, exit);
        Assert.Contains("Its volume data is on host far, and only there it can run.", output, StringComparison.Ordinal);
        Assert.Equal("volume_elsewhere", (await fleet.WaitForAsync("one", "unplaced")).GetProperty("reason").GetProperty("code").GetString());
        (exit, output, _) = await fleet.CliAsync(["vm", "place", .. wanted, "--json"]);
        Assert.Equal(1, exit);
        Assert.Equal("volume_elsewhere", JsonDocument.Parse(output).RootElement.GetProperty("reason").GetProperty("code").GetString());
        (exit, output, error) = await fleet.CliAsync("volume", "list");
        Assert.True(exit == 0, error);
        Assert.Matches(@"data\s.*\sfar\s", output);

        using var back = new JoinedHost(fleet, "far");
        await back.ConnectedAsync();
        Assert.Equal("far", (await fleet.WaitForAsync("one", "running")).GetProperty("host").GetString());
        Assert.Equal(0, (await fleet.CliAsync("vm", "delete", "one")).Exit);
    }
}
