using System.Collections.Immutable;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Gangs;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Vms;

/// <summary>What a microVM's actor pursues until something answers: a function of the state alone, so a restart takes it up again.</summary>
public abstract record Goal
{
    private Goal()
    {
    }

    /// <summary>It is an order to the host that carries the microVM.</summary>
    public bool IsOrder => this is Launch or Stop or Suspend or Retune or Remove;

    /// <summary>Nothing to do.</summary>
    public sealed record Rest : Goal;

    /// <summary>A host must be found under this epoch.</summary>
    public sealed record FindPlace(ulong Epoch) : Goal;

    /// <summary>Its gang must find a place for each of its members, and so for it.</summary>
    public sealed record AwaitGang : Goal;

    /// <summary>The host must launch it.</summary>
    public sealed record Launch(string Host, ulong Epoch) : Goal;

    /// <summary>The host must stop it within the grace (milliseconds; 0: at once).</summary>
    public sealed record Stop(string Host, ulong Epoch, uint GraceMs) : Goal;

    /// <summary>The host must save it and end its VMM.</summary>
    /// <param name="Host">Where it runs.</param>
    /// <param name="Epoch">Under which epoch.</param>
    /// <param name="Attempt">Rises.</param>
    /// <param name="ForHost">That host fetches it then; empty: it stays.</param>
    /// <param name="ForEnrolment">Of that host: a certificate of another is no longer, or not yet, that host's.</param>
    public sealed record Suspend(string Host, ulong Epoch, ulong Attempt, string ForHost = "", uint ForEnrolment = 0) : Goal;

    /// <summary>The host must bring the rate limits of that revision into force.</summary>
    public sealed record Retune(string Host, ulong Epoch, ulong Revision) : Goal;

    /// <summary>It ended by itself, and is to run again then.</summary>
    public sealed record Restart(DateTimeOffset At) : Goal;

    /// <summary>The host must keep nothing of it.</summary>
    public sealed record Remove(string Host, ulong Epoch) : Goal;
}

/// <summary>What follows from a command: events to store, then what to answer.</summary>
/// <param name="Events">In order; may be empty.</param>
/// <param name="Problem">Why the command is refused; null when it is carried out or was already.</param>
public readonly record struct Decision(ImmutableArray<IMessage> Events, CellProblem? Problem = null)
{
    public static readonly Decision Nothing = new([]);

    public static Decision Of(params ReadOnlySpan<IMessage> events) => new([.. events]);

    public static Decision Refuse(string code, string message) => new([], new CellProblem(code, message));
}

/// <summary>
/// The life of one microVM as pure decisions: (state, command or report) to events, and state to goal. No clock, no actor.
/// A report counts only from the host and under the epoch of the present placement; its states only ever lead forward, so
/// duplicates and late copies change nothing.
/// </summary>
public sealed record VmLife
{
    public static readonly VmLife None = new();

    private static readonly Goal Resting = new Goal.Rest();

    private static readonly Goal AwaitingGang = new Goal.AwaitGang();

    /// <summary>Null: never created.</summary>
    public VmRecord? Record { get; private init; }

    /// <summary>Of the stop under way, milliseconds.</summary>
    public uint StopGraceMs { get; private init; }

    private VmState State => Record?.State ?? VmState.Unspecified;

    /// <summary>It was never placed, and is not before its gang is: after that it is placed by itself like any other.</summary>
    public static bool AwaitsGang(VmRecord record)
    {
        ArgumentNullException.ThrowIfNull(record);
        return record is { State: VmState.Pending or VmState.Unplaced, Epoch: 0, GangOver: false, Spec.Gang: not null };
    }

    public VmLife Apply(IMessage stored) => this with
    {
        Record = VmFold.Apply(Record, stored),
        StopGraceMs = stored switch
        {
            VmStopRequested stop => stop.GraceMs,
            VmMoveBegan move => move.GraceMs,
            _ => StopGraceMs,
        },
    };

