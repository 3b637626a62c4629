using System.Net;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Shared.Admin;
using Xunit;

namespace Fleet.Scheduler.Tests.Admin;

/// <summary>Each palette against a whole node with real actors and journal.</summary>
public sealed class PaletteTests(AdminNode node) : IClassFixture<AdminNode>
{
    private static readonly JsonSerializerOptions Wire = new() { PropertyNamingPolicy = JsonNamingPolicy.SnakeCaseLower };
    private static int _last;

    private static string NewHost() => $"rack-{Interlocked.Increment(ref _last)}";

    private async Task<string> JoinAsync(bool fenced = false)
    {
        var host = NewHost();
        await node.JoinAsync(host, fenced);
        return host;
    }

    [Fact]
    public async Task Should_tell_commands_that_fit_their_own_grammar()
    {
        var items = JsonNode.Parse(await node.Http.GetStringAsync("/v1/admin/palettes"))!["items"]!;
        var palettes = items.Deserialize<PaletteDefinition[]>(Wire)!;
        Assert.Equal(["actor", "cluster", "cluster-sharding", "host", "lease", "log", "placement", "system", "vm"], palettes.Select(palette => palette.Name));
        foreach (var (palette, command) in palettes.SelectMany(palette => palette.Commands.Select(command => (palette, command))))
        {
            var arguments = command.Arguments().ToList();
            Assert.Equal(arguments.Count, arguments.Select(argument => argument.Name).Distinct().Count());
            var switches = arguments.SelectMany(argument => argument.Switches).ToList();
            Assert.Equal(switches.Count, switches.Distinct().Count());
            Assert.All(switches, one => Assert.StartsWith("-", one, StringComparison.Ordinal));
            Assert.True(arguments.Count(argument => argument.Bare) <= 1);
            Assert.All(arguments, argument => Assert.NotEmpty(argument.Switches));
            // With a value for everything, defaults among them, each is a command.
            var words = arguments.SelectMany(argument => argument.Flag
                ? [argument.Switches[0]]
                : new[] { argument.Switches[0], argument.Default ?? (argument.Choices is [var first, ..] ? first : argument.Minimum is { } least ? $"{least}" : "x") });
            Assert.True(CommandGrammar.Parse(palettes, [palette.Name, command.Name, .. words]).IsConfirmed);
        }
    }

    [Fact]
    public async Task Host_lists_shows_cordons_and_tells_its_ledger()
    {
        var host = await JoinAsync();
        var id = await node.CreateAsync($"{host}-vm", $$""", "cpus": 2, "host": "{{host}}" """, "running");
        var shown = Assert.Single(await node.RowsAsync("host", "show", host));
        Assert.Equal((host, "connected", 2, 1), ((string)shown["host"]!, (string)shown["state"]!, (int)shown["reserved_cpus"]!, (int)shown["vms"]!));
        var entry = Assert.Single(await node.RowsAsync("host", "ledger", "-i", host));
        Assert.Equal((id, 1, 2, "reserved"), ((string)entry["vm"]!, (int)entry["epoch"]!, (int)entry["cpus"]!, (string)entry["state"]!));
        Assert.Contains("2 vCPUs and", await node.TextAsync("host", "ledger", host), StringComparison.Ordinal);

        Assert.Contains($"{host} is cordoned", await node.TextAsync("host", "cordon", host), StringComparison.Ordinal);
        Assert.Contains(await node.RowsAsync("host", "list"), row => (string)row["host"]! == host && (bool)row["cordoned"]!);
        Assert.Contains("takes microVMs", await node.TextAsync("host", "uncordon", host), StringComparison.Ordinal);
        Assert.Contains(await node.RowsAsync("host", "list"), row => (string)row["host"]! == host && !(bool)row["cordoned"]!);
        Assert.Equal((null, false), ((string?)shown["drain"], (bool)shown["quarantined"]!));
        using (var drain = await node.Http.PostAsync($"/v1/hosts/{host}/drain", System.Net.Http.Json.JsonContent.Create(new { deadline_seconds = 600 })))
            Assert.Equal(HttpStatusCode.Accepted, drain.StatusCode);
        await AdminNode.UntilAsync(async () => (await node.RowsAsync("host", "list")).Any(row => (string)row["host"]! == host && (string?)row["drain"] is "draining" or "drained"));
        Assert.NotNull((string?)Assert.Single(await node.RowsAsync("host", "show", host))["drain_deadline"]);
        Assert.Contains("takes microVMs", await node.TextAsync("host", "uncordon", host), StringComparison.Ordinal);
        foreach (var verb in new[] { "show", "ledger", "cordon" })
            Assert.Equal("not_found", await node.FailureAsync("host", verb, "nobody"));
    }

