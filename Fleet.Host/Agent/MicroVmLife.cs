using Fleet.Host.Drivers;
using Fleet.Host.State;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>What the shell around a <see cref="MicroVmLife"/> has to do, in order.</summary>
public abstract record MicroVmEffect
{
    private MicroVmEffect()
    {
    }

    /// <summary>Write down, then tell the control plane; the latest report of a microVM is what counts.</summary>
    /// <param name="State">Where it is.</param>
    /// <param name="Reason">Why.</param>
    /// <param name="Exit">How the command ended.</param>
    /// <param name="NeverRan">It failed before its guest ran.</param>
    /// <param name="SuspendFailed">It could not be suspended.</param>
    public sealed record Report(HostVmState State, Reason? Reason, GuestExit? Exit, bool NeverRan = false, SuspendFailure? SuspendFailed = null) : MicroVmEffect;

    /// <summary>Start a VMM, then call <see cref="MicroVmLife.Launched"/> or <see cref="MicroVmLife.LaunchFailed"/>.</summary>
    public sealed record StartVmm : MicroVmEffect;

    /// <summary>
    /// Take over the VMM of an earlier agent, then call <see cref="MicroVmLife.Launched"/>,
    /// <see cref="MicroVmLife.NothingToAdopt"/> or <see cref="MicroVmLife.LaunchFailed"/>.
    /// </summary>
    public sealed record AdoptVmm : MicroVmEffect;

    /// <summary>Give up a launch that is under way; its outcome is told as usual.</summary>
    public sealed record CancelLaunch : MicroVmEffect;

    /// <summary>End the VMM: its guest may take <paramref name="Grace"/> to power down.</summary>
    public sealed record StopVmm(TimeSpan Grace) : MicroVmEffect;

    /// <summary>Save it and end the VMM, or call <see cref="MicroVmLife.SuspendFailed"/>.</summary>
    public sealed record SuspendVmm : MicroVmEffect;

    /// <summary>Begin to wait for the guest to be ready.</summary>
    public sealed record WatchBoot(TimeSpan Limit) : MicroVmEffect;

    /// <summary>
    /// Delete everything of the microVM on this host, then call <see cref="MicroVmLife.Deleted"/> or
    /// <see cref="MicroVmLife.DeleteFailed"/>.
    /// </summary>
    public sealed record Delete : MicroVmEffect;
}

/// <summary>
/// The life of one microVM under one epoch on this host, as a state machine without time, threads or actors:
/// launching → running → ended, failed or suspended → removed.
/// </summary>
/// <remarks>
/// Invariants: at most one VMM is ever started or taken over; one that may run is never called ended, and its files are never
/// deleted; every command is answered by a report, at once or when what it asked for has happened; after
/// <see cref="HostVmState.Removed"/> nothing is left and nothing happens any more.
/// </remarks>
public sealed class MicroVmLife
{
    private readonly TimeSpan _bootLimit;
    private readonly HostVmState _found;
    private bool _adopting;
    private TimeSpan? _stopGrace;
    private bool _removeWanted;
    private bool _deleting;
    private bool _ready;
    private Reason? _verdict;
    private Reason? _reason;
    private GuestExit? _exit;
    private bool _neverRan;
    private readonly bool _resumes;
    private ulong _suspendAttempt;
    private bool _suspending;
    private SuspendFailure? _suspendFailed;

    private MicroVmLife(TimeSpan bootLimit, HostVmState found, bool resumes)
    {
        _bootLimit = bootLimit;
        _resumes = resumes;
        _found = found;
        _adopting = found.HasVmm();
    }

    /// <summary>Where it is. A VMM that is still to be taken over counts as launching.</summary>
    public HostVmState State { get; private set; } = HostVmState.Launching;

    /// <summary>True while a VMM runs or may be about to.</summary>
    public bool HasVmm => State.HasVmm();

    /// <summary>A life that begins.</summary>
    /// <param name="bootLimit">By then the guest must be ready; zero: no limit.</param>
    /// <param name="resumes">It does not boot, but goes on from a snapshot.</param>
    public static MicroVmLife New(TimeSpan bootLimit, bool resumes = false) => new(bootLimit, HostVmState.Unspecified, resumes);