    public Goal Goal => State switch
    {
        VmState.Pending or VmState.Unplaced when AwaitsGang(Record!) => AwaitingGang,
        VmState.Pending or VmState.Unplaced => new Goal.FindPlace(Record!.Epoch + 1),
        VmState.Starting => new Goal.Launch(Record!.Host, Record.Epoch),
        VmState.Stopping when TakesMemory => new Goal.Suspend(Record!.Host, Record.Epoch, Record.Suspends, Record.Move.Host, Record.Move.ToEnrolment),
        VmState.Stopping => new Goal.Stop(Record!.Host, Record.Epoch, StopGraceMs),
        VmState.Suspending => new Goal.Suspend(Record!.Host, Record.Epoch, Record.Suspends),
        VmState.Deleting => new Goal.Remove(Record!.Host, Record.Epoch),
        VmState.Stopped or VmState.Failed when RestartRules.RestartAt(Record!) is { } at => new Goal.Restart(at),
        VmState.Running when Record!.LimitsInForce != Record.LimitsRevision => new Goal.Retune(Record.Host, Record.Epoch, Record.LimitsRevision),
        _ => Resting,
    };

    /// <param name="id">The microVM's id.</param>
    /// <param name="spec">What is wanted.</param>
    /// <param name="notAfterMs">Unix time after which its name may be another's; 0: never.</param>
    /// <param name="now">The time.</param>
    public Decision Create(string id, VmSpec spec, long notAfterMs, DateTimeOffset now)
    {
        if (State == VmState.Deleted)
            return NotFound(id);
        if (Record is null && notAfterMs > 0 && now.ToUnixTimeMilliseconds() > notAfterMs)
            return Decision.Refuse("unavailable", "The request was under way for too long, or the clocks of the control plane's nodes differ too much. Send it again.");
        // The caller chose the id, so a second create is a repeat whose answer got lost.
        return Record is null ? Decision.Of(new VmCreated { At = At(now), Id = id, Spec = spec.Clone() }) : Decision.Nothing;
    }

    public Decision Stop(uint graceMs, DateTimeOffset now)
    {
        switch (State)
        {
            case VmState.Pending or VmState.Unplaced when Record!.Saved is null:
                return Decision.Of(Ended(Record.Epoch, null, StopRequested, now));
            // What it is saved in goes first.
            case VmState.Pending or VmState.Unplaced or VmState.Suspended:
            case VmState.Starting or VmState.Running or VmState.Suspending:
            // A second stop may shorten the grace of the first, never lengthen it. One that moves shall not run on elsewhere.
            case VmState.Stopping when graceMs < StopGraceMs || Record!.Move is not null:
                return Decision.Of(new VmStopRequested { At = At(now), GraceMs = Record!.Move is null ? graceMs : Math.Min(graceMs, StopGraceMs) });
            // It waits to run again, and shall not.
            case VmState.Stopped or VmState.Failed when Goal is Goal.Restart:
                return Decision.Of(Ended(Record!.Epoch, Record.Exit, StopRequested, now));
            case VmState.Stopping or VmState.Stopped or VmState.Failed:
                return Decision.Nothing;
            case VmState.Deleting:
                return Decision.Refuse("wrong_state", "The microVM is being deleted.");
            default:
                return NotFound(Record?.Id);
        }
    }

    /// <summary>Runs it again when its policy says so and the time has come.</summary>
    public Decision Restart(DateTimeOffset now) =>
        Goal is Goal.Restart restart && RestartRules.Wait(restart.At, now) == TimeSpan.Zero ? Decision.Of(new VmRestarted { At = At(now) }) : Decision.Nothing;

    public Decision Start(DateTimeOffset now) => State switch
    {
        VmState.Stopped or VmState.Failed => Decision.Of(new VmStartRequested { At = At(now) }),
        VmState.Unspecified or VmState.Deleted => NotFound(Record?.Id),
        _ => Decision.Refuse("wrong_state", $"The microVM is {Name(State)}; only a stopped or failed one can be started."),
    };

