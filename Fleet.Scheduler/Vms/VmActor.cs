using Akka.Actor;
using Akka.Cluster.Sharding;
using Akka.Event;
using Akka.Persistence;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;

namespace Fleet.Scheduler.Vms;

/// <summary>
/// One microVM. A thin shell: <see cref="VmLife"/> decides, this stores, then answers, then pursues the goal of the new state
/// and repeats itself until something answers. What it pursues follows from stored state alone, so a kill at any point is
/// made good by recovery.
/// </summary>
internal sealed partial class VmActor : UntypedPersistentActor, IWithTimers
{
    private const string GoalTimer = "goal";
    private const string SearchTimer = "search";
    private const string WakeTimer = "wake";
    private const string WaitTimer = "wait";

    /// <summary>An answer to what a search asks is late after this; of hosts see <see cref="PlacementSearch.Patience"/>.</summary>
    private static readonly TimeSpan SearchPatience = TimeSpan.FromSeconds(5);

    /// <summary>What never was or is deleted leaves no actor; not at once, since a host that it asked for room may yet say yes, and is to give that back without an audit.</summary>
    private static readonly TimeSpan LeavePause = SearchPatience;

    private static readonly TimeSpan WaitGranularity = TimeSpan.FromMilliseconds(100);

    private readonly string _id;
    private readonly CellOptions _options;
    private readonly IActorRef _placement;
    private readonly IActorRef _hosts;
    private readonly IActorRef _gangs;
    private readonly IActorRef _volumes;
    private readonly VmWaiters _waiters;
    private readonly ILoggingAdapter _log = Context.GetLogger();

    private VmLife _life = VmLife.None;
    private Goal _goal = new Goal.Rest();
    private PlacementSearch? _search;
    private long _searches;
    private bool _capacityChangedMeanwhile;
    private bool _launchHeard;
    private int _tries;
    private TimeSpan? _idlePause;

    /// <param name="id">The microVM's id: the entity id of the shard.</param>
    /// <param name="options">Of the node.</param>
    /// <param name="placement">The node's <see cref="PlacementActor"/>.</param>
    /// <param name="hosts">Takes every <see cref="IToHost"/>.</param>
    /// <param name="gangs">Takes every <see cref="IToGang"/>.</param>
    /// <param name="volumes">Takes every <see cref="IToVolumes"/>.</param>
    public VmActor(string id, CellOptions options, IActorRef placement, IActorRef hosts, IActorRef gangs, IActorRef volumes)
    {
        _id = id;
        _options = options;
        _placement = placement;
        _hosts = hosts;
        _gangs = gangs;
        _volumes = volumes;
        _waiters = new VmWaiters(options.WaitersPerVm);
    }

    public override string PersistenceId => PersistenceIds.Vm(_id);

    public ITimerScheduler Timers { get; set; } = null!;

    /// <summary>No snapshots: a microVM has a handful of events, and asking for one is most of what starting a new actor costs.</summary>
    public override Recovery Recovery => new(SnapshotSelectionCriteria.None);

    private DateTimeOffset Now => _options.Clock.GetUtcNow();

    private sealed class PursueAgain : INoSerializationVerificationNeeded
    {
        public static readonly PursueAgain Instance = new();
    }

    private sealed class SearchOverdue(long search) : INoSerializationVerificationNeeded
    {
        public long Search { get; } = search;
    }

    private sealed class Left : INoSerializationVerificationNeeded
    {
        public static readonly Left Instance = new();
    }

    private sealed class SettleWaiters : INoSerializationVerificationNeeded
    {
        public static readonly SettleWaiters Instance = new();
    }

    protected override void OnRecover(object message)
    {
        switch (message)
        {
            case IMessage stored:
                _life = _life.Apply(stored);
                break;
            case RecoveryCompleted:
                Pursue();
                LeaveWhenIdle();
                break;
        }
    }

