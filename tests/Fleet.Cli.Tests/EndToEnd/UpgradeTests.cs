using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>A host whose agent is replaced by another version, and one that is emptied: with real processes.</summary>
public sealed class UpgradeTests
{
    [SkippableFact]
    public async Task Should_go_on_with_every_microvm_under_an_agent_of_another_version()
    {
        Skip.IfNot(File.Exists("/dev/kvm") && Environment.IsPrivilegedProcess, "needs root and /dev/kvm");
        await using var fleet = await RunningFleet.StartAsync("--memory", "64");
        var program = OtherVersion(fleet);
        using var before = new JoinedHost(fleet, "one");
        await before.ConnectedAsync();
        var was = new List<JsonElement>();
        foreach (var (name, driver) in ((string, string)[])[("a", "kvm"), ("b", "kvm"), ("c", "qemu"), ("d", "simulated")])
        {
            await fleet.CreateAsync(Spec(fleet, name, driver, SmallGuest.Silent));
            was.Add(await fleet.WaitForAsync(name, "running,failed"));
        }

        Assert.All(was, vm => Assert.Equal(("running", "one"), (vm.GetProperty("state").GetString(), vm.GetProperty("host").GetString())));
        var pids = was.Select(vm => vm.GetProperty("vmm_pid")).Where(pid => pid.ValueKind == JsonValueKind.Number).Select(pid => pid.GetInt32()).ToList();
        Assert.Equal(3, pids.Count);
        var version = (await before.ShowAsync()).GetProperty("agent_version").GetString();

        // It ends in order, and its VMMs run on by themselves.
        Assert.Equal(0, await before.EndAsync());
        foreach (var pid in pids)
        {
            var ticks = JoinedHost.CpuTicks(pid);
            await RunningFleet.WaitAsync($"VMM {pid} to run on", () => Task.FromResult(JoinedHost.CpuTicks(pid) > ticks));
        }

        using var after = new JoinedHost(fleet, "one", program);
        await RunningFleet.WaitAsync("the other version", async () => (await after.ShowAsync()).GetProperty("agent_version").GetString() == "9" + version![1..]);
        Assert.Contains("agent 9", (await fleet.CliAsync("host", "show", "one")).Output, StringComparison.Ordinal);
        foreach (var vm in was)
        {
            var now = await fleet.WaitForAsync(vm.GetProperty("name").GetString()!, "running");
            Assert.Equal((vm.GetProperty("epoch").GetInt32(), vm.GetProperty("vmm_pid").ToString()), (now.GetProperty("epoch").GetInt32(), now.GetProperty("vmm_pid").ToString()));
        }

        // It is theirs: it ends them.
        foreach (var vm in was)
            await fleet.DeleteAsync(vm);
        Assert.All(pids, pid => Assert.Equal("", RunningFleet.CommandLine(pid)));
    }

    [SkippableFact]
    public async Task Should_empty_a_host_with_no_guest_in_two_places_at_any_time()
    {
        Skip.IfNot(File.Exists("/dev/kvm") && Environment.IsPrivilegedProcess, "needs root and /dev/kvm");
        await using var fleet = await RunningFleet.StartAsync("--memory", "64");
        using var one = new JoinedHost(fleet, "one");
        await one.ConnectedAsync();
        await fleet.CreateAsync(Spec(fleet, "a", "kvm", SmallGuest.MarkAndIdle));
        await fleet.CreateAsync(Spec(fleet, "b", "simulated", SmallGuest.Silent));
        await fleet.WaitForAsync("a", "running");
        await fleet.WaitForAsync("b", "running");
        using var two = new JoinedHost(fleet, "two");
        await two.ConnectedAsync();

        var (exit, output, error) = await fleet.CliAsync("host", "drain", "one", "--deadline", "5m", "--grace", "0");
        Assert.True(exit == 0, error);
        Assert.EndsWith("one: drained, no microVM is left; 2 restarted: Host one runs without --transfer\n", output, StringComparison.Ordinal);
        foreach (var name in (string[])["a", "b"])
        {
            var moved = await fleet.WaitForAsync(name, "running");
            Assert.Equal(("two", 2), (moved.GetProperty("host").GetString(), moved.GetProperty("epoch").GetInt32()));
            var runs = Directory.GetFiles(JoinedHost.Runs(fleet), moved.GetProperty("id").GetString() + ".*").SelectMany(File.ReadAllLines)
                .Select(line => JsonDocument.Parse(line).RootElement)
                .ToLookup(line => (line.GetProperty("epoch").GetInt32(), line.GetProperty("event").GetString()), line => line.GetProperty("boot_ms").GetInt64());
            Assert.True(Assert.Single(runs[(1, "end")]) <= Assert.Single(runs[(2, "run")]));
            await fleet.DeleteAsync(moved);
        }

        Assert.Contains("drained", (await fleet.CliAsync("host", "list")).Output, StringComparison.Ordinal);
        Assert.Equal("one: connected\n", (await fleet.CliAsync("host", "undrain", "one")).Output);
    }

    private static JsonObject Spec(RunningFleet fleet, string name, string driver, byte[] code)
    {
        var spec = new JsonObject { ["name"] = name, ["memory_mib"] = 128, ["driver"] = driver };
        if (driver != "simulated")
            spec["boot"] = new JsonObject { ["kernel_path"] = fleet.Kernel(code) };
        return spec;
    }

    /// <summary>The same build at another place under another version: the number in a copy of its assembly is changed.</summary>
    private static string OtherVersion(RunningFleet fleet)
    {
        var folder = Path.Combine(fleet.Files, "upgraded");
        foreach (var part in (string[])["cli", "vmm", "guest"])
        {
            var from = Path.Combine(Checkout.Artifacts, part);
            foreach (var file in Directory.GetFiles(from, "*", SearchOption.AllDirectories))
            {
                var to = Path.Combine(folder, part, Path.GetRelativePath(from, file));
                Directory.CreateDirectory(Path.GetDirectoryName(to)!);
                File.Copy(file, to);
            }
        }

        var program = Path.Combine(folder, "cli", "fleet.dll");
        var bytes = File.ReadAllBytes(program);
        var at = bytes.AsSpan().IndexOf(Encoding.ASCII.GetBytes("0.1.0+"));
        Assert.True(at > 0, "the program has no version such as 0.1.0+…");
        bytes[at] = (byte)'9';
        File.WriteAllBytes(program, bytes);
        return program;
    }
}