    /// <summary>Sets, changes or lifts (<paramref name="limit"/> null) what one rate limiter lets pass; of a microVM that runs, as soon as its host can.</summary>
    public Decision Limit(string name, RateLimit? limit, DateTimeOffset now)
    {
        if (State is VmState.Unspecified or VmState.Deleted)
            return NotFound(Record?.Id);
        if (State == VmState.Deleting)
            return Decision.Refuse("wrong_state", "The microVM is being deleted.");
        var driver = Record!.Driver.Length > 0 ? Record.Driver : Record.Spec.Driver;
        if (limit is not null && !RateLimitRules.Drivers.Contains(driver))
            return Decision.Refuse("wrong_state", $"The microVM runs under the driver {driver}, whose VMM has no rate limiters that can be told.");
        if (limit is not null && NetworkRules.Limiter("limiter", name, Record.Spec) is { } none)
            return Decision.Refuse("wrong_state", none.Message);
        var changed = new VmLimitsChanged { At = At(now), RateLimits = { Record.Spec.RateLimits.Clone() } };
        changed.RateLimits.Remove(name);
        if (limit is not null)
            changed.RateLimits.Add(name, limit.Clone());
        return changed.RateLimits.Equals(Record.Spec.RateLimits) ? Decision.Nothing : Decision.Of(changed);
    }

    public Decision Delete(DateTimeOffset now)
    {
        switch (State)
        {
            case VmState.Unspecified or VmState.Deleted:
                return NotFound(Record?.Id);
            case VmState.Deleting:
                return Decision.Nothing;
        }
        var requested = new VmDeleteRequested { At = At(now) };
        return Record!.Host.Length == 0
            ? Decision.Of(requested, new VmDeleted { At = At(now) })
            : Decision.Of(requested);
    }

    /// <summary>A host reserved room, for it alone or for its gang (<paramref name="byGang"/>). Not <paramref name="wanted"/> when the reservation must be given back.</summary>
    public Decision Placed(string host, ulong epoch, DateTimeOffset now, out bool wanted, IReadOnlyCollection<VolumeGrant>? volumes = null, bool byGang = false)
    {
        // A late yes to an earlier search, of a host that has not what it goes on from.
        var elsewhere = Record?.Saved is { } saved && saved.Host != host;
        // Who left its gang has perhaps told the host already that this room is not meant.
        if (byGang ? Goal is Goal.AwaitGang && epoch == GangRound.Epoch : !elsewhere && Goal is Goal.FindPlace && Record!.Epoch + 1 == epoch)
        {
            wanted = true;
            return Decision.Of(new VmPlaced { At = At(now), Host = host, Epoch = epoch, Volumes = { volumes ?? [] } });
        }
        wanted = IsPlacedOn(host, epoch);
        return Decision.Nothing;
    }

    /// <summary>
    /// No host took it. Stored when the reason is another one; the same reason with other numbers at most once in
    /// <see cref="UnplacedRefresh"/>, or thousands of waiting microVMs would write at every change of capacity.
    /// </summary>
    /// <param name="reason">Why.</param>
    /// <param name="isLasting">Whether waiting changes nothing: no host is only away or full.</param>
    /// <param name="now">The time.</param>
    /// <param name="isUndecided">There may be room all the same, see <see cref="PlacementSearch.IsUndecided"/>.</param>
    public Decision Unplaced(Reason reason, bool isLasting, DateTimeOffset now, bool isUndecided = false)
    {
        if (Goal is not (Goal.FindPlace or Goal.AwaitGang))
            return Decision.Nothing;
        // Once it had a place it is to have one again, whatever was said of its first.
        if (Record is { Epoch: 0, Spec.RefuseWaiting: true } && !isUndecided)
            return Decision.Of(Failed(0, Record.Spec.Gang is null ? reason : Because("no_capacity", reason.Message), now));
        // What could not be launched does not wait for hosts that may never come: its owner hears what is wrong. Hosts that are away for a moment are waited for.
        if (Record!.FailedHosts.Count > 0 && isLasting)
        {
            var why = ReasonText.Shorten($"It could not be launched on {string.Join(", ", Record.FailedHosts)}, and no other host takes it: {Record.Reason?.Message}");
            return Decision.Of(Failed(Record.Epoch, Because(Record.Reason?.Code ?? "launch_failed", why), now));
        }
        if (State == VmState.Unplaced && Record!.Reason?.Code == reason.Code
            && (reason.Equals(Record.Reason) || now - Record.ChangedAt.ToDateTimeOffset() < UnplacedRefresh))
        {
            return Decision.Nothing;
        }
        return Decision.Of(new VmUnplaced { At = At(now), Reason = reason });
    }