    protected override void OnCommand(object message)
    {
        switch (message)
        {
            case CreateVm create:
                Carry(_life.Create(create.VmId, create.Spec ?? new VmSpec(), create.NotAfterMs, Now), Sender);
                break;
            case ReadVm:
                Reply(Sender, Exists ? null : NotFound());
                break;
            case RequestStop stop:
                Carry(_life.Stop(stop.GraceOfSpec && _life.Record is { } its ? (uint)VmLimits.GraceSecondsOf(its.Spec) * 1000 : stop.GraceMs, Now), Sender);
                break;
            case RequestStart:
                OnStart();
                break;
            case RequestSuspend:
                Carry(_life.Suspend(Now), Sender);
                break;
            case RequestResume:
                Carry(_life.Resume(Now), Sender);
                break;
            case RequestDelete:
                Carry(_life.Delete(Now), Sender);
                break;
            case LimitVm limit:
                Carry(_life.Limit(limit.Name, limit.Limit, Now), Sender);
                break;
            case AwaitVm wait:
                OnAwait(wait);
                break;
            case HostsFound found when _search is not null && found.Search == _searches:
                _search.Take(found.Advice);
                AskNextHost();
                break;
            case NeighboursRead read:
                OnNeighbours(read);
                break;
            case VolumesFound found:
                OnVolumesFound(found);
                break;
            case VolumesGiven given:
                OnVolumesGiven(given);
                break;
            case RoomAnswer answer:
                OnRoom(answer);
                break;
            case HostCommandAnswer answer:
                OnCommandAnswer(answer);
                break;
            case HostReport report:
                OnReport(report);
                break;
            case CheckPlacement or PlacementLost or MoveVm when _goal is Goal.AwaitGang:
                AskGang(message);
                break;
            case TakePlace take:
                OnTakePlace(take);
                break;
            case GangWaits waits:
                // A late word is no reason to fail for one that was started by itself meanwhile.
                Store(_life.Unplaced(waits.Reason, isLasting: false, Now, isUndecided: !waits.Short || !VmLife.AwaitsGang(_life.Record!)), static () => { });
                break;
            case CheckPlacement check:
                OnCheck(check);
                break;
            case PlacementLost lost:
                Store(_life.Lost(lost.HostId, lost.Epoch, Now), () => TellVerdict(lost.HostId, lost.Epoch, keep: false));
                break;
            case MoveVm move:
                OnMove(move);
                break;
            case CapacityChanged when _search is not null:
                _capacityChangedMeanwhile = true;
                break;
            case CapacityChanged when _goal is Goal.FindPlace:
                // Not anew when it is set: where capacity changes all the time it would never fire.
                if (!Timers.IsTimerActive(WakeTimer))
                    Timers.StartSingleTimer(WakeTimer, PursueAgain.Instance, PlacementSearch.WakePause(_fruitless, Random.Shared.NextDouble()));
                break;
            case SearchOverdue overdue when _search is not null && overdue.Search == _searches:
                OnSearchOverdue();
                break;
            case PursueAgain:
                Act();
                break;
            case ReceiveTimeout:
                OnIdle();
                break;
            case Left:
                OnLeft();
                break;
            case HandOff:
                OnHandOff();
                break;
            case SettleWaiters:
                if (_life.Record is { } record)
                    Settle(record);
                break;
            case HostsFound or SearchOverdue or CapacityChanged:
                break; // of a search that is over
            default:
                Unhandled(message);
                break;
        }
    }

    private bool Exists => _life.Record is { State: not VmState.Deleted };

    private void OnStart()
    {
        var caller = Sender;
        var decision = _life.Start(Now);
        RunAgain(decision, () => Reply(caller, decision.Problem));
    }

    private void RunAgain(Decision decision, Action then)
    {
        var before = _life.Record;
        Store(decision, () =>
        {
            then();
            // The next run may be elsewhere. If this word is lost, the old host asks by itself (CheckPlacement).
            if (!decision.Events.IsEmpty && before is { Host.Length: > 0 })
                TellVerdict(before.Host, before.Epoch, keep: false);
        });
    }

