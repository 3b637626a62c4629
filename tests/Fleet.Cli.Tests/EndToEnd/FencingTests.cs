using System.Diagnostics;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>A host that falls silent: its guest stands still before another copy runs, and nothing of it stays when it returns.</summary>
public sealed class FencingTests
{
    private const int Lease = 6;

    [SkippableFact]
    [Trait("Kind", "Slow")]
    public async Task Should_never_run_a_microvm_twice_when_its_host_stops_answering()
    {
        Skip.IfNot(File.Exists("/dev/kvm") && Environment.IsPrivilegedProcess, "needs root and /dev/kvm");
        // The fleet's own host is too small for the microVM.
        await using var fleet = await RunningFleet.StartAsync("--memory", "64", "--lease", $"{Lease}");
        using var one = new JoinedHost(fleet, "one");
        await one.ConnectedAsync();
        var vm = await fleet.CreateAsync(new JsonObject
        {
            ["name"] = "spins", ["memory_mib"] = 128, ["driver"] = "kvm", ["boot"] = new JsonObject { ["kernel_path"] = fleet.Kernel(SmallGuest.Silent) },
        });
        var first = await fleet.WaitForAsync("spins", "running,failed");
        var relaxed = await fleet.CreateAsync(new JsonObject
        {
            ["name"] = "relaxed", ["memory_mib"] = 128, ["driver"] = "kvm", ["boot"] = new JsonObject { ["kernel_path"] = fleet.Kernel(SmallGuest.Silent) }, ["fencing"] = "relaxed",
        });
        Assert.Contains("may run twice", (await fleet.CliAsync("vm", "show", "relaxed")).Output, StringComparison.Ordinal);
        var twice = (await fleet.WaitForAsync("relaxed", "running,failed")).GetProperty("vmm_pid").GetInt32();
        var pid = first.GetProperty("vmm_pid").GetInt32();
        Assert.Equal(("one", 1), (first.GetProperty("host").GetString(), first.GetProperty("epoch").GetInt32()));
        var before = JoinedHost.CpuTicks(pid);
        await RunningFleet.WaitAsync("the guest to run", () => Task.FromResult(JoinedHost.CpuTicks(pid) > before));
        using var two = new JoinedHost(fleet, "two");
        await two.ConnectedAsync();

        // Not even the agent can tell its VMMs anything now.
        one.Signal("STOP");
        var silent = Stopwatch.StartNew();
        var stood = 0L;
        await RunningFleet.WaitAsync("another copy", async () =>
        {
            stood = JoinedHost.CpuTicks(pid);
            var now = await GetAsync(fleet);
            return now.GetProperty("epoch").GetInt32() == 2;
        });
        var took = silent.Elapsed;
        var placed = await fleet.WaitForAsync("spins", "running");
        Assert.Equal(("two", 2), (placed.GetProperty("host").GetString(), placed.GetProperty("epoch").GetInt32()));

        // The lease counts from the last heartbeat, up to 2 s before; and one tick is 10 ms.
        Assert.InRange(took.TotalSeconds, Lease - 2, Lease + 2 + 5);
        Assert.InRange(JoinedHost.CpuTicks(pid), stood, stood + 1);
        var second = placed.GetProperty("vmm_pid").GetInt32();
        before = JoinedHost.CpuTicks(second);
        await RunningFleet.WaitAsync("the second copy to run", () => Task.FromResult(JoinedHost.CpuTicks(second) > before + 10));
        Assert.InRange(JoinedHost.CpuTicks(pid), stood, stood + 1);

        // Who asked for it runs twice, until the host is back.
        await RunningFleet.WaitAsync("another copy of the relaxed one", async () => (await GetAsync(fleet, "relaxed")).GetProperty("epoch").GetInt32() == 2);
        await fleet.WaitForAsync("relaxed", "running");
        before = JoinedHost.CpuTicks(twice);
        await RunningFleet.WaitAsync("the relaxed one to run on", () => Task.FromResult(JoinedHost.CpuTicks(twice) > before + 10));

        // What the VMMs themselves wrote: the first stood before the second ran.
        var runs = Directory.GetFiles(JoinedHost.Runs(fleet), vm.GetProperty("id").GetString() + ".*").SelectMany(File.ReadAllLines).Select(line => JsonDocument.Parse(line).RootElement).ToLookup(
            line => (line.GetProperty("epoch").GetInt32(), line.GetProperty("event").GetString()), line => line.GetProperty("boot_ms").GetInt64());
        Assert.Empty(runs[(1, "end")]);
        Assert.True(Assert.Single(runs[(1, "stand")]) < Assert.Single(runs[(2, "run")]));
        Assert.True(runs[(1, "alive")].Max() <= runs[(1, "stand")].First());

        // It comes back, and hears that its copy may not stay.
        one.Signal("CONT");
        await RunningFleet.WaitAsync("the first copy to be gone", () => Task.FromResult(RunningFleet.CommandLine(pid).Length == 0));
        await RunningFleet.WaitAsync("the relaxed one to be gone", () => Task.FromResult(RunningFleet.CommandLine(twice).Length == 0));
        await RunningFleet.WaitAsync("its folder to be gone", () => Task.FromResult(
            !Directory.EnumerateFileSystemEntries(one.Folder, "*", SearchOption.AllDirectories).Any(path => Path.GetFileName(path) == vm.GetProperty("id").GetString())));
        Assert.Equal(2, (await GetAsync(fleet)).GetProperty("epoch").GetInt32());
        await fleet.DeleteAsync(placed);
        await fleet.DeleteAsync(relaxed);
    }

    private static async Task<JsonElement> GetAsync(RunningFleet fleet, string name = "spins") => (await fleet.SendAsync(HttpMethod.Get, $"/v1/vms/{name}")).Body;
}
