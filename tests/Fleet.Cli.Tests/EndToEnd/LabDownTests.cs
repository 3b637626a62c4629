using System.Net;
using System.Text.Json.Nodes;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>The end of a lab on which microVMs are placed. Its node is an agent on this machine: what counts is what becomes of its host.</summary>
public sealed class LabDownTests
{
    [Fact]
    public async Task Should_leave_no_host_of_the_lab_in_the_list()
    {
        await using var fleet = await RunningFleet.StartAsync("--lease", "6");
        using var node = new JoinedHost(fleet, "lab-1");
        await node.ConnectedAsync();
        var vm = (await fleet.CreateAsync(new JsonObject { ["driver"] = "simulated", ["host"] = "lab-1" })).GetProperty("id").GetString()!;
        await fleet.WaitForAsync(vm, "running");
        Directory.CreateDirectory(Path.Combine(fleet.Data, "lab", "lab-1"));
        node.Signal("KILL");

        var (exit, _, error) = await fleet.CliAsync("lab", "down", "--data", fleet.Data);

        Assert.True(exit == 0, error);
        Assert.Matches("^fleet: 1 microVMs are placed on host 'lab-1' .* Waiting for that.\n$", error);
        Assert.Equal(HttpStatusCode.NotFound, (await fleet.SendAsync(HttpMethod.Get, "/v1/hosts/lab-1")).Status);
        Assert.False(Directory.Exists(Path.Combine(fleet.Data, "lab")));
        // It is nowhere any more, so that nothing keeps it.
        (exit, _, error) = await fleet.CliAsync("vm", "delete", vm);
        Assert.True(exit == 0, error);
    }
}