    private void OnAwait(AwaitVm wait)
    {
        if (_life.Record is not { } record)
        {
            Reply(Sender, NotFound());
            return;
        }
        if (!_waiters.TryAdd(Sender, wait.States, Now + TimeSpan.FromMilliseconds(wait.TimeoutMs)))
        {
            Reply(Sender, new CellProblem("unavailable", $"{_options.WaitersPerVm} callers wait for this microVM already; try again."));
            return;
        }
        Settle(record);
    }

    private void OnRoom(RoomAnswer answer)
    {
        var expected = _search is { } search && search.Asking == answer.HostId && search.Epoch == answer.Epoch;
        if (answer.Rejection is { } rejection)
        {
            if (!expected)
                return;
            _search!.Refused(rejection);
            AskNextHost();
            return;
        }
        if (!expected)
        {
            // A late yes: good only if it is the placement that we have.
            _ = _life.Check(answer.HostId, answer.Epoch, present: true, Now, out var keep);
            if (!keep)
                TellVerdict(answer.HostId, answer.Epoch, keep: false);
            return;
        }
        var move = _move;
        Tried(answer.HostId, answer.Version);
        if (HasVolumes)
        {
            TakeVolumes(answer);
            return;
        }
        EndSearch(reserved: true);
        bool wanted;
        var decision = move is null
            ? _life.Placed(answer.HostId, answer.Epoch, Now, out wanted)
            : _life.Move(move.HostId, move.Epoch, answer.HostId, answer.Epoch, move.GraceMs, Now, out wanted, pressed: move.Pressed,
                // A guest goes on with the same processor only.
                address: answer.Processor == move.Processor ? move.Address : "",
                hindrance: move.Address.Length == 0 ? move.Hindrance : $"Host {answer.HostId} has another processor.",
                enrolment: move.Enrolment, toEnrolment: answer.Enrolment);
        Store(decision, () =>
        {
            if (!wanted)
                TellVerdict(answer.HostId, answer.Epoch, keep: false);
            else if (move is not null)
                AnswerMove(move, null);
        });
    }

    private void OnCommandAnswer(HostCommandAnswer answer)
    {
        if (_life.Record is not { } record || record.Host != answer.HostId || record.Epoch != answer.Epoch)
            return;
        var decision = answer.Outcome switch
        {
            HostCommandOutcome.Gone => _life.Gone(answer.HostId, answer.Epoch, Now),
            HostCommandOutcome.NotConnected => _life.Reach(connected: false, Now),
            HostCommandOutcome.Accepted => _life.Reach(connected: true, Now),
            _ => Decision.Nothing,
        };
        Store(decision, static () => { });
    }

    private void OnReport(HostReport message)
    {
        var report = message.Report;
        var host = Sender;
        var decision = _life.Report(message.HostId, report, Now, out var stale);
        if (!stale && report.Epoch == _life.Record!.Epoch)
            _launchHeard = true;
        var hostIsBack = !stale && _life.Record!.Reason?.Code == VmLife.HostDisconnectedCode;
        string[] failedOn = _life.Record is { } before ? [.. before.FailedHosts] : [];
        var failed = LaunchFaults.IsHosts(report) && decision.Events.Any(stored => stored is VmLaunchFailed or VmFailed);
        var runs = decision.Events.Any(stored => stored is VmRunning);
        Store(decision, () =>
        {
            // One host's failure may be the host's; several show that it is not, until another host shows that it was.
            if (failed && failedOn.Length > 0)
                TellFault([.. failedOn, message.HostId], hostsFault: false);
            else if (runs && failedOn.Length > 1)
                TellFault(failedOn, hostsFault: true);
            host.Tell(new HostReportAnswer
            {
                HostId = message.HostId,
                VmId = _id,
                Epoch = report.Epoch,
                Sequence = report.Sequence,
                Stale = stale,
            });
            // One that failed may have run while no agent was there to tell.
            if (!stale && HasVolumes && report is { State: HostVmState.Running or HostVmState.Ended } or { State: HostVmState.Failed, NeverRan: false })
                TellUsed(message.HostId);
            // What its launch left there goes: the next one is elsewhere.
            if (decision.Events.Any(stored => stored is VmLaunchFailed or VmLost { Reason.Code: VmLife.SnapshotLostCode }))
                TellVerdict(message.HostId, report.Epoch, keep: false);
            if (hostIsBack)
                ActAnew();
        });
    }

