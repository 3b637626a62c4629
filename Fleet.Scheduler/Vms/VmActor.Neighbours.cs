using Akka.Actor;
using Akka.Cluster.Sharding;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;

namespace Fleet.Scheduler.Vms;

/// <summary>Before a search: where the microVMs are that its rules name. They are asked themselves, since nobody else is never behind.</summary>
internal sealed partial class VmActor
{
    /// <param name="Search">For which it was asked.</param>
    /// <param name="Hosts">By microVM; null: one gave no answer.</param>
    private sealed record NeighboursRead(long Search, IReadOnlyDictionary<string, string>? Hosts) : INoSerializationVerificationNeeded;

    private void AskNeighbours()
    {
        string[] named = [.. (_search!.Demand.Rules?.Neighbours ?? []).Select(rule => rule.VmId).Where(id => id != _id).Distinct()];
        if (named.Length == 0)
        {
            AskIndex();
            return;
        }
        var search = ++_searches;
        ReadAsync(ClusterSharding.Get(Context.System).ShardRegion(ShardRegions.Vms), named)
            .PipeTo(Self, success: hosts => new NeighboursRead(search, hosts), failure: _ => new NeighboursRead(search, null));
        // One that gives no answer is asked again with the next search.
        Timers.StartSingleTimer(SearchTimer, new SearchOverdue(_searches), SearchPatience);
    }

    private void OnNeighbours(NeighboursRead read)
    {
        if (_search is null || read.Search != _searches || read.Hosts is null)
            return;
        _search.Found(read.Hosts);
        AskIndex();
    }

    internal static async Task<IReadOnlyDictionary<string, string>> ReadAsync(IActorRef vms, string[] named)
    {
        var replies = await Task.WhenAll(named.Select(id => vms.Ask<VmReply>(new ReadVm { VmId = id }, SearchPatience))).ConfigureAwait(false);
        return named.Zip(replies, (id, reply) => (id, Host: VmFold.CarriedBy(reply.Vm))).ToDictionary(one => one.id, one => one.Host, StringComparer.Ordinal);
    }
}
