using System.Net.Http.Headers;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>A guest that counts, through the whole of the program: suspended, resumed, and drained to another host, which it reaches with its memory.</summary>
public sealed class SuspendAndMoveTests
{
    [SkippableFact]
    [Trait("Kind", "Slow")]
    public async Task Should_go_on_counting_after_a_suspension_and_at_another_host()
    {
        Skip.IfNot(File.Exists("/dev/kvm") && Environment.IsPrivilegedProcess, "needs root and /dev/kvm");
        // The fleet's own host is too small for the microVM.
        await using var fleet = await RunningFleet.StartAsync("--memory", "64");
        using var one = new JoinedHost(fleet, "one", more: ["--transfer", $"127.0.0.1:{FreePort.Next()}"]);
        await one.ConnectedAsync();
        var vm = await fleet.CreateAsync(new JsonObject
        {
            ["name"] = "counts", ["memory_mib"] = 128, ["driver"] = "kvm", ["boot"] = new JsonObject { ["kernel_path"] = fleet.Kernel(SmallGuest.Counting) },
        });
        var pid = (await fleet.WaitForAsync("counts", "running,failed")).GetProperty("vmm_pid").GetInt32();
        await StepAsync(fleet, "1");
        await StepAsync(fleet, "2");

        var suspended = await fleet.CliAsync("vm", "suspend", "counts");
        Assert.True(suspended.Exit == 0 && suspended.Output.Contains("suspended", StringComparison.Ordinal), suspended.Output + suspended.Error);
        Assert.Equal("", RunningFleet.CommandLine(pid));
        Assert.Equal((0, 0), await PromisedAsync(one));
        var resumed = await fleet.CliAsync("vm", "resume", "counts");
        Assert.True(resumed.Exit == 0, resumed.Output + resumed.Error);
        await StepAsync(fleet, "3");
        Assert.Equal((1, 128), await PromisedAsync(one));

        using var two = new JoinedHost(fleet, "two");
        await two.ConnectedAsync();
        var drained = await fleet.CliAsync("host", "drain", "one", "--deadline", "5m");
        Assert.True(drained.Exit == 0 && drained.Output.EndsWith("one: drained, no microVM is left; 1 moved with its memory\n", StringComparison.Ordinal), drained.Output + drained.Error);
        var moved = await fleet.WaitForAsync("counts", "running,failed");
        Assert.Equal(("two", 3), (moved.GetProperty("host").GetString(), moved.GetProperty("epoch").GetInt32()));
        await StepAsync(fleet, "4");

        // What the VMMs themselves wrote: none ran before the one before it had ended.
        var runs = Directory.GetFiles(JoinedHost.Runs(fleet), vm.GetProperty("id").GetString() + ".*").SelectMany(File.ReadAllLines).Select(line => JsonDocument.Parse(line).RootElement)
            .ToLookup(line => line.GetProperty("epoch").GetInt32(), line => (Event: line.GetProperty("event").GetString(), At: line.GetProperty("boot_ms").GetInt64()));
        Assert.Equal([1, 2, 3], runs.Select(run => run.Key).Order());
        for (var epoch = 1; epoch < 3; epoch++)
            Assert.True(runs[epoch].Single(line => line.Event == "end").At <= runs[epoch + 1].Min(line => line.At), $"epoch {epoch} ran on");
        await RunningFleet.WaitAsync("nothing of it to be left at the first", () => Task.FromResult(
            !Directory.EnumerateFileSystemEntries(one.Folder, "*", SearchOption.AllDirectories).Any(path => Path.GetFileName(path) == vm.GetProperty("id").GetString())));
        await fleet.DeleteAsync(moved);
    }

    private static async Task<(int Cpus, int MemoryMib)> PromisedAsync(JoinedHost host)
    {
        var shown = await host.ShowAsync();
        return (shown.GetProperty("reserved_cpus").GetInt32(), shown.GetProperty("reserved_memory_mib").GetInt32());
    }

    // One byte in, and the next digit is the last of the console.
    private static async Task StepAsync(RunningFleet fleet, string digit)
    {
        using var input = new ByteArrayContent(Encoding.ASCII.GetBytes("a"));
        input.Headers.ContentType = new MediaTypeHeaderValue("application/octet-stream");
        using var taken = await fleet.Http.PostAsync(new Uri("/v1/vms/counts/console", UriKind.Relative), input);
        Assert.True(taken.IsSuccessStatusCode, $"{taken.StatusCode}");
        await RunningFleet.WaitAsync($"the guest to count to {digit}", async () =>
            (await fleet.Http.GetStringAsync(new Uri("/v1/vms/counts/console", UriKind.Relative))).EndsWith(digit, StringComparison.Ordinal));
    }
}