    /// <summary>It is nothing that any host could ever run as it is.</summary>
    public Decision Impossible(Reason reason, DateTimeOffset now) =>
        Goal is Goal.FindPlace ? Decision.Of(Failed(Record!.Epoch, reason, now)) : Decision.Nothing;

    public static readonly TimeSpan UnplacedRefresh = TimeSpan.FromSeconds(10);

    /// <summary>What the host says of it. <paramref name="stale"/>: it is not placed there under this epoch, nothing of it may stay.</summary>
    public Decision Report(string host, VmReport report, DateTimeOffset now, out bool stale)
    {
        var removed = report.State == HostVmState.Removed;
        stale = (!IsPlacedOn(host, report.Epoch) && !IsSavedOn(host, report.Epoch)) || (State == VmState.Deleted && !removed);
        // Of an epoch under which it is only saved there is nothing new to be told.
        if (stale || !IsPlacedOn(host, report.Epoch))
            return Decision.Nothing;
        switch (State)
        {
            case VmState.Starting when report.State == HostVmState.Running:
                return Decision.Of(new VmRunning
                {
                    At = At(now),
                    Epoch = report.Epoch,
                    Driver = report.Driver,
                    VmmPid = report.VmmPid,
                    LimitsRevision = Known(report.LimitsRevision),
                    Addresses = NetworkRules.IsWanted(Record!.Spec) ? report.Addresses?.Clone() : null,
                });
            // Told once: how far it is only its host knows.
            case VmState.Starting when report.State == HostVmState.Launching && report.Reason is { Code: PullingImageCode } pulling && Record!.Reason?.Code != PullingImageCode:
                return Decision.Of(new VmDelayed { At = At(now), Reason = pulling.Clone() });
            case VmState.Running when report.State == HostVmState.Running && Known(report.LimitsRevision) > Record!.LimitsInForce:
                return Decision.Of(new VmLimitsInForce { At = At(now), Revision = Known(report.LimitsRevision) });
            case VmState.Suspending when report is { State: HostVmState.Running, SuspendFailed: { } refused } && refused.Attempt == Record!.Suspends:
                return Decision.Of(new VmSuspendFailed { At = At(now), Epoch = report.Epoch, Reason = refused.Reason ?? Because(SnapshotFailedCode, "The host did not say why.") });
            case VmState.Stopping when TakesMemory && report is { State: HostVmState.Suspended, Snapshot: { } digest }:
                return Decision.Of(new VmMoved
                {
                    At = At(now),
                    Host = Record!.Move.Host,
                    Epoch = Record.Move.Epoch,
                    Saved = new SavedVm { Host = host, Epoch = report.Epoch, Driver = Record.Driver, Address = Record.Move.Address, Digest = digest.Clone(), Enrolment = Record.Move.Enrolment },
                });
            case VmState.Stopping when TakesMemory && report.State == HostVmState.Suspended:
                return Decision.Of(StopsAfterAll(Because(SnapshotFailedCode, "The host did not tell what it was saved in."), now));
            case VmState.Stopping when TakesMemory && report is { State: HostVmState.Running, SuspendFailed: { } refused } && refused.Attempt == Record!.Suspends:
                return Decision.Of(StopsAfterAll(refused.Reason ?? Because(SnapshotFailedCode, "The host did not say why."), now));
            // What it was saved in is of use to nobody else: it begins anew, wherever there is room.
            case VmState.Starting when report is { State: HostVmState.Failed, NeverRan: true } && Record!.Saved is { Address.Length: > 0 }:
                return Decision.Of(BeginsAnew(report.Reason?.Message ?? "", now));
            case VmState.Starting when report.State == HostVmState.Failed && Record!.Saved is not null && MayResumeAgain(report):
                return Decision.Of(new VmResumeFailed { At = At(now), Epoch = report.Epoch, Reason = report.Reason?.Clone() });
            case VmState.Starting or VmState.Running or VmState.Suspending when report.State == HostVmState.Suspended:
                return Decision.Of(new VmSuspended { At = At(now), Epoch = report.Epoch });
            case VmState.Suspended or VmState.Pending or VmState.Unplaced when removed:
                return SavedIsGone(Because(SnapshotLostCode, $"Host {host} removed what it was saved in without having been asked."), now);
            case VmState.Starting or VmState.Running or VmState.Stopping or VmState.Suspending:
                return report.State switch
                {
                    // What came to its end by itself meanwhile is not run a second time.
                    HostVmState.Ended when IsMoving && report.Reason is null or { Code: RestartRules.StopRequestedCode } => Moved(now),
                    HostVmState.Failed when IsMoving && (report.NeverRan || report.Reason?.Code == LeaseOverCode) => Moved(now),
                    HostVmState.Removed when IsMoving => Moved(now),
                    HostVmState.Ended => Decision.Of(Ended(report.Epoch, report.Exit, report.Reason ?? DefaultEnd(report), now, report.Log)),
                    // The host gave it up by itself. Whoever asked for its end gets that.
                    HostVmState.Failed when report.Reason?.Code == LeaseOverCode && State != VmState.Stopping =>
                        Decision.Of(new VmLost { At = At(now), Epoch = report.Epoch, Reason = report.Reason.Clone() }),
                    HostVmState.Failed when State == VmState.Starting && MayGoElsewhere(report) =>
                        Decision.Of(new VmLaunchFailed { At = At(now), Host = host, Epoch = report.Epoch, Reason = report.Reason!.Clone() }),
                    HostVmState.Failed => Decision.Of(Failed(report.Epoch, report.Reason
                        ?? Because("vmm_failed", "The host reported a failure without a reason."), now, report.Log)),
                    HostVmState.Removed => Decision.Of(Vanished("The host removed the microVM without having been asked.", now)),
                    _ => Decision.Nothing,
                };
            case VmState.Deleting when removed:
                return Decision.Of(new VmDeleted { At = At(now) });
            default:
                return Decision.Nothing;
        }
    }

