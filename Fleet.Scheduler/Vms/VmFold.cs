using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Vms;

/// <summary>
/// What the events of one microVM add up to. The actor and the projection use this one function, so they can't disagree.
/// It never looks at a clock: a replay gives the record that the first run gave.
/// </summary>
public static class VmFold
{
    /// <summary>The reason of a microVM that leaves a host which is drained.</summary>
    public const string HostDrainsCode = "host_drains";

    /// <summary>The reason of a microVM that leaves a host whose machine is short of CPU or memory.</summary>
    public const string HostPressureCode = "host_pressure";

    /// <summary>The record after the event.</summary>
    /// <param name="record">The record so far, which is left as it is; null before <see cref="VmCreated"/>.</param>
    /// <param name="stored">An event whose persistence id begins with <c>vm/</c>.</param>
    /// <exception cref="InvalidOperationException">The journal has an event before <see cref="VmCreated"/>, or one that is no event of a microVM.</exception>
    public static VmRecord Apply(VmRecord? record, IMessage stored)
    {
        ArgumentNullException.ThrowIfNull(stored);
        if (stored is VmCreated created)
        {
            return new VmRecord
            {
                Id = created.Id,
                Spec = created.Spec?.Clone() ?? new VmSpec(),
                State = VmState.Pending,
                CreatedAt = created.At?.Clone(),
                ChangedAt = created.At?.Clone(),
                Version = 1,
            };
        }

        var next = record?.Clone()
            ?? throw new InvalidOperationException($"{stored.Descriptor.Name} comes before VmCreated.");
        next.Version++;
        next.ChangedAt = Fold(next, stored)?.Clone();
        return next;
    }

    /// <summary>The host that carries it, or soon will; empty: none.</summary>
    public static string CarriedBy(VmRecord? record) => record switch
    {
        { State: VmState.Stopping, Move.Host.Length: > 0 } => record.Move.Host,
        { State: VmState.Starting or VmState.Running or VmState.Stopping } => record.Host,
        _ => "",
    };

