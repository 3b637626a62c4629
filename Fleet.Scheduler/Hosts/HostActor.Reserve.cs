using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;

namespace Fleet.Scheduler.Hosts;

/// <summary>
/// The host's answers to microVMs that want to come here. While one write is under way others ask: all of them are answered by the
/// next, so that a busy host's ledger is not one write per microVM.
/// </summary>
internal sealed partial class HostActor
{
    // Bounded by the microVMs that there are: each asks one host at a time.
    private readonly List<(IActorRef Caller, ReserveRoom Reserve)> _asking = [];

    private sealed class AnswerReserves : INoSerializationVerificationNeeded
    {
        public static readonly AnswerReserves Instance = new();
    }

    private void OnReserve(ReserveRoom reserve)
    {
        _asking.Add((Sender, reserve));
        // Comes behind all that wait in the mailbox by now, also those that were put aside during a write.
        if (_asking.Count == 1)
            Self.Tell(AnswerReserves.Instance);
    }

    private void OnAnswerReserves()
    {
        var granted = new List<(IActorRef Caller, ReserveRoom Reserve)>();
        var events = new Dictionary<string, HostReserved>(StringComparer.Ordinal);
        List<IMessage> preempted = [];
        var promised = new Promised();
        var answered = 0;
        foreach (var (caller, reserve) in _asking)
        {
            var earlier = events.GetValueOrDefault(reserve.VmId);
            var demand = _ledger.Here(Demand.Of(reserve.Spec ?? new VmSpec()));
            if (IsHeld(reserve) || (earlier?.Epoch == reserve.Epoch && earlier.Round == reserve.Round))
            {
                answered++;
                granted.Add((caller, reserve));
                continue;
            }
            // A trial launch is one.
            var rejection = earlier is not null ? Rejected(RejectionReason.Stale)
                : _record?.Quarantine is not null && events.Count > 0 ? Rejected(RejectionReason.Quarantined)
                : Neighbours.IsApartFrom(demand, events.ContainsKey) ? Rejected(RejectionReason.Group)
                : reserve.Spec?.Volumes.Count > 0 && events.Values.Any(other => other.Volumes.Intersect(VolumesOf(reserve.Spec)).Any()) ? Rejected(RejectionReason.VolumeInUse)
                : Refusal(reserve, demand, promised);
            if (reserve.Preempt && IsShort(rejection))
            {
                // In a write of its own: whoever gives way does so by the ledger as it then is.
                if (events.Count > 0)
                    break;
                if (Preempt(reserve, demand) is { } giving)
                {
                    preempted = giving;
                    rejection = null;
                }
            }
            answered++;
            if (rejection is not null)
            {
                AnswerRoom(caller, reserve, rejection);
                continue;
            }
            granted.Add((caller, reserve));
            events[reserve.VmId] = new HostReserved
            {
                At = At,
                VmId = reserve.VmId,
                Epoch = reserve.Epoch,
                Cpus = demand.Cpus,
                MemoryMib = demand.MemoryMib,
                Other = demand.Own.Other,
                Groups = { demand.Groups },
                Volumes = { VolumesOf(reserve.Spec) },
                VolumeMib = { reserve.Spec?.Volumes.Select(volume => volume.SizeMib) ?? [] },
                Priority = demand.Rank == PriorityClass.Rank("") ? "" : PriorityClass.Name(demand.Rank),
                Settled = reserve.Settled,
                Round = reserve.Round,
            };
            promised = promised.And(demand, _ledger.MoreThanSaved(demand.Needs, reserve.VmId));
            if (preempted.Count > 0)
                break;
        }
        _asking.RemoveRange(0, answered);
        if (_asking.Count > 0)
            Self.Tell(AnswerReserves.Instance);
        if (!Exists)
            LeaveSoon();
        Store([.. preempted, .. events.Values], () =>
        {
            foreach (var reserved in events.Values)
            {
                _presence.Reserved(reserved.VmId, reserved.Epoch, Monotonic);
                if (_record!.Quarantine is not null)
                    _launches.Try(reserved.VmId, reserved.Epoch);
            }
            foreach (var (caller, reserve) in granted)
                AnswerRoom(caller, reserve, null);
            if (preempted.Count > 0)
                TellPreempted();
            if (events.Count > 0)
                PublishView();
        });
    }

    private static bool IsShort(Rejection? rejection) =>
        rejection?.Reason is RejectionReason.Cpus or RejectionReason.Memory or RejectionReason.Disk or RejectionReason.Network or RejectionReason.Iops or RejectionReason.CpuPeak or RejectionReason.MemoryPeak;

    private bool IsHeld(ReserveRoom reserve) =>
        Connected && _ledger.Find(reserve.VmId, reserve.Epoch)?.IsFor(reserve.Round) == true && !_presence.IsUnwanted(reserve.VmId, reserve.Epoch);

    private Rejection? Refusal(ReserveRoom reserve, Demand demand, Promised promised)
    {
        if (!Connected || IsSilent)
            return Rejected(RejectionReason.Disconnected);
        if (_record!.Cordoned)
            return Rejected(RejectionReason.Cordoned);
        if (IsQuarantined)
            return Rejected(RejectionReason.Quarantined);
        if (IsPressed)
            return Rejected(RejectionReason.Pressure);
        // The same epoch vacated or held for another round of the gang, or a newer one: the question is old, or comes too early.
        if (_ledger.NewestEpoch(reserve.VmId) >= reserve.Epoch)
            return Rejected(RejectionReason.Stale);
        if (demand.Host.Length > 0 && demand.Host != _id)
            return Rejected(RejectionReason.OtherHost);
        // Its labels, and the machine itself, may have changed since placement heard of them.
        if (demand.Unfit(_record.Inventory) is { } unfit)
            return Rejected(unfit);
        if (HasItsVolumes(reserve.Spec, reserve.VmId) is not null)
            return Rejected(RejectionReason.VolumeInUse);
        if (_ledger.KeepsOut(demand, reserve.VmId, promised))
            return Rejected(RejectionReason.Group);
        return _ledger.Check(demand, _record.Inventory, _caps, Forecast(), promised, reserve.VmId);
    }

    private static Rejection Rejected(string reason) => new() { Reason = reason, Hosts = 1 };

    private void AnswerRoom(IActorRef caller, ReserveRoom reserve, Rejection? rejection) =>
        caller.Tell(new RoomAnswer
        {
            VmId = reserve.VmId,
            HostId = _id,
            Epoch = reserve.Epoch,
            Rejection = rejection,
            Version = _record?.Version ?? 0,
            Round = reserve.Round,
            Processor = _record?.Inventory?.Processor ?? "",
            Enrolment = _record?.Enrolment ?? 0,
        });
}