    /// <summary>The host has no reservation and no trace of it.</summary>
    public Decision Gone(string host, ulong epoch, DateTimeOffset now)
    {
        if (!IsPlacedOn(host, epoch))
            return Decision.Nothing;
        return State switch
        {
            VmState.Starting when Record!.Saved is { Address.Length: > 0 } => Decision.Of(BeginsAnew($"Host {host} holds no reservation for it.", now)),
            VmState.Starting when Record!.Saved is not null =>
                Decision.Of(new VmResumeFailed { At = At(now), Epoch = epoch, Reason = Because("launch_failed", $"Host {host} holds no reservation for it.") }),
            VmState.Starting => Decision.Of(Failed(epoch, Because("launch_failed", $"Host {host} holds no reservation for it."), now)),
            VmState.Stopping when IsMoving => Moved(now),
            VmState.Running or VmState.Stopping or VmState.Suspending => Decision.Of(Vanished($"Host {host} knows nothing of it any more.", now)),
            VmState.Deleting => Decision.Of(new VmDeleted { At = At(now) }),
            _ => Decision.Nothing,
        };
    }

    /// <summary>The host was given up: nothing of this placement runs any more.</summary>
    public Decision Lost(string host, ulong epoch, DateTimeOffset now)
    {
        if (GoesTo(host, epoch))
            return Decision.Of(new VmMoveBegan { At = At(now), GraceMs = StopGraceMs, Pressed = Record!.Move.Pressed });
        if (IsSavedOn(host, epoch) && State != VmState.Starting)
            return SavedIsGone(Because(HostLostCode, $"Host {host} did not renew its lease, and with it what the microVM was saved in is given up."), now);
        if (!IsPlacedOn(host, epoch))
            return Decision.Nothing;
        return State switch
        {
            VmState.Stopping when IsMoving => Moved(now),
            VmState.Starting or VmState.Running or VmState.Suspending => Decision.Of(new VmLost
            {
                At = At(now),
                Epoch = epoch,
                Reason = Because(HostLostCode, $"Host {host} did not renew its lease; nothing of the microVM runs there any more, and it is placed again."),
            }),
            VmState.Stopping => Decision.Of(Ended(epoch, null, StopRequested, now)),
            VmState.Deleting => Decision.Of(new VmDeleted { At = At(now) }),
            _ => Decision.Nothing,
        };
    }

