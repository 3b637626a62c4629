using Akka.Actor;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Google.Protobuf;

namespace Fleet.Scheduler.Hosts;

/// <summary>
/// Forgetting a host that is gone. Its microVMs are placed elsewhere first, and that only when nothing of them can run here any more:
/// when its lease is over, or, of a host that has none, when an operator says so.
/// </summary>
internal sealed partial class HostActor
{
    /// <summary>Who waits for the removal until every microVM has heard that it is lost.</summary>
    private readonly List<IActorRef> _removals = [];

    private void OnRemove(bool forced)
    {
        var caller = Sender;
        if (!Exists)
        {
            Reply(caller, NotFound());
            return;
        }
        if (Connected)
        {
            Reply(caller, IsConnected);
            return;
        }
        var placed = _ledger.Reservations.Where(held => (!held.Vacated || held is { Suspended: true, Lost: false }) && !_presence.IsRemoveWanted(held.VmId, held.Epoch)).Select(held => held.VmId).ToList();
        if (placed.Count > 0)
        {
            RemoveInUse(caller, placed, forced);
            return;
        }
        _removals.Add(caller);
        RemoveWhenHandedBack();
    }

    private CellProblem IsConnected => new("host_connected", $"The agent of host '{_id}' is connected. Stop it, then remove the host.");

    /// <summary>It is back: whoever waits for its removal hears so.</summary>
    private void RefuseRemovals()
    {
        foreach (var caller in _removals)
            Reply(caller, IsConnected);
        _removals.Clear();
    }

    private void RemoveInUse(IActorRef caller, List<string> placed, bool forced)
    {
        var some = $"{placed.Count} microVMs are placed on host '{_id}' ({string.Join(", ", placed.Take(3))}{(placed.Count > 3 ? ", …" : "")}).";
        var left = Math.Ceiling(_lease.UntilGivenUp.TotalSeconds);
        if (IsFenced)
        {
            Reply(caller, new CellProblem("host_in_use", $"{some} Its lease is over in {Math.Max(left, 1)} s: then they are placed elsewhere, and it can be removed."));
        }
        else if (!forced)
        {
            Reply(caller, new CellProblem("host_in_use", $"{some} Its microVMs outlive its agent: bring it back, or delete them. If its machine is certainly off, remove it by force: then they are placed elsewhere."));
        }
        else if (left > 0)
        {
            Reply(caller, new CellProblem("host_in_use", $"{some} It was heard of a moment ago; by force it can be removed in {left} s."));
        }
        else
        {
            Store([new HostLost { At = At, Detail = "It is removed by force." }], () =>
            {
                _log.Warning("Host {HostId} is removed by force; {Count} microVMs are placed again", _id, placed.Count);
                PublishView();
                _removals.Add(caller);
                HandBack();
                RemoveWhenHandedBack();
            });
        }
    }

    /// <summary>
    /// Those that are being deleted and the remains of ended ones go with the host; if it ever comes back, Welcome tells it to remove them.
    /// Those that are lost must have heard it first.
    /// </summary>
    private void RemoveWhenHandedBack()
    {
        if (_removals.Count == 0 || Connected || !Exists || _ledger.Reservations.Any(held => held.Lost))
            return;
        var callers = _removals.ToList();
        _removals.Clear();
        var deleting = _ledger.Reservations.Where(held => _presence.IsRemoveWanted(held.VmId, held.Epoch)).ToList();
        var events = _ledger.Reservations
            .Select(held => (IMessage)Released(held))
            .Append(new HostRemoved { At = At })
            .ToList();
        Store(events, () =>
        {
            Timers.CancelAll();
            PublishView();
            foreach (var held in deleting)
                _vms.Tell(new HostCommandAnswer { VmId = held.VmId, HostId = _id, Epoch = held.Epoch, Outcome = HostCommandOutcome.Gone }, Self);
            foreach (var caller in callers)
                Reply(caller, null);
        });
    }
}