    /// <summary>A life that an earlier agent wrote down.</summary>
    /// <param name="bootLimit">As for a new one.</param>
    /// <param name="report">The last word of it.</param>
    /// <param name="stopGrace">The grace of a stop that had been asked for; null: none was.</param>
    /// <param name="resumes">As for a new one.</param>
    public static MicroVmLife Found(TimeSpan bootLimit, VmReport report, TimeSpan? stopGrace = null, bool resumes = false)
    {
        ArgumentNullException.ThrowIfNull(report);
        var life = new MicroVmLife(bootLimit, report.State, resumes) { _stopGrace = stopGrace };
        if (!life._adopting)
            (life.State, life._reason, life._exit, life._neverRan) = (report.State, report.Reason, report.Exit, report.NeverRan);
        return life;
    }

    /// <summary>To be called once, first.</summary>
    public IReadOnlyList<MicroVmEffect> Begin()
    {
        if (_adopting)
            return [new MicroVmEffect.AdoptVmm()];
        return _found == HostVmState.Unspecified ? [Now(), new MicroVmEffect.StartVmm()] : [Now()];
    }

    /// <summary>The VMM runs: started now, or taken over.</summary>
    public IReadOnlyList<MicroVmEffect> Launched()
    {
        if (State != HostVmState.Launching)
            return [];
        State = HostVmState.Running;
        // Who stops a launch wants no guest; who stopped one that had run already may have granted it time.
        var grace = _adopting ? _stopGrace : TimeSpan.Zero;
        _adopting = false;
        if (_stopGrace is not null)
            return [Now(), new MicroVmEffect.StopVmm(grace ?? TimeSpan.Zero)];
        return _bootLimit > TimeSpan.Zero ? [new MicroVmEffect.WatchBoot(_bootLimit), Now()] : [Now()];
    }

    /// <summary>No guest was ever started in the folder that was to be taken over, and nothing of one runs.</summary>
    public IReadOnlyList<MicroVmEffect> NothingToAdopt()
    {
        if (!_adopting)
            return [];
        var begins = WouldBegin;
        _adopting = false;
        // An earlier agent was killed between its word and its deed. What had run, though, is not run a second time.
        if (begins)
            return [new MicroVmEffect.StartVmm()];
        return LaunchFailed("vmm_killed", "The VMM was gone when the agent was started again, and left nothing that tells how it ended.");
    }

    /// <summary>The VMM could not be started, its launch was given up, or there is none any more to take over.</summary>
    public IReadOnlyList<MicroVmEffect> LaunchFailed(string code, string message)
    {
        if (State != HostVmState.Launching)
            return [];
        // Of one that was to be taken over nobody knows how far it had come.
        _neverRan = !_adopting && _stopGrace is null;
        _adopting = false;
        return _stopGrace is null
            ? Over(HostVmState.Failed, new Reason { Code = code, Message = message }, null)
            : Over(HostVmState.Ended, StopRequested(), null);
    }

    /// <summary>The launch waits for something that takes long; people want to know for what.</summary>
    public IReadOnlyList<MicroVmEffect> Waits(string code, string message) => State == HostVmState.Launching && _stopGrace is null
        ? [new MicroVmEffect.Report(State, new Reason { Code = code, Message = message }, null)]
        : [];

    /// <summary><see cref="NothingToAdopt"/> would start a VMM.</summary>
    public bool WouldBegin => _adopting && _found == HostVmState.Launching && _stopGrace is null;

    /// <summary>The guest is ready: its boot is no longer timed.</summary>
    public void GuestReady() => _ready = true;

    /// <summary>The guest was not ready in time.</summary>
    public IReadOnlyList<MicroVmEffect> BootTimedOut()
    {
        if (State != HostVmState.Running || _ready || _stopGrace is not null)
            return [];
        return GiveUp("boot_timeout", $"The guest was not ready within {_bootLimit.TotalSeconds:0} s; its console shows how far it came.");
    }

    /// <summary>The host's lease has lapsed, and the VMM does not stop its guest by itself.</summary>
    public IReadOnlyList<MicroVmEffect> LeaseLapsed()
    {
        if (State != HostVmState.Running || _verdict is not null)
            return [];
        return GiveUp("lease_over", "The host had no word from the control plane within its lease: another copy of the microVM may run elsewhere.");
    }