    private void TellFault(string[] hosts, bool hostsFault)
    {
        foreach (var host in hosts)
            _hosts.Tell(new LaunchVerdict { HostId = host, VmId = _id, HostsFault = hostsFault });
    }

    private void OnCheck(CheckPlacement check)
    {
        // Reserved, and the answer is on its way to us: nothing to say yet, the host asks again.
        if (_search is { } search && search.Asking == check.HostId && search.Epoch == check.Epoch)
            return;
        var decision = _life.Check(check.HostId, check.Epoch, check.Present, Now, out var keep);
        Store(decision, () =>
        {
            TellVerdict(check.HostId, check.Epoch, keep);
            if (keep)
            {
                _launchHeard &= check.Present;
                ActAnew();
            }
        });
    }

    // --- store, answer, pursue ---

    private void Carry(Decision decision, IActorRef caller) =>
        Store(decision, () => Reply(caller, decision.Problem));

    /// <summary>Stores the events, then runs <paramref name="then"/> (the answer), then pursues the goal of the new state.</summary>
    private void Store(Decision decision, Action then)
    {
        if (decision.Events.IsEmpty)
        {
            then();
            return;
        }
        var left = decision.Events.Length;
        var before = _life;
        PersistAll(decision.Events, stored =>
        {
            _life = _life.Apply(stored);
            if (--left > 0)
                return;
            then();
            EndMove(before);
            EndSaved(before);
            Settle(_life.Record!);
            Pursue();
            LeaveWhenIdle();
        });
    }

    private void Reply(IActorRef caller, CellProblem? problem)
    {
        caller.Tell(new VmReply
        {
            Vm = _life.Record,
            Problem = problem is null ? null : new Problem { Code = problem.Code, Message = problem.Message },
        });
    }

    private void Settle(VmRecord record)
    {
        _waiters.Settle(record, Now);
        if (_waiters.IsEmpty)
            Timers.Cancel(WaitTimer);
        else if (!Timers.IsTimerActive(WaitTimer))
            Timers.StartPeriodicTimer(WaitTimer, SettleWaiters.Instance, WaitGranularity);
    }

    /// <summary>Takes up the goal of the present state, if it is another one than before.</summary>
    private void Pursue()
    {
        var goal = _life.Goal;
        if (goal == _goal)
            return;
        var searched = _goal is Goal.FindPlace;
        _goal = goal;
        _tries = 0;
        _fruitless = 0;
        _launchHeard = false;
        Timers.Cancel(GoalTimer);
        Timers.Cancel(WakeTimer);
        EndSearch();
        if (goal is Goal.FindPlace && !searched)
            Context.System.EventStream.Subscribe(Self, typeof(CapacityChanged));
        else if (goal is not Goal.FindPlace && searched)
            Context.System.EventStream.Unsubscribe(Self, typeof(CapacityChanged));
        Act();
    }