    /// <summary>
    /// The host asks whether it holds the reservation rightly, and says whether its agent knows the microVM (<paramref name="present"/>).
    /// <paramref name="keep"/> false: the reservation is to be released and what there is removed.
    /// </summary>
    public Decision Check(string host, ulong epoch, bool present, DateTimeOffset now, out bool keep)
    {
        keep = GoesTo(host, epoch) || (IsSavedOn(host, epoch) && (present || !IsPlacedOn(host, epoch)));
        if (keep)
            return Decision.Nothing;
        keep = IsPlacedOn(host, epoch) && State != VmState.Deleted;
        if (!keep || present)
            return Decision.Nothing;
        switch (State)
        {
            case VmState.Stopping when IsMoving:
                keep = false;
                return Moved(now);
            case VmState.Suspended or VmState.Pending or VmState.Unplaced:
                keep = false;
                return SavedIsGone(Because(SnapshotLostCode, $"Host {host} came back without what it was saved in."), now);
            case VmState.Running or VmState.Stopping or VmState.Suspending:
                // To launch it again would hide that it died, and could make a second copy of one that only the agent forgot.
                keep = false;
                return Decision.Of(Vanished($"Host {host} came back without it. If its record there was damaged, its folder is in host/quarantine of that host's data directory.", now));
            case VmState.Stopped or VmState.Failed:
                keep = false;
                return Decision.Nothing;
            default:
                return Decision.Nothing;
        }
    }

    /// <summary>
    /// Its host is drained, or short of something, and another has reserved room under <paramref name="toEpoch"/>; or it must go without (<paramref name="to"/>
    /// empty), also because it is <paramref name="preempted"/>. With an <paramref name="address"/> where it can be fetched from it takes its memory along, if its driver can, between hosts of these enrolments; without one the <paramref name="hindrance"/> is why not. Not <paramref name="wanted"/> when that room must be given back.
    /// </summary>
    public Decision Move(
        string host, ulong epoch, string to, ulong toEpoch, uint graceMs, DateTimeOffset now, out bool wanted, bool preempted = false, bool pressed = false, string address = "",
        string hindrance = "", uint enrolment = 0, uint toEnrolment = 0)
    {
        // Forced while another host still fetches it: that launch is given up, and it begins anew when nothing of it is left there.
        if (to.Length == 0 && !preempted && State == VmState.Starting && IsSavedOn(host, epoch) && Record!.Saved.Address.Length > 0)
        {
            wanted = true;
            return Decision.Of(new VmMoveBegan { At = At(now), GraceMs = graceMs, Pressed = pressed, SavedHost = host });
        }
        wanted = IsPlacedOn(host, epoch) && State switch
        {
            VmState.Running => to.Length == 0 || toEpoch == epoch + 1,
            // Forced: a launch under way, or a move that takes its time, or more of it than a stop does.
            VmState.Starting => to.Length == 0,
            VmState.Stopping => IsMoving && to.Length == 0 && (graceMs < StopGraceMs || (TakesMemory && !preempted && graceMs == StopGraceMs)),
            _ => false,
        };
        if (!wanted)
            return Decision.Nothing;
        var began = new VmMoveBegan { At = At(now), Host = to, Epoch = toEpoch, GraceMs = graceMs, Preempted = preempted && !IsMoving, Pressed = pressed };
        if (IsMoving)
            (began.Host, began.Epoch) = (Record!.Move.Host, Record.Move.Epoch);
        else if (to.Length > 0 && TiedMemory is null)
            (began.Address, began.Enrolment, began.ToEnrolment) = (address, enrolment, toEnrolment);
        // Of what is pressed or preempted nobody expects that it takes anything along.
        if (began is { Address: "", Preempted: false, Pressed: false } && (to.Length == 0 ? hindrance : TiedMemory ?? hindrance) is { Length: > 0 } why)
            began.WithoutMemory = Because("memory_stays", why);
        return Decision.Of(began);
    }

    /// <summary>Why its memory can't go to another host; null: it can.</summary>
    private string? TiedMemory =>
        !SnapshotDrivers.Contains(Record!.Driver) ? $"The driver {Record.Driver} can't save it."
        // What an image's name means at another host may be another image by now.
        : Record.Spec.Image.Length > 0 ? "It runs an OCI image, which may be another one elsewhere."
        : NetworkRules.IsWanted(Record.Spec) ? "It has a network, whose addresses are its host's to give."
        : null;

