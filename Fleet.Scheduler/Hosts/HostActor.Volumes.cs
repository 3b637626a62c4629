using Akka.Actor;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Hosts;

/// <summary>Volumes here: who has one is told by the ledger; what is to be done with one the agent does.</summary>
internal sealed partial class HostActor
{
    // Who gives orders says so again and again; nobody else waits for what the agent answers.
    private IActorRef _orderer = ActorRefs.Nobody;

    /// <summary>The microVM that has one of the volumes of the spec, beside the microVM itself; null: none.</summary>
    private string? HasItsVolumes(VmSpec? spec, string vmId) => spec is null ? null
        : spec.Volumes.Select(volume => _ledger.VolumeHolder(VolumeRules.Key(spec.Tenant, volume.Name), vmId)).FirstOrDefault(holder => holder is not null);

    private static IEnumerable<string> VolumesOf(VmSpec? spec) => spec?.Volumes.Select(volume => VolumeRules.Key(spec.Tenant, volume.Name)) ?? [];

    /// <summary>Not stored: the next Hello tells it again.</summary>
    private void OnVolumes(VolumesHeld held)
    {
        if (!Connected || _record?.Inventory is not { } inventory || inventory.Volumes.Equals(held.Volumes))
            return;
        _record = _record.Clone();
        _record.Inventory.Volumes.Clear();
        _record.Inventory.Volumes.AddRange(held.Volumes);
        _ledger.Have(held.Volumes);
        _imagesTold = null;
        PublishView();
    }

    private void OnOrderVolume(OrderVolume order)
    {
        _orderer = Sender;
        if (!Exists)
        {
            Answer(order.Order, VolumeOrderOutcome.NoHost, null);
            LeaveSoon();
            return;
        }
        // Who has the name here has another volume than one that was left; whether anything writes to that the agent knows.
        if (!order.Left && _ledger.VolumeHolder(VolumeRules.Key(order.Order.Tenant, order.Order.Name), "") is { } holder)
        {
            Answer(order.Order, VolumeOrderOutcome.InUse, new Reason { Code = "volume_in_use", Message = $"The microVM {holder} has the volume {order.Order.Name}. Stop it first." });
            return;
        }
        if (Connected)
            Send(new SchedulerMessage { Volume = order.Order });
        Answer(order.Order, VolumeOrderOutcome.Sent, null);
    }

    private void OnVolumeDone(VolumeOrderDone done)
    {
        if (done.Order is not null)
            Answer(done.Order, done.Problem is null ? VolumeOrderOutcome.Done : VolumeOrderOutcome.Refused, done.Problem);
    }

    private void Answer(VolumeOrder order, VolumeOrderOutcome outcome, Reason? problem) =>
        _orderer.Tell(new VolumeOrderAnswer { HostId = _id, Order = order, Outcome = outcome, Problem = problem });
}
