using Akka.Actor;
using Akka.Cluster.Sharding;

namespace Fleet.Scheduler.Cell;

/// <summary>Names and sizes of the kinds of sharded actors.</summary>
internal static class ShardRegions
{
    public const string Vms = "vm";
    public const string Hosts = "host";
    public const string Tokens = "tokens";
    public const string Gangs = "gang";
    public const string Volumes = "volumes";

    /// <summary>
    /// About ten per node of the largest cell that we plan for (five). For ever: what is remembered is stored per shard. Each shard costs one
    /// recovery at start, which is why there are not hundreds.
    /// </summary>
    public const int VmShards = 50;

    /// <inheritdoc cref="VmShards"/>
    public const int HostShards = 30;

    /// <summary>Gangs are awake only while they wait.</summary>
    public const int GangShards = 20;
}

internal sealed class VmExtractor() : HashCodeMessageExtractor(ShardRegions.VmShards)
{
    public override string? EntityId(object message) => message is IToVm vm ? vm.VmId : null;
}

internal sealed class HostExtractor() : HashCodeMessageExtractor(ShardRegions.HostShards)
{
    public override string? EntityId(object message) => message is IToHost host ? host.HostId : null;
}

internal sealed class GangExtractor() : HashCodeMessageExtractor(ShardRegions.GangShards)
{
    public override string? EntityId(object message) => message is IToGang gang ? gang.GangId : null;
}

/// <summary>
/// A region that is started after those who speak to it. What is told before goes nowhere; all that hosts tell is repeated, or asked for anew.
/// </summary>
internal sealed class LateRegion
{
    private volatile IActorRef _region = ActorRefs.Nobody;

    public void Started(IActorRef region) => _region = region;

    public void Tell(object message, IActorRef sender) => _region.Tell(message, sender);
}
