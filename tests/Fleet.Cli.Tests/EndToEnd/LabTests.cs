using System.Text.Json;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>Bare-metal hosts with real KVM, joined over the network: Linux under fleet-vmm, and what happens when one loses power.</summary>
[Trait("Kind", "Slow")]
public sealed class LabTests
{
    [Fact]
    public async Task Should_boot_linux_under_fleet_vmm_on_a_lab_host_and_survive_its_loss()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var lab = new[] { "--data", fleet.Data };
        try
        {
            var (exit, output, error) = await fleet.CliAsync(["lab", "up", "--nodes", "1", "--link", fleet.Link.Authority, .. lab]);
            Assert.True(exit == 0, $"{output}\n{error}\n{fleet.Log()}");

            foreach (var cpus in new[] { 1, 2, 4 })
            {
                (exit, output, error) = await fleet.CliAsync(
                    "vm", "run", "--driver", "kvm", "--cpus", $"{cpus}", "--memory", "256", "--", "sh", "-c", "echo hello from $(uname -r) on $(nproc) cpus; exit 7");
                Assert.True(exit == 7, $"{cpus} cpus: exit {exit}\n{output}\n{error}\n{await LogAsync(fleet, lab)}");
                Assert.Matches($@"^hello from 6\.1\S* on {cpus} cpus\r?\n$", output);
            }

            var (_, list) = await fleet.SendAsync(HttpMethod.Get, "/v1/vms");
            Assert.All(list.GetProperty("items").EnumerateArray(), vm =>
            {
                Assert.Equal("lab-1", vm.GetProperty("host").GetString());
                Assert.Equal("kvm", vm.GetProperty("driver").GetString());
            });
            foreach (var vm in list.GetProperty("items").EnumerateArray())
                await fleet.DeleteAsync(vm);

            (exit, output, _) = await fleet.CliAsync(["lab", "list", "--json", .. lab]);
            Assert.Equal(0, exit);
            var node = Assert.Single(JsonDocument.Parse(output).RootElement.EnumerateArray());
            var pid = node.GetProperty("pid").GetInt32();
            Assert.Equal("running", node.GetProperty("state").GetString());

            (exit, _, error) = await fleet.CliAsync(["lab", "poweroff", "lab-1", .. lab]);
            Assert.True(exit == 0, error);
            Assert.Equal("", RunningFleet.CommandLine(pid));
            await RunningFleet.WaitAsync("the host to be seen as gone", async () =>
                (await fleet.SendAsync(HttpMethod.Get, "/v1/hosts/lab-1")).Body.GetProperty("state").GetString() == "disconnected");
        }
        finally
        {
            var (exit, _, error) = await fleet.CliAsync(["lab", "down", .. lab]);
            Assert.True(exit == 0, error);
        }

        Assert.Empty(fleet.Leftovers(Path.Combine(fleet.Data, "lab")));
        Assert.Equal(System.Net.HttpStatusCode.NotFound, (await fleet.SendAsync(HttpMethod.Get, "/v1/hosts/lab-1")).Status);
    }

    private static async Task<string> LogAsync(RunningFleet fleet, string[] lab) => (await fleet.CliAsync(["lab", "log", "lab-1", .. lab])).Output;
}