    [Fact]
    public async Task Lease_tells_who_may_run_how_long()
    {
        var (fenced, free) = (await JoinAsync(fenced: true), await JoinAsync());
        var leases = (await node.RowsAsync("lease", "list")).ToDictionary(row => (string)row["host"]!);
        Assert.False((bool)leases[free]["fenced"]!);
        Assert.Null(leases[free]["left_s"]);
        var lease = leases[fenced];
        Assert.True((bool)lease["fenced"]!);
        Assert.Equal(20, (double)lease["lease_s"]!);
        Assert.InRange((double)lease["granted_s_ago"]!, 0, 10);
        Assert.InRange((double)lease["left_s"]!, 10, 20);
        Assert.Equal((double)lease["left_s"]! + 2, (double)lease["given_up_in_s"]!, precision: 1);
        Assert.Equal(fenced, (string)Assert.Single(await node.RowsAsync("lease", "show", fenced))["host"]!);
        Assert.Equal("not_found", await node.FailureAsync("lease", "show", "nobody"));
    }

    [Fact]
    public async Task Placement_explains_what_is_unplaced_and_says_what_would_fit()
    {
        var (small, other) = (await JoinAsync(), await JoinAsync());
        await node.CreateAsync("unplaced", $$""", "cpus": 32, "memory_mib": 40000, "host": "{{small}}" """, "unplaced");
        var rows = (await node.RowsAsync("placement", "explain", "unplaced")).ToDictionary(row => (string)row["host"]!);
        Assert.Equal(("no", "memory", 40000, 16384), ((string)rows[small]["says"]!, (string)rows[small]["reason"]!, (int)rows[small]["wanted"]!, (int)rows[small]["free"]!));
        Assert.Equal("host", (string)rows[other]["reason"]!);
        var text = await node.TextAsync("placement", "explain", "unplaced");
        Assert.Contains("is unplaced, epoch 0 (no_capacity: No host has room", text, StringComparison.Ordinal);
        Assert.EndsWith("most free 16384 MiB).", text, StringComparison.Ordinal);
        Assert.Equal("not_found", await node.FailureAsync("placement", "explain", "nothing"));

        var fits = await node.RowsAsync("placement", "candidates", "-c", "4", "-d", "simulated", "-i", other);
        Assert.Equal("would take it", (string)fits[0]["says"]!);
        Assert.Equal(other, (string)fits[0]["host"]!);
        Assert.Contains($"Tried first: {other}.", await node.TextAsync("placement", "candidates", "-d", "simulated", "-i", other), StringComparison.Ordinal);
        Assert.All(await node.RowsAsync("placement", "candidates", "-d", "kvm"), row => Assert.Equal(("driver", "kvm", "simulated"), ((string?)row["reason"], (string?)row["wanted"], (string?)row["free"])));
    }

