using System.Text.Json;
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
        Assert.Equal("", RunningFleet.CommandLine(pid));
    }
}
