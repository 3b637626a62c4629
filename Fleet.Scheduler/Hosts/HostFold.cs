using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Google.Protobuf;

namespace Fleet.Scheduler.Hosts;

/// <summary>What the events of one host add up to; used by the actor and by the projection.</summary>
public static class HostFold
{
    /// <summary>The record after the event.</summary>
    /// <param name="record">The record so far, which is left as it is; null before the first event.</param>
    /// <param name="stored">An event whose persistence id begins with <c>host/</c>.</param>
    /// <exception cref="InvalidOperationException">The journal begins with another event than <see cref="HostEnrolled"/> or <see cref="HostConnected"/>, or has one that is no event of a host.</exception>
    public static HostRecord Apply(HostRecord? record, IMessage stored)
    {
        ArgumentNullException.ThrowIfNull(stored);
        var next = record?.Clone() ?? (stored is HostConnected or HostEnrolled
            ? new HostRecord()
            : throw new InvalidOperationException($"{stored.Descriptor.Name} comes before the host is known."));
        next.Version++;
        switch (stored)
        {
            case HostEnrolled enrolled:
                next.Id = enrolled.Id;
                next.Enrolment++;
                next.EnrolledKey = enrolled.KeyHash;
                // Its agent was not here yet; one that is stays connected until its stream is cut.
                if (next.State is HostState.Unspecified or HostState.Removed)
                    next.State = HostState.Disconnected;
                next.Inventory ??= new();
                next.ChangedAt = enrolled.At?.Clone();
                break;
            case HostConnected connected:
                next.Id = connected.Id;
                next.State = HostState.Connected;
                next.Inventory = connected.Inventory?.Clone();
                next.AgentVersion = connected.AgentVersion;
                next.Fenced = connected.Fenced;
                next.BootId = connected.BootId;
                next.StateId = connected.StateId;
                next.LeaseMs = connected.LeaseMs;
                next.SilentMs = 0;
                next.Pressure = connected.Pressure?.Clone();
                next.ConnectedAt = connected.At?.Clone();
                next.SilentSince = null;
                next.ChangedAt = connected.At?.Clone();
                break;
            case HostDisconnected disconnected:
                next.State = HostState.Disconnected;
                next.SilentSince = disconnected.At?.Clone();
                next.Pressure = null;
                next.ChangedAt = disconnected.At?.Clone();
                break;
            case HostReserved reserved:
                next.ReservedCpus += reserved.Cpus;
                next.ReservedMemoryMib += reserved.MemoryMib;
                next.ReservedOther = Sum(next.ReservedOther, reserved.Other, 1);
                next.Vms++;
                next.ChangedAt = reserved.At?.Clone();
                break;
            case HostPreempted preempted:
                checked
                {
                    next.ReservedCpus -= preempted.Cpus;
                    next.ReservedMemoryMib -= preempted.MemoryMib;
                }
                next.ReservedOther = Sum(next.ReservedOther, preempted.Other, -1);
                next.ChangedAt = preempted.At?.Clone();
                break;
            case HostVacated vacated:
                GiveBack(next, vacated.Cpus, vacated.MemoryMib, vacated.Other);
                next.ChangedAt = vacated.At?.Clone();
                break;
            case HostReleased released:
                if (released.WasReserved)
                    GiveBack(next, released.Cpus, released.MemoryMib, released.Other);
                next.ChangedAt = released.At?.Clone();
                break;
            case HostLost lost:
                next.State = HostState.Lost;
                next.ReservedCpus = 0;
                next.ReservedMemoryMib = 0;
                next.ReservedOther = null;
                next.Vms = 0;
                next.ChangedAt = lost.At?.Clone();
                break;
            case HostSilenceHanded handed:
                next.SilentMs = handed.SilentMs;
                next.ChangedAt = handed.At?.Clone();
                break;
            case HostCordoned cordoned:
                next.Cordoned = true;
                next.ChangedAt = cordoned.At?.Clone();
                break;
            case HostUncordoned uncordoned:
                next.Cordoned = false;
                next.Drain = null;
                next.ChangedAt = uncordoned.At?.Clone();
                break;
            case HostQuarantined quarantined:
                var earlier = next.Quarantine;
                next.Quarantine = new Quarantine
                {
                    Reason = quarantined.Reason?.Clone(),
                    Since = earlier?.Since ?? quarantined.At?.Clone(),
                    RetryAt = quarantined.RetryAt?.Clone(),
                    FailedTrials = earlier is null ? 0 : earlier.FailedTrials + 1,
                };
                next.ChangedAt = quarantined.At?.Clone();
                break;
            case HostQuarantineLifted lifted:
                next.Quarantine = null;
                next.ChangedAt = lifted.At?.Clone();
                break;
            case HostPressureChanged changed:
                next.Pressure = HostPressure.IsCalm(changed.Pressure) ? null : changed.Pressure?.Clone();
                next.ChangedAt = changed.At?.Clone();
                break;
            case HostDrainBegan drain:
                next.Cordoned = true;
                next.Drain = new Drain
                {
                    Since = next.Drain is { DoneAt: null } before ? before.Since : drain.At?.Clone(),
                    Deadline = drain.Deadline?.Clone(),
                    GraceMs = drain.GraceMs,
                    Vms = next.Drain is { DoneAt: null } same ? same.Vms : next.Vms,
                };
                next.ChangedAt = drain.At?.Clone();
                break;
            case HostDrainDone done:
                if (next.Drain is { } drained)
                    drained.DoneAt = done.At?.Clone();
                next.ChangedAt = done.At?.Clone();
                break;
            case HostRemoved removed:
                next.State = HostState.Removed;
                next.Quarantine = null;
                // Its certificate is worthless from now on.
                next.Enrolment++;
                next.EnrolledKey = ByteString.Empty;
                next.Drain = null;
                next.ChangedAt = removed.At?.Clone();
                break;
            default:
                throw new InvalidOperationException($"{stored.Descriptor.Name} is no event of a host.");
        }
        return next;
    }

    // Mostly nobody asks for any.
    private static OtherResources? Sum(OtherResources? held, OtherResources? other, int by) =>
        other is null ? held : (by > 0 ? Resources.Of(0, 0, held) + Resources.Of(0, 0, other) : Resources.Of(0, 0, held) - Resources.Of(0, 0, other)).Other;

    private static void GiveBack(HostRecord next, uint cpus, ulong memoryMib, OtherResources? other)
    {
        next.ReservedOther = Sum(next.ReservedOther, other, -1);
        checked
        {
            next.ReservedCpus -= cpus;
            next.ReservedMemoryMib -= memoryMib;
            next.Vms--;
        }
    }
}