    /// <summary>Saves it on its host and ends its VMM, so that it holds no room.</summary>
    public Decision Suspend(DateTimeOffset now)
    {
        switch (State)
        {
            case VmState.Suspending or VmState.Suspended:
                return Decision.Nothing;
            case VmState.Running when !SnapshotDrivers.Contains(Record!.Driver):
                return Decision.Refuse("wrong_state", $"The microVM runs under the driver {Record.Driver}, which can't save it; {string.Join(" and ", SnapshotDrivers)} can.");
            case VmState.Running when Record!.Spec.Volumes.Count > 0:
                return Decision.Refuse("wrong_state", "The microVM has volumes, to which others may write until it goes on; only one without can be suspended.");
            case VmState.Running when NetworkRules.IsWanted(Record!.Spec):
                return Decision.Refuse("wrong_state", "The microVM has a network, whose addresses may be another's when it goes on; only one without can be suspended.");
            case VmState.Running:
                return Decision.Of(new VmSuspendRequested { At = At(now) });
            case VmState.Unspecified or VmState.Deleted:
                return NotFound(Record?.Id);
            default:
                return Decision.Refuse("wrong_state", $"The microVM is {Name(State)}; only a running one can be suspended.");
        }
    }

    /// <summary>Has it go on where it was saved, as soon as its host has room.</summary>
    public Decision Resume(DateTimeOffset now) => State switch
    {
        VmState.Suspended => Decision.Of(new VmResumeRequested { At = At(now) }),
        VmState.Pending or VmState.Unplaced or VmState.Starting when Record!.Saved is not null => Decision.Nothing,
        VmState.Unspecified or VmState.Deleted => NotFound(Record?.Id),
        _ => Decision.Refuse("wrong_state", $"The microVM is {Name(State)}; only a suspended one can be resumed."),
    };

    /// <summary>What is asked of a host: of one that is saved, that host and that driver.</summary>
    public VmSpec Wanted => WantedOf(Record!);

    private static VmSpec WantedOf(VmRecord record)
    {
        if (record.Saved is not { } saved)
            return record.Spec;
        var wanted = record.Spec.Clone();
        wanted.Driver = saved.Driver;
        if (saved.Address.Length == 0)
            wanted.Host = saved.Host;
        return wanted;
    }

    /// <summary>The search for its next place, before anybody is asked where its volumes and the microVMs that its rules name are.</summary>
    internal static PlacementSearch SearchFor(VmRecord record, ulong epoch)
    {
        var demand = Demand.Of(WantedOf(record));
        // What it is saved in takes of that host's disk what it wants there, or more.
        if (record.Saved is { Address.Length: 0 })
            demand = demand with { Needs = demand.Needs with { DiskMib = demand.Needs.DiskMib - (long)record.Spec.DiskMib } };
        return new PlacementSearch(demand, epoch, record.FailedHosts);
    }

    /// <summary>Drivers whose microVMs can be suspended.</summary>
    public static readonly IReadOnlyList<string> SnapshotDrivers = ["kvm", "simulated"];

    /// <summary>It stops here in order to go elsewhere.</summary>
    public bool IsMoving => Record is { State: VmState.Stopping, Move: not null };

    /// <summary>It is saved here in order to go on elsewhere.</summary>
    private bool TakesMemory => IsMoving && Record!.Move.Address.Length > 0;

    private VmMoveBegan StopsAfterAll(Reason why, DateTimeOffset now) => new()
    {
        At = At(now),
        Host = Record!.Move.Host,
        Epoch = Record.Move.Epoch,
        GraceMs = StopGraceMs,
        Pressed = Record.Move.Pressed,
        WithoutMemory = why.Clone(),
    };

    private VmLost BeginsAnew(string why, DateTimeOffset now) => new()
    {
        At = At(now),
        Epoch = Record!.Epoch,
        Reason = Because(SnapshotLostCode, ReasonText.Shorten($"It could not go on at host {Record.Host} with its memory, and begins anew. {why}")),
    };

    private bool GoesTo(string host, ulong epoch) => IsMoving && host.Length > 0 && Record!.Move.Host == host && Record.Move.Epoch == epoch;

