using Akka.Actor;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Hosts;

/// <summary>
/// The host's lease: granted with each heartbeat, and when nobody asked for it for long enough the host is given up. Then
/// nothing that was promised here runs any more (docs/fencing.md), and each of its microVMs is told until it has answered.
/// </summary>
internal sealed partial class HostActor
{
    private static readonly TimeSpan HandBackRetry = TimeSpan.FromSeconds(2);

    /// <summary>A machine that is busy is late by seconds.</summary>
    private static readonly TimeSpan LeastSilence = TimeSpan.FromSeconds(5);

    private sealed class LeaseOver : INoSerializationVerificationNeeded
    {
        public static readonly LeaseOver Instance = new();
    }

    private sealed class HandBackAgain : INoSerializationVerificationNeeded
    {
        public static readonly HandBackAgain Instance = new();
    }

    // Those of the round that goes on; empty: the next round asks all that have not answered.
    private readonly Queue<Reservation> _handingBack = [];

    private bool IsFenced => _record is { Fenced: true };

    // In the session that is open.
    private ulong _lastGranted;

    /// <summary>
    /// A host that hears nothing and speaks on would be granted leases that it never gets, and be given up that much later than its guests stand. So
    /// the next is granted when the last is known to have arrived.
    /// </summary>
    private bool HeardTheLast(SessionAlive alive) => !IsFenced || !alive.HasHeard || alive.Heard >= _lastGranted;

    /// <summary>So long after the last lease nothing more is promised here: two heartbeats did not come, and it may be cut off.</summary>
    private bool IsSilent => _lease.Age > (_options.Heartbeat * 2.5 is var late && late > LeastSilence ? late : LeastSilence);

    /// <summary>For what the agent sent under that sequence; null when its VMMs would not heed it.</summary>
    private Lease? Grant(ulong sequence)
    {
        // Counted for any host: from when nothing was heard of it.
        _lease.Grant();
        _lastGranted = sequence;
        if (!IsFenced)
            return null;
        return new Lease
        {
            Sequence = sequence,
            LifetimeMs = (uint)_options.Lease.Lifetime.TotalMilliseconds,
            EndsAfterMs = (uint)_options.Lease.EndsAfter.TotalMilliseconds,
        };
    }

    /// <summary>
    /// The actor after this one would wait for a whole lease anew, since it can't know when this one granted the last. Of a host that is heard it loses
    /// nothing by that; of one that is silent this one says for how long, and grants none after that word: it ends.
    /// </summary>
    private void HandSilence(Action then)
    {
        var silent = _lease.Age;
        var counts = IsFenced && _record is { State: HostState.Connected or HostState.Disconnected } && silent > _options.Heartbeat;
        Store(counts ? [new HostSilenceHanded { At = At, SilentMs = (ulong)silent.TotalMilliseconds }] : [], then);
    }

    /// <summary>Looks again when the host may be given up, whether it is connected or not: a stream that is open says nothing.</summary>
    private void AwaitLease()
    {
        if (!IsFenced || _record is not { State: HostState.Connected or HostState.Disconnected })
            return;
        var left = _lease.UntilGivenUp;
        Timers.StartSingleTimer(LeaseOver.Instance, LeaseOver.Instance, left > TimeSpan.Zero ? left : TimeSpan.Zero);
    }

    private void OnLeaseOver()
    {
        if (!IsFenced || _record is not { State: HostState.Connected or HostState.Disconnected })
            return;
        if (_lease.UntilGivenUp > TimeSpan.Zero)
        {
            AwaitLease();
            return;
        }
        if (Connected)
        {
            _session!.Tell(Ended("lease_over", "No heartbeat came within the lease; dial again."));
            OnSessionLost("No heartbeat came within the lease.");
            return;
        }
        var detail = $"It has not renewed its lease of {_options.Lease.Lifetime.TotalSeconds:0.#} s.";
        Store([new HostLost { At = At, Detail = detail }], () =>
        {
            _log.Warning("Host {HostId} is given up: {Detail} {Count} microVMs are placed again", _id, detail, _ledger.Reservations.Count(held => held.Lost));
            PublishView();
            HandBack();
        });
    }

    private void HandBack()
    {
        if (_handingBack.Count == 0)
        {
            foreach (var held in _ledger.Reservations.Where(held => held.Lost))
                _handingBack.Enqueue(held);
        }
        if (_handingBack.Count == 0)
            return;
        // All at once would wake their actors all at once. None is told twice before each was told once: the first may be where nobody answers.
        for (var told = 0; told < ReconcileAtOnce && _handingBack.TryDequeue(out var held); told++)
        {
            if (_ledger.Find(held.VmId, held.Epoch) is { Lost: true })
                TellLost(held);
        }
        Timers.StartSingleTimer(HandBackAgain.Instance, HandBackAgain.Instance, _handingBack.Count > 0 ? ReconcilePause : HandBackRetry);
    }

    private void TellLost(Reservation held) => _vms.Tell(new PlacementLost { VmId = held.VmId, HostId = _id, Epoch = held.Epoch, Round = held.Round }, Self);
}