    /// <summary>By its spec alone every host would take it.</summary>
    [Fact]
    public async Task Placement_explains_what_is_searched_for_and_not_the_spec_alone()
    {
        var (first, other) = (await JoinAsync(), await JoinAsync());
        const string Data = """, "volumes": [{"name": "explained", "path": "/data", "size_mib": 64}]""";
        await node.CreateAsync("holder", $$"""{{Data}}, "host": "{{first}}" """, "running");
        await node.CreateAsync("wants-it-too", Data, "unplaced");
        var rows = (await node.RowsAsync("placement", "explain", "wants-it-too")).ToDictionary(row => (string)row["host"]!);
        Assert.Equal(("would take it", "host"), ((string)rows[first]["says"]!, (string?)rows[other]["reason"]));
        var text = await node.TextAsync("placement", "explain", "wants-it-too");
        Assert.Contains($"\nAnother microVM has the volume explained on host {first}.", text, StringComparison.Ordinal);
        Assert.EndsWith($"Tried first: {first}. The host's own actor decides.", text, StringComparison.Ordinal);

        await node.CreateAsync("beside", """, "placement": {"affinity": [{"vm": "holder", "within": "host"}]}""", "running");
        Assert.EndsWith($"Tried first: {first}. The host's own actor decides.", await node.TextAsync("placement", "explain", "beside"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Vm_lists_shows_and_tells_its_events_without_the_environment()
    {
        var host = await JoinAsync();
        var id = await node.CreateAsync("told", $$""", "host": "{{host}}", "env": {"TOKEN": "hunter2"} """, "running");
        Assert.Equal("told", (string)Assert.Single(await node.RowsAsync("vm", "list", "-o", host, "-s", "running"))["name"]!);
        Assert.Equal((id, "running"), ((string)(await node.RowsAsync("vm", "show", "told"))[0]["vm"]!, (string)(await node.RowsAsync("vm", "show", id))[0]["state"]!));
        var events = await node.RowsAsync("vm", "events", "told");
        Assert.Equal(["VmCreated", "VmPlaced", "VmRunning"], events.Select(one => (string)one["what"]!));
        Assert.Equal([1, 2, 3], events.Select(one => (int)one["event"]!));
        Assert.Equal($"host {host}, epoch 1", (string)events[1]["detail"]!);
        var last = await node.TextAsync("vm", "events", "told", "-n", "1");
        Assert.Contains("VmRunning", last, StringComparison.Ordinal);
        Assert.DoesNotContain("VmPlaced", last, StringComparison.Ordinal);
        Assert.EndsWith("2 earlier ones are left out.", last, StringComparison.Ordinal);
        foreach (var verb in new[] { "show", "events" })
            Assert.DoesNotContain("hunter2", await node.TextAsync("vm", verb, "told"), StringComparison.Ordinal);
        Assert.Equal("not_found", await node.FailureAsync("vm", "show", "nothing"));
    }

    [Fact]
    public async Task Cluster_shows_this_node_and_refuses_what_makes_no_sense()
    {
        var member = Assert.Single(await node.RowsAsync("cluster", "show"));
        Assert.Equal(("up", true, "self,leader,oldest"), ((string)member["status"]!, (bool)member["reachable"]!, (string)member["is"]!));
        var address = (string)member["address"]!;
        Assert.Equal(address, (string)Assert.Single(await node.RowsAsync("cluster", "status"))["leader"]!);
        Assert.Equal("wrong_state", await node.FailureAsync("cluster", "down", address, "--yes"));
        Assert.Equal("not_found", await node.FailureAsync("cluster", "down", "akka.tcp://fleet@127.0.0.1:1", "--yes"));
        Assert.Equal("not_found", await node.FailureAsync("cluster", "leave", "akka.tcp://fleet@127.0.0.1:1", "--yes"));
        // Whom a node joins is the register's to say: by hand two cells could be formed on one database.
        Assert.Equal("invalid_command", (await node.RefusalAsync("cluster", "join", address)).Code);
        foreach (var words in new string[][] { ["cluster", "down", address], ["cluster", "leave"] })
        {
            var (status, code, detail) = await node.RefusalAsync(words);
            Assert.Equal((HttpStatusCode.Conflict, "confirmation_required"), (status, code));
            Assert.EndsWith("Say it again with --yes.", detail, StringComparison.Ordinal);
        }
        Assert.Equal("up", (string)(await node.RowsAsync("cluster", "show"))[0]["status"]!);
    }

    [Fact]
    public async Task Cluster_sharding_tells_where_actors_live()
    {
        var host = await JoinAsync();
        var id = await node.CreateAsync("sharded", $$""", "host": "{{host}}" """, "running");
        Assert.Equal(["gang", "host", "tokens", "vm", "volumes"], (await node.RowsAsync("cluster-sharding", "list-regions")).Select(row => (string)row["region"]!));
        var shard = (string)Assert.Single(await node.RowsAsync("cluster-sharding", "list-entities", "vm", "-n", "10000"), row => (string)row["entity"]! == id)["shard"]!;
        Assert.Contains(await node.RowsAsync("cluster-sharding", "list-shards", "-r", "vm"), row => (string)row["shard"]! == shard && (int)row["entities"]! > 0);
        Assert.Contains(await node.RowsAsync("cluster-sharding", "list-entities", "-r", "vm", "-s", shard), row => (string)row["entity"]! == id);
        Assert.Matches(@"^akka\.ssl\.tcp://fleet@127\.0\.0\.1:\d+ \| \[scheduler\] \| up \|  \| \S+ \[coordinator\]\(host\) \| shards: \d+ \| entities: \d+$",
            await node.TextAsync("cluster-sharding", "region-stats", "-r", "host"));
        foreach (var region in await node.RowsAsync("cluster-sharding", "list-regions"))
            Assert.NotEmpty(await node.RowsAsync("cluster-sharding", "region-stats", (string)region["region"]!));
        Assert.Equal("invalid_command", (await node.RefusalAsync("cluster-sharding", "region-stats", "-r", "nothing")).Code);
    }

    [Fact]
    public async Task Actor_prints_the_tree_within_its_bounds()
    {
        var host = await JoinAsync();
        var all = await node.RowsAsync("actor", "hierarchy", "-d", "20", "-n", "10000");
        Assert.Contains(all, row => (string)row["path"]! == "/user/placement" && (string?)row["class"] == "PlacementActor");
        Assert.Contains(all, row => ((string)row["path"]!).EndsWith($"/{host}", StringComparison.Ordinal) && (string?)row["class"] == "HostActor");
        Assert.Equal("/", (string)all[0]["path"]!);
        Assert.Single(await node.RowsAsync("actor", "hierarchy", "/user", "-d", "0"));
        var some = await node.TextAsync("actor", "hierarchy", "-d", "20", "-n", "3");
        Assert.Equal(4, some.Split('\n').Length);
        Assert.EndsWith("ask for more with -n.", some, StringComparison.Ordinal);
        Assert.Equal("not_found", await node.FailureAsync("actor", "hierarchy", "-s", "/user/nobody"));
    }

    [Fact]
    public async Task Log_peeks_and_changes_its_level()
    {
        node.Log.Warning("something odd with {Name}", "box");
        Assert.Contains(await node.RowsAsync("log", "peek", "-n", "2000", "-l", "warning"), row => (string)row["message"]! == "something odd with box");
        Assert.DoesNotContain(await node.RowsAsync("log", "peek", "-n", "2000", "-l", "error"), row => (string)row["level"]! == "warning");
        Assert.Equal(3, (await node.TextAsync("log", "peek", "-n", "3")).Split('\n').Length);

        Assert.Equal("information", (string)(await node.RowsAsync("log", "show-level"))[0]["level"]!);
        node.Log.Debug("not this");
        Assert.Contains("is debug now, and was information", await node.TextAsync("log", "set-level", "debug"), StringComparison.Ordinal);
        node.Log.Debug("but this");
        await node.TextAsync("log", "set-level", "-l", "information");
        var messages = (await node.RowsAsync("log", "peek", "-n", "2000")).Select(row => (string)row["message"]!).ToList();
        Assert.Contains("but this", messages);
        Assert.DoesNotContain("not this", messages);
        Assert.Contains(messages, message => message.StartsWith("Operator's command log set-level level=debug by token ", StringComparison.Ordinal));
    }

    [Fact]
    public async Task System_tells_about_the_process_and_its_settings()
    {
        Assert.Equal(Environment.ProcessId, (int)(await node.RowsAsync("system", "uptime"))[0]["pid"]!);
        Assert.NotEmpty((string)(await node.RowsAsync("system", "version"))[0]["fleet"]!);
        Assert.Equal(0.5, (double)(await node.RowsAsync("system", "settings"))[0]["heartbeat_s"]!);
    }
}