    private static Timestamp? Fold(VmRecord next, IMessage stored)
    {
        switch (stored)
        {
            case VmPlaced placed:
                next.State = VmState.Starting;
                next.Host = placed.Host;
                next.Epoch = placed.Epoch;
                next.Volumes.Clear();
                next.Volumes.AddRange(placed.Volumes);
                ForgetRun(next);
                return placed.At;
            case VmUnplaced unplaced:
                next.State = VmState.Unplaced;
                next.Reason = unplaced.Reason?.Clone();
                return unplaced.At;
            case VmSuspendRequested suspend:
                next.State = VmState.Suspending;
                next.Reason = null;
                next.Suspends++;
                return suspend.At;
            case VmSuspended suspended:
                next.State = VmState.Suspended;
                next.Reason = null;
                next.Saved = new SavedVm { Host = next.Host, Epoch = suspended.Epoch, Driver = next.Driver };
                next.VmmPid = 0;
                next.Preemptions = PreemptionRules.Kept(next, suspended.At?.ToDateTimeOffset() ?? default);
                next.RunningAt = null;
                return suspended.At;
            case VmSuspendFailed failed:
                next.State = VmState.Running;
                next.Reason = failed.Reason?.Clone();
                return failed.At;
            case VmResumeRequested resume:
                // Its host and epoch stay: there it is saved.
                next.State = VmState.Pending;
                next.Reason = null;
                return resume.At;
            case VmResumeFailed failed:
                next.State = VmState.Suspended;
                next.Reason = failed.Reason?.Clone();
                next.Driver = next.Saved?.Driver ?? "";
                return failed.At;
            case VmRunning running:
                next.State = VmState.Running;
                next.Saved = null;
                next.Reason = null;
                next.FailedHosts.Clear();
                next.Driver = running.Driver;
                next.VmmPid = running.VmmPid;
                next.LimitsInForce = running.LimitsRevision;
                next.Addresses = running.Addresses?.Clone();
                next.RunningAt = running.At?.Clone();
                return running.At;
            case VmLimitsChanged limits:
                next.Spec.RateLimits.Clear();
                next.Spec.RateLimits.Add(limits.RateLimits.Clone());
                next.LimitsRevision++;
                return limits.At;
            case VmLimitsInForce limits:
                next.LimitsInForce = limits.Revision;
                // What it waited for, if it did, was its host.
                next.Reason = null;
                return limits.At;
            case VmDelayed delayed:
                next.Reason = delayed.Reason?.Clone();
                return delayed.At;
            case VmStopRequested stop:
                next.State = VmState.Stopping;
                next.Reason = null;
                next.Move = null;
                next.Saved = null;
                next.StopWanted = true;
                return stop.At;
            case VmEnded ended:
                next.State = VmState.Stopped;
                next.Exit = ended.Exit?.Clone();
                next.Log = ended.Log?.Clone();
                next.Reason = ended.Reason?.Clone();
                next.VmmPid = 0;
                // What was never placed, or waits to run again, is stopped without a request to a host.
                next.StopWanted |= ended.Reason?.Code == RestartRules.StopRequestedCode;
                End(next, ended.At);
                return ended.At;
            case VmFailed failed:
                next.State = VmState.Failed;
                next.Reason = failed.Reason?.Clone();
                next.Log = failed.Log?.Clone();
                next.VmmPid = 0;
                End(next, failed.At);
                return failed.At;
            case VmMoveBegan move:
                next.State = VmState.Stopping;
                // One leaving, however often it is decided anew while it lasts, is counted with its first word.
                var isFirst = next.Move is null;
                // One that was just going on is given up, and with it what it was saved in.
                next.Saved = null;
                next.Move = new Move { Host = move.Host, Epoch = move.Epoch, Pressed = move.Pressed, Address = move.Address, Enrolment = move.Enrolment, ToEnrolment = move.ToEnrolment, WithoutMemory = move.WithoutMemory?.Clone() };
                if (move.Address.Length > 0)
                    next.Suspends++;
                var left = move.At?.ToDateTimeOffset() ?? default;
                if (isFirst)
                    next.Preemptions = move.Preempted || move.Pressed ? PreemptionRules.Next(next, left) : PreemptionRules.Kept(next, left);
                if (move.Preempted)
                {
                    next.Reason = new Reason
                    {
                        Code = PreemptionRules.PreemptedCode,
                        Message = $"A microVM of a higher class takes its room on host {next.Host}: it stops there, and goes to a host that has room.",
                    };
                    return move.At;
                }
                var (code, why) = move.Pressed ? (HostPressureCode, "short of CPU or memory") : (HostDrainsCode, "drained");
                next.Reason = new Reason
                {
                    Code = code,
                    Message = move.SavedHost.Length > 0 ? $"Host {move.SavedHost} is {why}, and its deadline was over before {next.Host} had fetched what it was saved in: it begins anew on a host that has room."
                        : move.Address.Length > 0 ? $"Host {next.Host} is {why}: it is saved there and goes on at {move.Host}."
                        : move.WithoutMemory is { } hindrance ? ReasonText.Shorten($"Host {next.Host} is {why}, and it could not take its memory along: it stops there and begins anew elsewhere. {hindrance.Message}")
                        : move.Host.Length > 0
                        ? $"Host {next.Host} is {why}: it stops there and goes to {move.Host}."
                        : $"Host {next.Host} is {why}: it stops there, and goes to a host that has room.",
                };
                return move.At;
            case VmMoved { Host.Length: 0 } moved:
                next.Arrived = ArrivalOf(next, withMemory: false);
                AwaitPlace(next);
                return moved.At;
            case VmMoved moved:
                next.Arrived = ArrivalOf(next, withMemory: moved.Saved is not null);
                next.State = VmState.Starting;
                next.Host = moved.Host;
                next.Epoch = moved.Epoch;
                ForgetRun(next);
                next.Saved = moved.Saved?.Clone();
                return moved.At;
            case VmLaunchFailed failed:
                AwaitPlace(next);
                next.FailedHosts.Add(failed.Host);
                next.Reason = failed.Reason?.Clone();
                return failed.At;
            case VmLost lost:
                next.Preemptions = PreemptionRules.Kept(next, lost.At?.ToDateTimeOffset() ?? default);
                // One whose memory did not arrive began anew after all.
                next.Arrived = next.Arrived is { WithMemory: true, From: var from } && lost.Reason?.Code == VmLife.SnapshotLostCode
                    ? new Arrival { From = from, Reason = lost.Reason.Clone() }
                    : null;
                AwaitPlace(next);
                next.FailedHosts.Clear();
                next.Reason = lost.Reason?.Clone();
                return lost.At;
            case VmStartRequested start:
                AwaitPlace(next);
                next.FailedHosts.Clear();
                next.Arrived = null;
                next.Restarts = 0;
                next.Preemptions = 0;
                // Its gang goes on without it, or never does.
                next.GangOver = next.Spec.Gang is not null;
                return start.At;
            case VmRestarted restarted:
                AwaitPlace(next);
                next.FailedHosts.Clear();
                next.Arrived = null;
                next.Restarts++;
                return restarted.At;
            case VmDeleteRequested delete:
                next.State = VmState.Deleting;
                next.Move = null;
                next.Saved = null;
                next.Reason = null;
                return delete.At;
            case VmDeleted deleted:
                next.State = VmState.Deleted;
                next.Reason = null;
                next.VmmPid = 0;
                return deleted.At;
            default:
                throw new InvalidOperationException($"{stored.Descriptor.Name} is no event of a microVM.");
        }
    }

    private static void End(VmRecord next, Timestamp? at)
    {
        var ended = at?.ToDateTimeOffset() ?? default;
        // That of a move has been counted with its begin.
        if (next.Move is null)
            next.Preemptions = PreemptionRules.Kept(next, ended);
        next.Move = null;
        next.Saved = null;
        next.Addresses = null;
        next.EndedAt = at?.Clone();
        if (RestartRules.RanLong(next, ended))
            next.Restarts = 0;
    }

    // Before its move is forgotten.
    private static Arrival ArrivalOf(VmRecord leaving, bool withMemory) => new()
    {
        From = leaving.Host,
        WithMemory = withMemory,
        Reason = withMemory ? null : (leaving.Move?.WithoutMemory ?? leaving.Reason)?.Clone(),
    };

    private static void AwaitPlace(VmRecord next)
    {
        next.State = VmState.Pending;
        next.Host = "";
        next.Saved = null;
        ForgetRun(next);
    }

    private static void ForgetRun(VmRecord next)
    {
        next.RunningAt = null;
        next.EndedAt = null;
        next.StopWanted = false;
        next.Move = null;
        next.Reason = null;
        next.Exit = null;
        next.Log = null;
        next.Driver = "";
        next.VmmPid = 0;
        next.Addresses = null;
        next.LimitsInForce = 0;
    }
}
