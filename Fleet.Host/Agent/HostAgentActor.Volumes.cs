using Akka.Actor;
using Fleet.Host.Link;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Host.Agent;

/// <summary>The control plane's orders about volumes, carried out beside everything else; an order is repeated until it is answered. And its word of those that there are.</summary>
internal sealed partial class HostAgentActor
{
    /// <summary>Each may copy a whole disk, and they take turns.</summary>
    private const int MostVolumeOrders = 64;

    private readonly HashSet<string> _volumeOrders = new(StringComparer.Ordinal);

    private sealed record VolumeOrderOver(VolumeOrder Order, Reason? Problem, bool Done) : INoSerializationVerificationNeeded;

    private int _volumesTold;

    /// <summary>
    /// Which volumes the host has, told when that has changed since it was told last, and before any report: a microVM whose end gives its room back has not made one that nobody counts.
    /// False: the stream has no room for it.
    /// </summary>
    private bool TellVolumes(LinkSession session)
    {
        if (_context.Volumes is not { } store || store.Changes is var changes && changes == _volumesTold)
            return true;
        if (!TrySend(session, new HostMessage { Volumes = new VolumesHeld { Volumes = { store.Told() } } }))
            return false;
        _volumesTold = changes;
        return true;
    }

    private void CarryOut(VolumeOrder order)
    {
        if (_context.Volumes is not { } store || _volumeOrders.Count >= MostVolumeOrders || !_volumeOrders.Add(VolumeRules.Key(order.Tenant, order.Name)))
            return;
        _context.Work.Track(Task.Run(() => store.CarryOutAsync(order, _context.Ending)))
            .PipeTo(Self, success: problem => new VolumeOrderOver(order, problem, true), failure: failed => new VolumeOrderOver(order, new Reason { Message = failed.Message }, false));
    }

    private void OnVolumeOrderOver(VolumeOrderOver over)
    {
        _volumeOrders.Remove(VolumeRules.Key(over.Order.Tenant, over.Order.Name));
        if (!over.Done)
            _log.Error("An order about the volume {Volume} was not carried out, and is when it comes again: {Why}", over.Order.Name, over.Problem?.Message);
        else if (_session is { } session)
            TrySend(session, new HostMessage { VolumeDone = new VolumeOrderDone { Order = over.Order, Problem = over.Problem } });
    }
}
