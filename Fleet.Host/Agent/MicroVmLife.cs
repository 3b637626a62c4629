using Fleet.Host.Drivers;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Agent;

/// <summary>What the shell around a <see cref="MicroVmLife"/> has to do, in order.</summary>
public abstract record MicroVmEffect
{
    private MicroVmEffect()
    {
    }

    /// <summary>Tell the control plane; the latest report of a microVM is what counts.</summary>
    public sealed record Report(HostVmState State, Reason? Reason, GuestExit? Exit) : MicroVmEffect;

    /// <summary>Give up a launch that is under way; its outcome is told as usual.</summary>
    public sealed record CancelLaunch : MicroVmEffect;

    /// <summary>End the VMM: its guest may take <paramref name="Grace"/> to power down.</summary>
    public sealed record StopVmm(TimeSpan Grace) : MicroVmEffect;

    /// <summary>Begin to wait for the guest to be ready.</summary>
    public sealed record WatchBoot(TimeSpan Limit) : MicroVmEffect;

    /// <summary>Delete everything of the microVM on this host, then call <see cref="MicroVmLife.Deleted"/>.</summary>
    public sealed record Delete : MicroVmEffect;
}

/// <summary>
/// The life of one microVM under one epoch on this host, as a state machine without time, threads or actors:
/// launching → running → ended or failed → removed.
/// </summary>
/// <remarks>
/// Invariants: at most one VMM is ever asked for; every command is answered by a report; after
/// <see cref="HostVmState.Removed"/> nothing is left and nothing happens any more.
/// </remarks>
public sealed class MicroVmLife(TimeSpan bootLimit)
{
    private readonly TimeSpan _bootLimit = bootLimit;
    private bool _stopWanted;
    private bool _removeWanted;
    private bool _deleting;
    private Reason? _verdict;
    private Reason? _reason;
    private GuestExit? _exit;

    /// <summary>Where it is.</summary>
    public HostVmState State { get; private set; } = HostVmState.Launching;

    /// <summary>True while a VMM runs or may be about to.</summary>
    public bool HasVmm => State is HostVmState.Launching or HostVmState.Running;

    /// <summary>A life that was over when an earlier agent wrote it down: there is no VMM to ask.</summary>
    public static MicroVmLife Over(VmReport report)
    {
        ArgumentNullException.ThrowIfNull(report);
        return new MicroVmLife(TimeSpan.Zero) { State = report.State, _reason = report.Reason, _exit = report.Exit };
    }

    /// <summary>The VMM runs: started now, or taken over from an earlier agent, whose guest then is ready at once or gets its time anew.</summary>
    public IReadOnlyList<MicroVmEffect> Launched()
    {
        if (State != HostVmState.Launching)
            return [];
        State = HostVmState.Running;
        List<MicroVmEffect> effects = [Now()];
        if (_stopWanted)
            effects.Add(new MicroVmEffect.StopVmm(TimeSpan.Zero));
        else if (_bootLimit > TimeSpan.Zero)
            effects.Add(new MicroVmEffect.WatchBoot(_bootLimit));
        return effects;
    }

    /// <summary>The VMM could not be started, or its launch was given up.</summary>
    public IReadOnlyList<MicroVmEffect> LaunchFailed(string code, string message)
    {
        if (State != HostVmState.Launching)
            return [];
        return _stopWanted
            ? Over(HostVmState.Ended, new Reason { Code = "stop_requested", Message = "Stopped before it had started." }, null)
            : Over(HostVmState.Failed, new Reason { Code = code, Message = message }, null);
    }

    /// <summary>The guest was not ready in time.</summary>
    public IReadOnlyList<MicroVmEffect> BootTimedOut()
    {
        if (State != HostVmState.Running || _stopWanted)
            return [];
        _stopWanted = true;
        _verdict = new Reason
        {
            Code = "boot_timeout",
            Message = $"The guest was not ready within {_bootLimit.TotalSeconds:0} s; its console shows how far it came.",
        };
        return [new MicroVmEffect.StopVmm(TimeSpan.Zero)];
    }

    /// <summary>The VMM is gone.</summary>
    public IReadOnlyList<MicroVmEffect> VmmEnded(VmmEnd end)
    {
        ArgumentNullException.ThrowIfNull(end);
        if (!HasVmm)
            return [];
        if (_verdict is not null)
            return Over(HostVmState.Failed, _verdict, end.Exit);
        if (end.InOrder)
            return Over(HostVmState.Ended, end.Reason, end.Exit);
        // Whoever asked for the end gets it, even where the VMM had to be killed for it.
        return _stopWanted
            ? Over(HostVmState.Ended, new Reason { Code = "stop_requested", Message = "Stopped on request." }, end.Exit)
            : Over(HostVmState.Failed, end.Reason, end.Exit);
    }

    /// <summary>The control plane wants it stopped.</summary>
    public IReadOnlyList<MicroVmEffect> Stop(TimeSpan grace)
    {
        switch (State)
        {
            case HostVmState.Launching:
                _stopWanted = true;
                return [new MicroVmEffect.CancelLaunch()];
            case HostVmState.Running:
                // Asked again with less patience is a new request: the driver takes the shorter grace.
                _stopWanted = true;
                return [new MicroVmEffect.StopVmm(grace)];
            default:
                return [Now()];
        }
    }

    /// <summary>The control plane wants nothing of it left.</summary>
    public IReadOnlyList<MicroVmEffect> Remove()
    {
        if (_removeWanted)
            return State == HostVmState.Removed ? [Now()] : [];
        _removeWanted = true;
        if (HasVmm)
            return Stop(TimeSpan.Zero);
        return Deletion();
    }

    /// <summary>Everything of it has been deleted.</summary>
    public IReadOnlyList<MicroVmEffect> Deleted()
    {
        if (!_deleting || State == HostVmState.Removed)
            return [];
        State = HostVmState.Removed;
        return [Now()];
    }

    /// <summary>The report of how things are.</summary>
    public MicroVmEffect.Report Now() => new(State, _reason, _exit);

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