    private Decision Moved(DateTimeOffset now) =>
        Decision.Of(new VmMoved { At = At(now), Host = Record!.Move.Host, Epoch = Record.Move.Epoch });

    /// <summary>The order under way can't reach its host, or can again.</summary>
    public Decision Reach(bool connected, DateTimeOffset now)
    {
        if (!Goal.IsOrder)
            return Decision.Nothing;
        var told = Record!.Reason?.Code == HostDisconnectedCode;
        if (connected)
            return told ? Decision.Of(new VmDelayed { At = At(now) }) : Decision.Nothing;
        return told
            ? Decision.Nothing
            : Decision.Of(new VmDelayed
            {
                At = At(now),
                Reason = Because(HostDisconnectedCode, $"Host {Record.Host} is not connected; this goes on as soon as its agent is back."),
            });
    }

    public const string HostDisconnectedCode = "host_disconnected";

    /// <summary>Its host pulls its image; it starts when that is here.</summary>
    public const string PullingImageCode = "pulling_image";

    public const string HostLostCode = "host_lost";

    public const string LeaseOverCode = "lease_over";
    public const string SnapshotLostCode = "snapshot_lost";
    public const string SnapshotFailedCode = "snapshot_failed";

    private static Reason StopRequested => Because(RestartRules.StopRequestedCode, "Stopped on request.");

    /// <summary>It never ran, the host could be at fault, and there may be others.</summary>
    private bool MayGoElsewhere(VmReport report) =>
        LaunchFaults.MayWorkElsewhere(report) && Record!.Spec is { Host.Length: 0, Volumes.Count: 0 } && Record.FailedHosts.Count + 1 < LaunchFaults.MostHosts;

    // Nothing of it ran, and what it is saved in is whole.
    private static bool MayResumeAgain(VmReport report) => report.NeverRan && report.Reason?.Code is not ("snapshot_lost" or "snapshot_invalid");

    /// <summary>What it was saved in is gone: it begins anew if somebody wants it to run, else it has failed, and its restart policy says what follows.</summary>
    private Decision SavedIsGone(Reason why, DateTimeOffset now) => State == VmState.Suspended
        ? Decision.Of(Failed(Record!.Epoch, why, now))
        : Decision.Of(new VmLost { At = At(now), Epoch = Record!.Epoch, Reason = why });

    private bool IsSavedOn(string host, ulong epoch) => Record?.Saved is { } saved && saved.Host == host && saved.Epoch == epoch;

    // A host that names a revision which never was has the newest one, as far as it can be believed.
    private ulong Known(ulong revision) => Math.Min(revision, Record!.LimitsRevision);

    private bool IsPlacedOn(string host, ulong epoch) =>
        Record is { Host.Length: > 0 } record && record.Host == host && record.Epoch == epoch;

    // Nothing is left of it and nobody said how it ended: in order if we had asked for that.
    private IMessage Vanished(string why, DateTimeOffset now) => State == VmState.Stopping
        ? Ended(Record!.Epoch, null, StopRequested, now)
        : Failed(Record!.Epoch, Because("vmm_killed", why), now);

    private Reason DefaultEnd(VmReport report) => report.Exit is { } exit
        ? Because("command_exited", $"The command ended with status {exit.Status}.")
        : State == VmState.Stopping ? StopRequested : Because("guest_shutdown", "The guest shut down.");

    private static VmEnded Ended(ulong epoch, GuestExit? exit, Reason reason, DateTimeOffset now, LogExtent? log = null) =>
        new() { At = At(now), Epoch = epoch, Exit = exit?.Clone(), Reason = reason.Clone(), Log = log?.Clone() };

    private static VmFailed Failed(ulong epoch, Reason reason, DateTimeOffset now, LogExtent? log = null) =>
        new() { At = At(now), Epoch = epoch, Reason = reason.Clone(), Log = log?.Clone() };

    private static Decision NotFound(string? id) => Decision.Refuse("not_found", $"There is no microVM '{id}'.");
    private static Reason Because(string code, string message) => new() { Code = code, Message = message };
    private static Timestamp At(DateTimeOffset now) => Timestamp.FromDateTimeOffset(now);

    /// <summary>As docs/api.md spells it.</summary>
    public static string Name(VmState state) => state.ToString().ToLowerInvariant();
}
