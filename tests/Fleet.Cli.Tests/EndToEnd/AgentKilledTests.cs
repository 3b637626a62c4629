using System.Text.Json.Nodes;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>kill -9 of the agent before each program that it runs to give a microVM its network and its volume, or to take them away, and behind the last.</summary>
[Trait("Kind", "Slow")]
public sealed class AgentKilledTests
{
    /// <summary>Makes a volume's file system, makes links, writes rules; removes links, writes rules.</summary>
    private const int Programs = 5;

    /// <summary>Of them, those that run before the microVM does.</summary>
    private const int AtLaunch = 3;

    /// <summary>
    /// In the place of a program: runs it, but for the call of the number in <c>kill</c>, which ends its caller before or after that.
    /// </summary>
    private const string Stand = """
        #!/bin/sh
        here=$(dirname "$0")
        real=$(PATH=/usr/sbin:/usr/bin:/sbin:/bin command -v "$(basename "$0")")
        [ -e "$here/kill" ] || exec "$real" "$@"
        read -r when number <"$here/kill"
        echo call >>"$here/calls"
        [ "$(wc -l <"$here/calls")" = "$number" ] || exec "$real" "$@"
        rm "$here/kill" "$here/calls"
        [ "$when" = before ] || "$real" "$@"
        kill -9 $PPID

        """;

    [SkippableFact]
    public async Task Should_leave_nothing_and_lose_nothing_of_networks_and_volumes_wherever_it_was_killed()
    {
        Skip.IfNot(NetworkLab.IsPossible && File.Exists("/dev/kvm"), "needs root, /dev/kvm, /dev/net/tun and nft");
        await using var fleet = await NetworkedFleet.StartAsync(linux: false);
        Directory.CreateDirectory(fleet.Programs);
        foreach (var program in (string[])["ip", "nft", "mkfs.ext4"])
        {
            await File.WriteAllTextAsync(Path.Combine(fleet.Programs, program), Stand);
            File.SetUnixFileMode(Path.Combine(fleet.Programs, program), (UnixFileMode)0x1ed); // 0755
        }
        var kernel = Path.Combine(fleet.Files, "kernel");
        SmallGuest.Write(kernel, SmallGuest.Silent);
        var spec = new JsonObject
        {
            ["name"] = "one", ["memory_mib"] = 64, ["driver"] = "kvm", ["boot"] = new JsonObject { ["kernel_path"] = kernel }, ["network"] = "tenant",
            ["ports"] = new JsonArray(new JsonObject { ["host"] = 9000, ["guest"] = 90 }), ["volumes"] = new JsonArray(new JsonObject { ["name"] = "data", ["size_mib"] = 32 }),
        }.ToJsonString();
        var before = State(fleet);

        for (var number = 1; number <= Programs; number++)
            await KillAsync("before", number);
        await KillAsync("after", Programs);

        async Task KillAsync(string when, int number)
        {
            await File.WriteAllTextAsync(Path.Combine(fleet.Programs, "kill"), $"{when} {number}\n");
            var ended = fleet.EndedAsync();
            var (status, body) = await fleet.ApiAsync("POST", "vms", spec);
            Assert.True(status == 201, body);
            if (number > AtLaunch)
            {
                (status, body) = await fleet.ApiAsync("GET", "vms/one/wait?state=running&timeout=60");
                Assert.True(status == 200, body);
                // This guest does not hear that it shall power down.
                await fleet.ApiAsync("POST", "vms/one/stop", """{"grace_seconds":0}""");
            }
            await ended.WaitAsync(TimeSpan.FromSeconds(60));
            await fleet.UpAsync();

            // What was acknowledged goes on where it was.
            (status, body) = await fleet.ApiAsync("GET", $"vms/one/wait?state={(number > AtLaunch ? "stopped" : "running")}&timeout=60");
            Assert.True(status == 200, $"{when} {number}: {body}\n{fleet.Log()}");
            // ext4's number, past the VMM's lock.
            Assert.Equal("53 ef", NetworkLab.Run("od", "-An", "-tx1", "-j1080", "-N2", Path.Combine(fleet.Data, "host", "volumes", "_", "data", "disk")).Trim());
            await fleet.ApiAsync("POST", "vms/one/stop", """{"grace_seconds":0}""");
            await fleet.ApiAsync("DELETE", "vms/one");
            await GoneAsync("vms");
            await fleet.ApiAsync("DELETE", "volumes/data");
            await GoneAsync("volumes");
            await RunningFleet.WaitAsync($"nothing to be left, killed {when} {number}", () => Task.FromResult(State(fleet) == before), onTimeout: () => $"{before}\n---\n{State(fleet)}\n{fleet.Log()}");

            Task GoneAsync(string what) => RunningFleet.WaitAsync($"no {what}, killed {when} {number}", async () =>
                JsonNode.Parse((await fleet.ApiAsync("GET", what)).Body)!["items"]!.AsArray().Count == 0, onTimeout: fleet.Log);
        }
    }

    /// <summary>Network, microVMs and volumes of the host; the folders that these stand in stay.</summary>
    private static string State(NetworkedFleet fleet) => fleet.State() + string.Join('\n', ((string[])["vms", "volumes"])
        .Select(name => Path.Combine(fleet.Data, "host", name)).Where(Directory.Exists)
        .SelectMany(folder => Directory.GetFileSystemEntries(folder, "*", SearchOption.AllDirectories))
        .Where(path => Path.GetFileName(path) is not (".making" or ".removed" or "_")).Order(StringComparer.Ordinal));
}
