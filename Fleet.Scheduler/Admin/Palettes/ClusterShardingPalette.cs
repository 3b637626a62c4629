using Akka.Actor;
using Akka.Cluster;
using Akka.Cluster.Sharding;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Admin;
using AkkaCluster = Akka.Cluster.Cluster;

namespace Fleet.Scheduler.Admin.Palettes;

/// <summary>Where the actors of microVMs and hosts live.</summary>
internal sealed class ClusterShardingPalette : Palette
{
    private static readonly ArgumentDefinition Region = new("region", "The kind of actors", ["-r", "--region"])
    {
        Mandatory = true,
        Bare = true,
        Choices = [ShardRegions.Gangs, ShardRegions.Hosts, ShardRegions.Tokens, ShardRegions.Vms, ShardRegions.Volumes],
    };

    public ClusterShardingPalette() : base("cluster-sharding", "Where the actors of microVMs and hosts live")
    {
        Add("list-regions", "List the kinds of sharded actors that this node runs", ListRegionsAsync);
        Add("list-shards", "List the shards of a kind, on every node", ListShardsAsync, Region);
        Add("region-stats", "Count shards and actors of a kind, by node", RegionStatsAsync, Region);
        Add("list-entities", "List the actors of a kind that are awake on this node", ListEntitiesAsync, Region,
            new ArgumentDefinition("shard", "Only of this shard", ["-s", "--shard"]), Most("actors", 10_000, 200));
    }

    private static async Task ListRegionsAsync(CommandCall call)
    {
        var rows = new List<object?[]>();
        foreach (var region in ClusterSharding.Get(call.Node.Actors).ShardTypeNames.Order(StringComparer.Ordinal))
        {
            var state = await StateAsync(call, region);
            rows.Add([region, state.Shards.Count, state.Shards.Sum(shard => shard.EntityIds.Count), RegionOf(call, region).Path.ToStringWithoutAddress()]);
        }
        await call.Output.TableAsync(["region", "shards", "entities", "actor"], rows, "This node runs no sharded actors.");
    }

    private static async Task ListShardsAsync(CommandCall call)
    {
        var stats = await StatsAsync(call);
        var rows = stats.Regions.OrderBy(region => region.Key.ToString(), StringComparer.Ordinal)
            .SelectMany(region => region.Value.Stats.OrderBy(shard => shard.Key.Length).ThenBy(shard => shard.Key, StringComparer.Ordinal)
                .Select(shard => new object?[] { shard.Key, region.Key, shard.Value }))
            .ToList();
        await call.Output.TableAsync(["shard", "node", "entities"], rows, "No shard is awake.");
        await SayFailedAsync(call, stats);
    }

    private static async Task RegionStatsAsync(CommandCall call)
    {
        var stats = await StatsAsync(call);
        var state = AkkaCluster.Get(call.Node.Actors).State;
        var oldest = ClusterPalette.Oldest(state);
        foreach (var (address, region) in stats.Regions.OrderBy(region => region.Key.ToString(), StringComparer.Ordinal))
        {
            var member = state.Members.FirstOrDefault(member => member.Address.Equals(address));
            var status = member is null ? "gone" : ClusterPalette.Name(member.Status);
            var roles = string.Join(',', member?.Roles.Order(StringComparer.Ordinal) ?? Enumerable.Empty<string>());
            var reachable = member is null || !state.Unreachable.Contains(member);
            var coordinates = member is not null && member.Equals(oldest);
            await call.Output.EntryAsync(
                $"{address} | [{roles}] | {status} | {(reachable ? "" : "unreachable")} | {member?.AppVersion} {(coordinates ? "[coordinator]" : "")}({call.Get(Region.Name)}) | shards: {region.Stats.Count} | entities: {region.Stats.Values.Sum()}",
                ("node", address), ("roles", roles), ("status", status), ("reachable", reachable), ("version", member?.AppVersion), ("coordinator", coordinates),
                ("region", call.Get(Region.Name)), ("shards", region.Stats.Count), ("entities", region.Stats.Values.Sum()));
        }
        await SayFailedAsync(call, stats);
    }

    private static async Task ListEntitiesAsync(CommandCall call)
    {
        var all = (await StateAsync(call, call.Get(Region.Name))).Shards
            .Where(shard => call.Find("shard") is not { } wanted || shard.ShardId == wanted)
            .SelectMany(shard => shard.EntityIds.Select(entity => new object?[] { entity, shard.ShardId }))
            .OrderBy(row => (string)row[0]!, StringComparer.Ordinal)
            .ToList();
        var most = call.Number("most");
        await call.Output.TableAsync(["entity", "shard"], [.. all.Take(most)], "None is awake on this node.");
        if (all.Count > most)
            await call.Output.SayAsync($"… and {all.Count - most} more.");
    }

    private static async Task SayFailedAsync(CommandCall call, ClusterShardingStats stats)
    {
        foreach (var (address, region) in stats.Regions.Where(region => region.Value.Failed.Count > 0))
            await call.Output.SayAsync($"{region.Failed.Count} shards on {address} gave no answer in time.");
    }

    private static IActorRef RegionOf(CommandCall call, string region) => ClusterSharding.Get(call.Node.Actors).ShardRegion(region);

    private static Task<CurrentShardRegionState> StateAsync(CommandCall call, string region) =>
        call.Node.AskAsync<CurrentShardRegionState>(RegionOf(call, region), GetShardRegionState.Instance, call.Cancellation);

    // The regions wait for their own shards and for each other; both must end before we do.
    private static Task<ClusterShardingStats> StatsAsync(CommandCall call) =>
        call.Node.AskAsync<ClusterShardingStats>(RegionOf(call, call.Get(Region.Name)), new GetClusterShardingStats(call.Node.Options.AskTimeout / 2), call.Cancellation);
}
