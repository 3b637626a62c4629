using Akka.Actor;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Vms;
using Google.Protobuf;

namespace Fleet.Scheduler.Hosts;

/// <summary>
/// A microVM of a higher class that finds no room anywhere: those of lower classes give way. What they hold is its own from then on, in one write; they are told to
/// stop and to go elsewhere until they have, and its launch waits until the last of them is gone.
/// </summary>
internal sealed partial class HostActor
{
    /// <summary>A microVM that does not come to its end is told again after this; its actor may have been away.</summary>
    private static readonly TimeSpan PreemptAgain = TimeSpan.FromSeconds(2);

    private sealed class PreemptTick : INoSerializationVerificationNeeded
    {
        public static readonly PreemptTick Instance = new();
    }

    /// <summary>The events by which the others give way; null: there is no such set.</summary>
    private List<IMessage>? Preempt(ReserveRoom reserve, Demand demand)
    {
        if (_ledger.Preempt(demand, reserve.VmId, _record!.Inventory, _caps, Predictors is { } by ? held => Forecast(by, held) : null) is not { } giving)
            return null;
        return [.. giving.Select(held => new HostPreempted
        {
            At = At,
            VmId = held.VmId,
            Epoch = held.Epoch,
            Cpus = held.Cpus,
            MemoryMib = held.MemoryMib,
            Other = held.Needs.Other,
            ForVmId = reserve.VmId,
            ForEpoch = reserve.Epoch,
        })];
    }

    private void TellPreempted()
    {
        var giving = _ledger.Reservations.Where(held => held is { Vacated: false, GivesWayTo: not null }).ToList();
        if (giving.Count == 0)
            return;
        foreach (var held in giving)
        {
            _vms.Tell(
                new MoveVm { VmId = held.VmId, HostId = _id, Epoch = held.Epoch, GraceMs = VmLimits.DefaultGraceSeconds * 1000, Forced = true, Preempted = true, Round = held.Round },
                Self);
        }
        Timers.StartSingleTimer(PreemptTick.Instance, PreemptTick.Instance, PreemptAgain);
    }

    /// <summary>
    /// Whether somebody still runs in the room that is promised to it. Where the one to whom others gave way is gone itself, nobody can tell whose room that is: all wait.
    /// </summary>
    private bool AwaitsPreempted(string vmId, ulong epoch) => _ledger.Reservations.Any(held =>
        !held.Vacated && held.GivesWayTo is { } other && (other == (vmId, epoch) || _ledger.Find(other.VmId, other.Epoch) is not { Holds: true }));

    /// <summary>Of those that give way this was perhaps the last.</summary>
    private void LaunchInItsPlace(Reservation gone)
    {
        if (gone.GivesWayTo is null)
            return;
        foreach (var (vmId, waiting) in _launchesBehindRemains.ToList())
        {
            _launchesBehindRemains.Remove(vmId);
            if (_ledger.Find(waiting.VmId, waiting.Epoch) is { Vacated: false })
                Launch(waiting);
        }
    }
}