    /// <summary>Does what the goal wants, once, and sets the clock for the next time.</summary>
    private void Act()
    {
        switch (_goal)
        {
            case Goal.FindPlace place:
                Search(place.Epoch);
                break;
            case Goal.AwaitGang:
                JoinGang();
                break;
            case Goal.Restart restart when RestartRules.Wait(restart.At, Now) is var left && left > TimeSpan.Zero:
                Timers.StartSingleTimer(GoalTimer, PursueAgain.Instance, left);
                break;
            case Goal.Restart:
                RunAgain(_life.Restart(Now), static () => { });
                break;
            case Goal.Launch launch when !_launchHeard:
                Command(new CommandHost
                {
                    HostId = launch.Host,
                    VmId = _id,
                    Epoch = launch.Epoch,
                    Launch = new LaunchVm
                    {
                        VmId = _id,
                        Epoch = launch.Epoch,
                        Spec = _life.Wanted,
                        Volumes = { _life.Record!.Volumes },
                        LimitsRevision = _life.Record.LimitsRevision,
                        SnapshotEpoch = _life.Record.Saved?.Epoch ?? 0,
                        Ticket = _life.Record.Saved is { Address.Length: > 0 } saved ? new SnapshotTicket { Host = saved.Host, Address = saved.Address, Digest = saved.Digest, Enrolment = saved.Enrolment } : null,
                    },
                });
                break;
            case Goal.Stop stop:
                Command(new CommandHost
                {
                    HostId = stop.Host,
                    VmId = _id,
                    Epoch = stop.Epoch,
                    Stop = new StopVm { VmId = _id, Epoch = stop.Epoch, GraceMs = stop.GraceMs },
                });
                break;
            case Goal.Suspend suspend:
                Command(new CommandHost
                {
                    HostId = suspend.Host,
                    VmId = _id,
                    Epoch = suspend.Epoch,
                    Suspend = new SuspendVm { VmId = _id, Epoch = suspend.Epoch, Attempt = suspend.Attempt, ForHost = suspend.ForHost, ForEnrolment = suspend.ForEnrolment },
                });
                break;
            case Goal.Retune retune:
                Command(new CommandHost
                {
                    HostId = retune.Host,
                    VmId = _id,
                    Epoch = retune.Epoch,
                    Limits = new SetLimits { VmId = _id, Epoch = retune.Epoch, Revision = retune.Revision, RateLimits = { _life.Record!.Spec.RateLimits } },
                });
                break;
            case Goal.Remove remove:
                Command(new CommandHost
                {
                    HostId = remove.Host,
                    VmId = _id,
                    Epoch = remove.Epoch,
                    Remove = new RemoveVm { VmId = _id, Epoch = remove.Epoch },
                });
                break;
        }
    }

    /// <summary>The host is there again: what we want of it goes out now and not at the next repetition.</summary>
    private void ActAnew()
    {
        if (!_goal.IsOrder)
            return;
        _tries = 0;
        Act();
    }

    private void Command(CommandHost command)
    {
        _hosts.Tell(command);
        PursueLater();
    }

    private void PursueLater()
    {
        var pause = DoublingPause.After(_options.CommandRetryFirst, _tries++, _options.CommandRetryMost);
        Timers.StartSingleTimer(GoalTimer, PursueAgain.Instance, pause * (0.75 + 0.5 * Random.Shared.NextDouble()));
    }

    private void TellVerdict(string host, ulong epoch, bool keep) =>
        _hosts.Tell(new PlacementVerdict { HostId = host, VmId = _id, Epoch = epoch, Keep = keep });

    private CellProblem NotFound() => new("not_found", $"There is no microVM '{_id}'.");

    /// <summary>
    /// A microVM that pursues nothing leaves its shard after a while and is not remembered: any message wakes it again. What is remembered,
    /// and woken by a start of the cell, is so only what has something to do, however many microVMs run or have ended.
    /// </summary>
    private void LeaveWhenIdle()
    {
        TimeSpan? pause = !Exists ? LeavePause : _goal is Goal.Rest ? _options.RestAfter : null;
        if (pause == _idlePause)
            return;
        _idlePause = pause;
        Context.SetReceiveTimeout(pause);
    }

    private bool MayLeave => !Exists || (_goal is Goal.Rest && _waiters.IsEmpty);

    private void OnIdle()
    {
        if (MayLeave)
            Context.Parent.Tell(new Passivate(Left.Instance));
    }

    private void OnHandOff()
    {
        if (_life.Record is { } record)
            _waiters.GiveUp(record);
        Context.Stop(Self);
    }

    private void OnLeft()
    {
        // Something came to do after all, by a message that overtook: the shard would forget us, unless a message waits for us there.
        if (!MayLeave)
            Context.Parent.Tell(new ReadVm { VmId = _id }, ActorRefs.NoSender);
        Context.Stop(Self);
    }
}
