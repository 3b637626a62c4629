using Akka.Actor;
using Akka.Cluster;
using Akka.Cluster.Sharding;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Projection;

namespace Fleet.Scheduler.Node;

/// <summary>Whether the node can do its work: a member of the cell, both kinds of actors reachable, the view up to date, room on the disk.</summary>
internal sealed class NodeHealth(CellSystem cell, ViewProjection projection, DiskProbe disk)
{
    private static readonly TimeSpan RegionPatience = TimeSpan.FromSeconds(2);

    /// <summary>Why the node is not ready, or null when it is.</summary>
    public async Task<string?> TroubleAsync(CancellationToken cancellation)
    {
        if (cell.ActorSystem.WhenTerminated.IsCompleted)
            return "The actor system has ended. The process must be started again.";
        var member = Cluster.Get(cell.ActorSystem).SelfMember.Status;
        if (member != MemberStatus.Up)
            return $"This node is {member.ToString().ToLowerInvariant()} in its cell.";
        if (disk.Trouble() is { } full)
            return full;
        if (projection.Trouble is { } trouble)
            return $"The view does not follow the journal: {trouble}";
        if (cell.Events.Trouble is { } away)
            return away;
        if (!projection.CaughtUp.IsCompleted)
            return $"The view is being read from the journal: {projection.Index} of {projection.Target}.";
        try
        {
            if ((await cell.Placement.Ask<ActorIdentity>(new Identify(null), RegionPatience, cancellation)).Subject is null)
                return "The actor that finds places has ended. The process must be started again.";
        }
        catch (AskTimeoutException)
        {
            return "The actor that finds places gives no answer.";
        }
        foreach (var kind in new[] { ShardRegions.Vms, ShardRegions.Hosts, ShardRegions.Gangs, ShardRegions.Tokens, ShardRegions.Volumes })
        {
            try
            {
                await ClusterSharding.Get(cell.ActorSystem).ShardRegion(kind)
                    .Ask<ShardRegionStats>(GetShardRegionStats.Instance, RegionPatience, cancellation);
            }
            catch (AskTimeoutException)
            {
                return $"The shard region {kind} gives no answer.";
            }
            catch (ArgumentException)
            {
                // As Akka says it of one that has ended.
                return "This node is on its way out of its cell.";
            }
        }
        return null;
    }
}