    /// <summary>The VMM is gone.</summary>
    public IReadOnlyList<MicroVmEffect> VmmEnded(VmmEnd end)
    {
        ArgumentNullException.ThrowIfNull(end);
        if (State != HostVmState.Running)
            return [];
        if (_verdict is not null)
            return Over(HostVmState.Failed, _verdict, end.Exit);
        // Who asked for the end meanwhile gets that.
        if (end.Saved)
            return _stopGrace is null ? Over(HostVmState.Suspended, end.Reason, null) : Over(HostVmState.Ended, StopRequested(), null);
        if (end.InOrder)
            return Over(HostVmState.Ended, end.Reason, end.Exit);
        // Whoever asked for the end gets it, even where the VMM had to be killed for it.
        return _stopGrace is null
            ? Over(HostVmState.Failed, end.Reason, end.Exit)
            : Over(HostVmState.Ended, StopRequested(), end.Exit);
    }

    /// <summary>The control plane wants it stopped.</summary>
    public IReadOnlyList<MicroVmEffect> Stop(TimeSpan grace)
    {
        switch (State)
        {
            case HostVmState.Launching:
                // A takeover is never given up: the VMM behind it would run on unseen.
                _stopGrace = _stopGrace < grace ? _stopGrace : grace;
                return _adopting ? [] : [new MicroVmEffect.CancelLaunch()];
            case HostVmState.Running:
                // Asked again with less patience is a new request: the driver takes the shorter grace.
                _stopGrace = grace;
                return [new MicroVmEffect.StopVmm(grace)];
            // It shall not go on any more.
            case HostVmState.Suspended:
            case HostVmState.Failed when _neverRan && _resumes:
                return Over(HostVmState.Ended, StopRequested(), null);
            default:
                return [Now()];
        }
    }

    /// <summary>The control plane wants it saved. An attempt that was made is not made again, but answered again.</summary>
    public IReadOnlyList<MicroVmEffect> Suspend(ulong attempt)
    {
        switch (State)
        {
            // What launches, is taken over or ends says so by itself.
            case HostVmState.Launching:
            case HostVmState.Running when _suspending || _stopGrace is not null:
                return [];
            case HostVmState.Running when attempt > _suspendAttempt:
                (_suspendAttempt, _suspending, _suspendFailed) = (attempt, true, null);
                return [new MicroVmEffect.SuspendVmm()];
            default:
                return [Now()];
        }
    }

    /// <summary>It could not be saved, and runs on.</summary>
    public IReadOnlyList<MicroVmEffect> SuspendFailed(string message)
    {
        if (!_suspending)
            return [];
        _suspending = false;
        _suspendFailed = new SuspendFailure { Attempt = _suspendAttempt, Reason = new Reason { Code = "snapshot_failed", Message = message } };
        return State == HostVmState.Running ? [Now()] : [];
    }

    /// <summary>The control plane wants nothing of it left. Asked again, what failed of it is tried again.</summary>
    /// <param name="grace">That its guest gets to power down.</param>
    public IReadOnlyList<MicroVmEffect> Remove(TimeSpan grace)
    {
        _removeWanted = true;
        if (HasVmm)
            return Stop(grace);
        return State == HostVmState.Removed ? [Now()] : Deletion();
    }

    /// <summary>Everything of it has been deleted.</summary>
    public IReadOnlyList<MicroVmEffect> Deleted()
    {
        if (!_deleting || State == HostVmState.Removed)
            return [];
        State = HostVmState.Removed;
        return [Now()];
    }

    /// <summary>Not everything of it could be deleted; the next <see cref="Remove"/> tries again.</summary>
    public void DeleteFailed() => _deleting = false;

    /// <summary>The report of how things are.</summary>
    public MicroVmEffect.Report Now() => new(State, _reason, _exit, State == HostVmState.Failed && _neverRan, State == HostVmState.Running ? _suspendFailed : null);

    // The first verdict stands, whatever else comes up before the VMM is gone.
    private IReadOnlyList<MicroVmEffect> GiveUp(string code, string message)
    {
        _stopGrace = TimeSpan.Zero;
        _verdict = new Reason { Code = code, Message = message };
        return [new MicroVmEffect.StopVmm(TimeSpan.Zero)];
    }

    private static Reason StopRequested() => new() { Code = "stop_requested", Message = "Stopped on request." };

    private List<MicroVmEffect> Over(HostVmState state, Reason reason, GuestExit? exit)
    {
        (State, _reason, _exit) = (state, reason, exit);
        List<MicroVmEffect> effects = [Now()];
        if (_removeWanted)
            effects.AddRange(Deletion());
        return effects;
    }

    private IReadOnlyList<MicroVmEffect> Deletion()
    {
        if (_deleting)
            return [];
        _deleting = true;
        return [new MicroVmEffect.Delete()];
    }
}
