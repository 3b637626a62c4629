using Akka.Actor;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Guests;
using Fleet.Host.Images;
using Fleet.Host.Link;
using Fleet.Host.Snapshots;
using Fleet.Host.State;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf.WellKnownTypes;
using Serilog;
using Serilog.Events;

namespace Fleet.Host.Agent;

/// <summary>
/// One microVM under one epoch: owns its VMM and its folder. A shell around <see cref="MicroVmLife"/>: writes down, then
/// reports, then acts.
/// </summary>
#pragma warning disable CA1001 // A launch may look at its token after the actor's end; without a timer it holds nothing to give back.
internal sealed partial class MicroVmActor : UntypedActor
#pragma warning restore CA1001
{
    /// <summary>
    /// What a guest that was taken over gets at least, even when its time is up: whether it is ready is read from its
    /// status file, and that takes a moment.
    /// </summary>
    private static readonly TimeSpan LeastBootTime = TimeSpan.FromSeconds(10);

    private readonly MicroVmContext _context;
    private readonly LaunchRecord _record;
    private readonly TaskCompletionSource _ended;
    private readonly IVmmDriver? _driver;
    private readonly ILogger _log;
    private readonly MicroVmLife _life;
    private readonly VmmSlot _slot = new();
    private readonly HeldInput _input = new();
    private readonly GuestStreams _guests;
    private Task _guestsEnd = Task.CompletedTask;
    private readonly CancellationTokenSource _launching = new();
    private IVmm? _vmm;
    private ITimer? _bootTimer;
    private string? _unwritten;
    private (string Host, uint Enrolment) _savedFor = ("", 0);
    private readonly bool _found;

    /// <summary>What a guest wrote last is in its own memory yet: one with volumes is not simply cut off.</summary>
    private TimeSpan RemovalGrace => _record.Launch.Spec.Volumes.Count > 0 ? TimeSpan.FromSeconds(VmLimits.DefaultGraceSeconds) : TimeSpan.Zero;

    /// <param name="found">The record was found on the disk: take over what an earlier agent started.</param>
    /// <param name="ended">Completed when no VMM writes to the microVM's console any more.</param>
    public MicroVmActor(MicroVmContext context, LaunchRecord record, bool found, TaskCompletionSource ended)
    {
        _context = context;
        _record = record;
        _ended = ended;
        _found = found;
        _driver = context.DriverNamed(record.Driver);
        _log = context.Log.ForContext<MicroVmActor>().ForContext("VmId", record.Launch.VmId).ForContext("Epoch", record.Launch.Epoch);
        var limit = TimeSpan.FromSeconds(record.Launch.Spec.BootTimeoutSeconds);
        _limitsInForce = record.Report.LimitsRevision;
        _extent = record.Report.Log;
        _guests = new GuestStreams(context.Clock, _log);
        var resumes = record.Launch.SnapshotEpoch > 0;
        _life = found ? MicroVmLife.Found(limit, record.Report, record.StopGrace?.ToTimeSpan(), resumes) : MicroVmLife.New(limit, resumes);
    }

    /// <summary>Commands of the control plane, by way of the agent.</summary>
    public sealed record Stop(TimeSpan Grace) : INoSerializationVerificationNeeded;

    public sealed record Suspend(ulong Attempt, string ForHost, uint ForEnrolment) : INoSerializationVerificationNeeded;

    public sealed class Remove : INoSerializationVerificationNeeded
    {
        public static readonly Remove Instance = new();
    }

    /// <summary>Asks for a <see cref="HostAgentActor.UseRead"/>; no answer when it does not run.</summary>
    public sealed class ReadUse : INoSerializationVerificationNeeded
    {
        public static readonly ReadUse Instance = new();
    }

    public sealed record Input(ReadOnlyMemory<byte> Data) : INoSerializationVerificationNeeded;

    /// <summary>A frame for fleet-init, by the stream to the control plane that the answer goes to.</summary>
    public sealed record ForGuest(GuestFrame Frame, LinkSession Session) : INoSerializationVerificationNeeded;

    private sealed record VmmLaunched(IVmm Vmm) : INoSerializationVerificationNeeded;

    private sealed record VmmNeverWas : INoSerializationVerificationNeeded;

    private sealed record PullBegan(string Image) : INoSerializationVerificationNeeded;

    private sealed record LaunchGivenUp(string Code, string Message) : INoSerializationVerificationNeeded;

    /// <summary>The agent ends before the work was done; the next one does it.</summary>
    private sealed record LeftToTheNext : INoSerializationVerificationNeeded;

    private sealed record VmmGone(VmmEnd End) : INoSerializationVerificationNeeded;

    private sealed record VmmNotSaved(string Why) : INoSerializationVerificationNeeded;

    private sealed record VcpusKnown(IReadOnlyList<int> Threads) : INoSerializationVerificationNeeded;

    private sealed record GuestIsReady : INoSerializationVerificationNeeded;

    private sealed record BootTimeUp : INoSerializationVerificationNeeded;

    private sealed record FilesGone(Exception? Problem) : INoSerializationVerificationNeeded;

    private VmmLaunch Launch => new(
        _record.Launch.VmId, _record.Launch.Epoch, _record.Launch.Spec, _context.State.FolderOf(_record.Launch.VmId))
    {
        Lease = IsFenced ? _context.Lease.Now : null,
        SnapshotEpoch = _record.Launch.SnapshotEpoch,
        Link = Interface,
    };

    protected override void PreStart()
    {
        if (!_life.HasVmm)
            _ended.TrySetResult();
        Carry(_life.Begin());
    }

    protected override void PostStop()
    {
        // The agent ends, or the microVM is gone; a VMM that still runs goes on without us.
        _bootTimer?.Dispose();
        _leaseTimer?.Dispose();
        EndGuests("The host's agent lets go of the microVM.", isGone: false);
        TellEnded();
        if (_slot.Close() is { } vmm)
            _context.Work.Track(LetGoAsync(vmm));
    }

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case VmmLaunched launched:
                Own(launched.Vmm);
                Carry(_life.Launched());
                break;
            case VmmNeverWas when IsFenced && _context is { Fenced: true, Lease.Now: null } && _life.WouldBegin:
                // It may run elsewhere by now. The first lease comes only after the control plane has said which may not stay.
                _awaitsLease = true;
                break;
            case VmmNeverWas:
                Carry(_life.NothingToAdopt());
                break;
            case PullBegan pull:
                Carry(_life.Waits("pulling_image", $"The host pulls {pull.Image}."));
                break;
            case LaunchGivenUp failed:
                Carry(_life.LaunchFailed(failed.Code, failed.Message));
                break;
            case LeftToTheNext:
                break;
            case GuestIsReady:
                _life.GuestReady();
                _bootTimer?.Dispose();
                Pass(_input.Release());
                break;
            case VcpusKnown vcpus:
                for (var i = 0; i < vcpus.Threads.Count; i++)
                    _vcpus.Add(Context.ActorOf(Props.Create<VcpuActor>(i, _vmm!.Pid, vcpus.Threads[i], Terms, _context.Clock), $"vcpu-{i}"));
                break;
            case BootTimeUp:
                Carry(_life.BootTimedOut());
                break;
            case VmmGone gone:
                _bootTimer?.Dispose();
                _leaseTimer?.Dispose();
                EndLimiters();
                EndBalloon();
                EndGuests("The microVM has ended.", isGone: true);
                // Who hears of its end finds in its log what it wrote last.
                _context.Work.Track(ReadLogAsync(_guestsEnd), _record.Launch.VmId).PipeTo(Self, success: log => new LogOver(gone.End, log));
                break;
            case LogOver over:
                _extent = over.Log;
                Carry(_life.VmmEnded(over.End));
                break;
            case Stop stop:
                // Written before it is done: what ends by it has not failed, whichever agent sees the end.
                if (_life.HasVmm && _record.StopGrace?.ToTimeSpan() != stop.Grace)
                {
                    _record.StopGrace = Duration.FromTimeSpan(stop.Grace);
                    Write(durable: false);
                }

                Carry(_life.Stop(stop.Grace));
                SettleAwaited();
                break;
            case ForGuest guest:
                _guests.Take(_vmm, guest.Frame, guest.Session);
                break;
            case GuestSaid said:
                OnGuestSaid(said);
                break;
            case Suspend suspend:
                _savedFor = (suspend.ForHost, suspend.ForEnrolment);
                Carry(_life.Suspend(suspend.Attempt));
                break;
            case VmmNotSaved failed:
                Carry(_life.SuspendFailed(failed.Why));
                break;
            case ReadUse:
                Read();
                break;
            case VcpuUsage vcpu:
                OnVcpu(vcpu);
                break;
            case Ease ease:
                OnEase(ease);
                break;
            case BalloonActor.Holds holds:
                Context.Parent.Tell(new HostAgentActor.BalloonRead(_record.Launch.VmId, _record.Launch.Epoch, holds.Mib));
                break;
            case Retune wanted:
                OnRetune(wanted);
                break;
            case Renew renew:
                OnRenew(renew.Lease);
                break;
            case LeasePassed passed:
                OnPassed(passed);
                break;
            case LeaseLapsed:
                OnLapsed();
                break;
            case RateLimiterActor.Told told:
                OnLimiter(told);
                break;
            case Remove:
                Carry(_life.Remove(RemovalGrace));
                SettleAwaited();
                break;
            case FilesGone { Problem: null }:
                Carry(_life.Deleted());
                Context.Stop(Self);
                break;
            case FilesGone { Problem: { } problem }:
                _log.Error(problem, "The folder of {VmId} could not be deleted; it is tried again when the control plane asks again", _record.Launch.VmId);
                _life.DeleteFailed();
                break;
            case Input input:
                if (_life.HasVmm && _input.Take(input.Data) is { IsEmpty: false } now && _vmm is { } vmm)
                    _context.Work.Track(WriteAsync(vmm, now)).PipeTo(Context.Parent, success: () => new HostAgentActor.InputTaken(_record.Launch.VmId));
                else
                    Context.Parent.Tell(new HostAgentActor.InputTaken(_record.Launch.VmId));
                break;
            default:
                Unhandled(message);
                break;
        }

        if (!_life.HasVmm)
            TellEnded();
    }

    private void EndGuests(string why, bool isGone) => _guestsEnd = _context.Work.Track(_guests.EndAsync(why, isGone), _record.Launch.VmId);

    // What its command wrote last is written down by then.
    private void TellEnded()
    {
        if (_guestsEnd.IsCompleted)
            _ended.TrySetResult();
        else
            _ = _guestsEnd.ContinueWith(_ => _ended.TrySetResult(), TaskScheduler.Default);
    }

    private void Own(IVmm vmm)
    {
        _vmm = vmm;
        KeepLog(vmm);
        _record.LaunchedAt ??= Duration.FromTimeSpan(Monotonic);
        _ = vmm.Completion.PipeTo(Self, success: end => new VmmGone(end));
        var self = Self;
        _ = vmm.GuestReady.ContinueWith(
            _ => self.Tell(new GuestIsReady()), CancellationToken.None, TaskContinuationOptions.OnlyOnRanToCompletion, TaskScheduler.Default);
        // A kernel of the user's own has no fleet-init that could say when it listens.
        if (_record.Launch.Spec.Boot is not null)
            Pass(_input.Release());
        TuneLimiters();
        PassLease();
        MindBalloon();
        if (_ease.Cpu || Terms is { Weight: not 1 })
            ShareCpu();
        // One that was taken over is asked for them, which takes a moment.
        _ = vmm.VcpuThreads.ContinueWith(
            known => self.Tell(new VcpusKnown(known.Result)), CancellationToken.None, TaskContinuationOptions.OnlyOnRanToCompletion, TaskScheduler.Default);
    }

    private void Carry(IReadOnlyList<MicroVmEffect> effects)
    {
        foreach (var effect in effects)
        {
            switch (effect)
            {
                case MicroVmEffect.Report report:
                    Report(report);
                    break;
                case MicroVmEffect.StartVmm:
                    var self = Self;
                    _context.Work.Track(Task.Run(() => StartAsync(self)), _record.Launch.VmId).PipeTo(Self);
                    break;
                case MicroVmEffect.AdoptVmm:
                    // An actor that failed may have left a launch or a deletion under way.
                    var earlier = _context.Work.WhenDoneAsync(_record.Launch.VmId);
                    _context.Work.Track(Task.Run(() => AdoptAsync(earlier)), _record.Launch.VmId).PipeTo(Self);
                    break;
                case MicroVmEffect.CancelLaunch:
                    _launching.Cancel();
                    break;
                case MicroVmEffect.StopVmm stop:
                    _guests.StopCommand(GuestRun.CommandLimit(stop.Grace));
                    _context.Work.Track(StopAsync(_vmm!, stop.Grace));
                    break;
                case MicroVmEffect.SuspendVmm:
                    _context.Work.Track(SuspendAsync(_vmm!, _savedFor.Host, _savedFor.Enrolment), _record.Launch.VmId).PipeTo(Self);
                    break;
                case MicroVmEffect.WatchBoot watch:
                    WatchBoot(watch.Limit);
                    break;
                case MicroVmEffect.Delete:
                    _context.Work.Track(DeleteAsync(_guestsEnd), _record.Launch.VmId).PipeTo(Self);
                    break;
            }
        }
    }

    private void Pass(ReadOnlyMemory<byte> input)
    {
        if (_vmm is not null && !input.IsEmpty)
            _context.Work.Track(WriteAsync(_vmm, input));
    }

    // The same for every process of one boot, and no wall clock's step moves it.
    private TimeSpan Monotonic => _context.Clock.GetElapsedTime(0);

    private void WatchBoot(TimeSpan limit)
    {
        var self = Self;
        // Counted from the launch, so that an agent which is started again and again does not give a guest time for ever.
        var left = limit - (Monotonic - _record.LaunchedAt.ToTimeSpan());
        var least = limit < LeastBootTime ? limit : LeastBootTime;
        _bootTimer = _context.Clock.CreateTimer(
            _ => self.Tell(new BootTimeUp()), null, left < least ? least : left > limit ? limit : left, Timeout.InfiniteTimeSpan);
    }

    private void Report(MicroVmEffect.Report effect)
    {
        // Rises within an epoch, over restarts of the agent too: time carries it where the last number was lost.
        if (effect.State >= HostVmState.Ended)
            LeaveNetwork();
        var report = _context.NewReport(_record.Launch.VmId, _record.Launch.Epoch, effect.State, _record.Driver, _record.Report.Sequence);
        report.Reason = Shortened(effect.Reason);
        report.Exit = effect.Exit;
        report.NeverRan = effect.NeverRan;
        report.SuspendFailed = effect.SuspendFailed is { } refused ? new SuspendFailure { Attempt = refused.Attempt, Reason = Shortened(refused.Reason) } : null;
        report.Snapshot = effect.State == HostVmState.Suspended ? Digest() : null;
        report.Log = effect.State is HostVmState.Ended or HostVmState.Failed ? _extent : null;
        report.LimitsRevision = _limitsInForce;
        report.Addresses = effect.State == HostVmState.Running ? _context.Networks.Find(_record.Launch.VmId)?.ToAddresses() : null;
        report.VmmPid = effect.State == HostVmState.Running ? _vmm?.Pid ?? 0 : 0;
        _record.Report = report;
        if (effect.State != HostVmState.Removed)
            Write(durable: effect.State is HostVmState.Launching or HostVmState.Suspended);
        // Nobody will go on from what it was saved in.
        if (effect is { State: HostVmState.Ended } or { State: HostVmState.Failed, NeverRan: false })
            ForgetSnapshots();
        _log.Write(
            effect.State is HostVmState.Running or HostVmState.Failed ? LogEventLevel.Information : LogEventLevel.Debug,
            "{VmId} under epoch {Epoch} is {State}{Reason:l}", report.VmId, report.Epoch, effect.State, effect.Reason is { } why ? $": {why.Code}: {why.Message}" : "");
        Context.Parent.Tell(new HostAgentActor.Reported(report.Clone()));
    }

    private void ForgetSnapshots()
    {
        try
        {
            SnapshotFiles.DeleteOthers(_context.State.FolderOf(_record.Launch.VmId));
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
        {
            _log.Warning(failed, "What {VmId} was saved in could not be deleted; it goes with its folder", _record.Launch.VmId);
        }
    }

    // Of one that another host is to fetch.
    private SnapshotDigest? Digest()
    {
        try
        {
            return SnapshotFiles.Find(_context.State.FolderOf(_record.Launch.VmId), _record.Launch.Epoch) is { ForHost.Length: > 0 } saved
                ? new SnapshotDigest { StateBytes = saved.StateBytes, MemoryBytes = saved.MemoryBytes, StateSha256 = saved.StateSha256, MemorySha256 = saved.MemorySha256 }
                : null;
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
        {
            _log.Error(failed, "What {VmId} was saved in can't be looked at", _record.Launch.VmId);
            return null;
        }
    }

    private static Reason? Shortened(Reason? reason) => reason is null ? null : new Reason { Code = reason.Code, Message = ReasonText.Shorten(reason.Message) };

    private void Write(bool durable)
    {
        try
        {
            _context.State.Write(_record, durable);
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
        {
            // The report still goes out; a restarted agent would find the older one and look at the VMM itself.
            _log.Error(failed, "The record of {VmId} could not be written; look at the state directory's disk", _record.Launch.VmId);
            // But nothing may run that a restarted agent could not find.
            if (durable)
                _unwritten = $"The launch could not be written down on this host: {failed.Message}";
        }
    }

    /// <summary>A VMM between the task that got it and the actor that owns it: whoever comes second finds it, so that none is lost.</summary>
    private sealed class VmmSlot
    {
        private readonly Lock _gate = new();
        private IVmm? _held;
        private bool _closed;

        /// <summary>False when the owner is gone.</summary>
        public bool TryPut(IVmm vmm)
        {
            lock (_gate)
            {
                if (_closed)
                    return false;
                _held = vmm;
                return true;
            }
        }

        public IVmm? Close()
        {
            lock (_gate)
            {
                _closed = true;
                (var held, _held) = (_held, null);
                return held;
            }
        }
    }
}
