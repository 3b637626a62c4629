using Akka.Actor;
using Akka.Cluster.Sharding;
using Akka.Cluster.Tools.PublishSubscribe;
using Akka.Event;
using Akka.Persistence;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Google.Protobuf;
using Google.Protobuf.WellKnownTypes;

namespace Fleet.Scheduler.Hosts;

/// <summary>
/// One host. It alone promises the host's capacity, so that nothing is promised twice however many nodes place at once; it
/// carries orders to the agent's session and reports back to the microVMs. What it stores is who holds room here; what the agent
/// has is learned anew from every Hello.
/// </summary>
internal sealed partial class HostActor : UntypedPersistentActor, IWithTimers
{
    private static readonly TimeSpan LeavePause = TimeSpan.FromSeconds(1);

    private readonly string _id;
    private readonly CellOptions _options;
    private readonly LateRegion _vms;
    private readonly LateRegion _volumes;
    private readonly CapacityCaps _caps;
    private readonly CapacityLedger _ledger = new();
    private readonly HostPresence _presence = new();
    private readonly HostLease _lease;
    private readonly IActorRef _mediator = DistributedPubSub.Get(Context.System).Mediator;
    private readonly ILoggingAdapter _log = Context.GetLogger();

    private HostRecord? _record;
    private IActorRef? _session;

    // What the nodes' placement knows of its images, and the inventory without them.
    private Inventory? _imagesTold;
    private Inventory? _bare;
    private int _eventsSinceSnapshot;

    /// <param name="id">The host's id: the entity id of the shard.</param>
    /// <param name="options">Of the node.</param>
    /// <param name="vms">Takes every <see cref="IToVm"/>.</param>
    /// <param name="volumes">Takes every <see cref="IToVolumes"/>.</param>
    /// <param name="pulse">Of this process.</param>
    public HostActor(string id, CellOptions options, LateRegion vms, LateRegion volumes, Pulse pulse)
    {
        _id = id;
        _options = options;
        _vms = vms;
        _volumes = volumes;
        _caps = options.Caps;
        _lease = new HostLease(options.Lease, options.Clock, pulse);
        _launches = new LaunchHealth(options.Quarantine);
    }

    public override string PersistenceId => PersistenceIds.Host(_id);

    public ITimerScheduler Timers { get; set; } = null!;

    private bool Exists => _record is { State: not HostState.Removed };

    private bool Connected => _session is not null && _record is { State: HostState.Connected };

    private TimeSpan Monotonic => _options.Clock.GetElapsedTime(0);

    private Timestamp At => Timestamp.FromDateTimeOffset(_options.Clock.GetUtcNow());

    private sealed class Audit : INoSerializationVerificationNeeded
    {
        public static readonly Audit Instance = new();
    }

    private sealed class Reconciling : INoSerializationVerificationNeeded
    {
        public static readonly Reconciling Instance = new();
    }

    private sealed class Announce : INoSerializationVerificationNeeded
    {
        public static readonly Announce Instance = new();
    }

    private sealed class LeaveIfIdle : INoSerializationVerificationNeeded
    {
        public static readonly LeaveIfIdle Instance = new();
    }

    private sealed class Left : INoSerializationVerificationNeeded
    {
        public static readonly Left Instance = new();
    }

    protected override void OnRecover(object message)
    {
        switch (message)
        {
            case SnapshotOffer { Snapshot: HostSnapshot snapshot }:
                _record = snapshot.Record;
                _ledger.Have(_record.Inventory?.Volumes ?? []);
                foreach (var entry in snapshot.Entries)
                    _ledger.Add(new Reservation(entry.VmId, entry.Epoch, entry.Cpus, entry.MemoryMib, entry.Vacated, entry.Lost)
                    {
                        Groups = [.. entry.Groups],
                        Needs = Resources.Of(entry.Cpus, entry.MemoryMib, entry.Other),
                        Volumes = CapacityLedger.VolumesOf(entry.Volumes, entry.VolumeMib),
                        Rank = PriorityClass.Rank(entry.Priority),
                        Settled = entry.Settled,
                        Round = entry.Round,
                        Suspended = entry.Suspended,
                        Leaving = entry.Leaving,
                        GivesWayTo = entry.ForVmId.Length == 0 ? null : (entry.ForVmId, entry.ForEpoch),
                    });
                break;
            case IMessage stored:
                Take(stored);
                break;
            case RecoveryCompleted:
                OnRecovered();
                break;
        }
    }

    private void OnRecovered()
    {
        if (_record is null)
            return; // The first message decides whether there is such a host.
        if (!Exists)
        {
            LeaveSoon();
            return;
        }
        // The stream ended with the actor before: there is none until the agent dials again.
        if (_record.State == HostState.Connected)
            Store([new HostDisconnected { At = At, Detail = "The control plane restarted." }], PublishView);
        else
            PublishView();
        StartTimers();
        _lease.GrantedBefore(TimeSpan.FromMilliseconds(_record.LeaseMs), TimeSpan.FromMilliseconds(_record.SilentMs));
        AwaitLease();
        AwaitTrial();
        StartDrain();
        TellPreempted();
        HandBack();
    }

    private void StartTimers()
    {
        if (!Timers.IsTimerActive(Audit.Instance))
        {
            Timers.StartPeriodicTimer(Audit.Instance, Audit.Instance, _options.ReservationAudit);
            Timers.StartPeriodicTimer(Announce.Instance, Announce.Instance, _options.HostAnnounce);
        }
    }

    protected override void OnCommand(object message)
    {
        switch (message)
        {
            case SessionOpened opened when opened.Enrolment != (_record?.Enrolment ?? 0):
                OnForeignSession(opened);
                break;
            case SessionOpened opened:
                OnSessionOpened(opened.Hello);
                break;
            case SessionAlive alive:
                OnSessionAlive(alive);
                break;
            case LeaseOver:
                OnLeaseOver();
                break;
            case HandBackAgain:
                HandBack();
                break;
            case SessionClosed closed when Sender.Equals(_session):
                OnSessionLost(closed.Detail);
                break;
            case Terminated terminated when terminated.ActorRef.Equals(_session):
                OnSessionLost("The stream ended without a word.");
                break;
            case SessionReport report when Sender.Equals(_session):
                OnSessionReport(report.Report);
                break;
            case SessionUsage usage when Sender.Equals(_session):
                OnUsage(usage.Sample);
                break;
            case SessionPressure told when Sender.Equals(_session):
                OnPressure(told.Pressure);
                break;
            case SessionImages held when Sender.Equals(_session):
                OnImages(held.Images.Names);
                break;
            case SessionVolumes held when Sender.Equals(_session):
                OnVolumes(held.Volumes);
                break;
            case EvictTick:
                OnEvictTick();
                break;
            case HostReportAnswer answer:
                OnReportAnswer(answer);
                break;
            case ReserveRoom reserve:
                OnReserve(reserve);
                break;
            case AnswerReserves:
                OnAnswerReserves();
                break;
            case CommandHost command:
                OnCommandHost(command);
                break;
            case PlacementVerdict verdict:
                OnVerdict(verdict);
                break;
            case LaunchVerdict verdict:
                OnLaunchVerdict(verdict);
                break;
            case TrialDue:
                OnTrialDue();
                break;
            case ReadHost:
                Reply(Sender, Exists ? null : NotFound());
                break;
            case ReadLedger read:
                OnReadLedger(read.Most);
                break;
            case EnrolHost enrol:
                OnEnrol(enrol);
                break;
            case CordonHost cordon:
                OnCordon(cordon.Cordoned);
                break;
            case DrainHost drain:
                OnDrain(drain);
                break;
            case MoveAnswer answer:
                OnMoveAnswer(answer);
                break;
            case DrainTick:
                OnDrainTick();
                break;
            case PreemptTick:
                TellPreempted();
                break;
            case RemoveHost remove:
                OnRemove(remove.Forced);
                break;
            case OrderVolume order:
                OnOrderVolume(order);
                break;
            case SessionVolumeDone done when Sender.Equals(_session):
                OnVolumeDone(done.Done);
                break;
            case ConsoleRequest or ConsoleWrite or ReadLimiters or GuestOpen:
                OnForSession(message);
                break;
            case Audit:
                OnAudit();
                break;
            case Reconciling:
                ReconcileSome();
                break;
            case Announce:
                _imagesTold = null;
                PublishView();
                break;
            case LeaveIfIdle:
                OnLeaveIfIdle();
                break;
            case Left:
                OnLeft();
                break;
            case HandOff:
                OnHandOff();
                break;
            case SaveSnapshotSuccess saved:
                // Only the newest is ever read.
                DeleteSnapshots(new SnapshotSelectionCriteria(saved.Metadata.SequenceNr - 1));
                break;
            case SaveSnapshotFailure failed:
                _log.Warning(failed.Cause, "Host {HostId} could not store its snapshot; the next one will be tried in {Events} events", _id, _options.HostSnapshotEvery);
                break;
            case SessionClosed or Terminated or SessionReport or SessionUsage or SessionPressure or SessionImages or SessionVolumes or SessionVolumeDone or DeleteSnapshotsSuccess or DeleteSnapshotsFailure:
                break; // of a session that was replaced; or housekeeping that comes again
            default:
                Unhandled(message);
                break;
        }
    }

    // --- the API ---

    private void OnCordon(bool cordoned)
    {
        var caller = Sender;
        if (!Exists)
        {
            Reply(caller, NotFound());
            return;
        }
        List<IMessage> events = !cordoned ? Uncordoned() : _record!.Cordoned ? [] : [new HostCordoned { At = At }];
        Store(events, () =>
        {
            if (!cordoned)
                _launches.Forget();
            if (events.Count > 0)
                PublishView();
            Reply(caller, null);
        });
    }

    private void OnReadLedger(uint most)
    {
        var read = new LedgerRead
        {
            Host = _record,
            Total = (uint)_ledger.Reservations.Count,
            LeaseMs = (ulong)_options.Lease.Lifetime.TotalMilliseconds,
            MarginMs = (ulong)_options.Lease.Margin.TotalMilliseconds,
            LeaseAgeMs = (ulong)_lease.Age.TotalMilliseconds,
            LeaseGranted = _lease.IsGranted,
            Problem = Exists ? null : new Problem { Code = "not_found", Message = NotFound().Message },
        };
        if (most > 0)
            read.Entries.AddRange(_ledger.Reservations.OrderBy(held => held.VmId, StringComparer.Ordinal).ThenBy(held => held.Epoch).Take((int)Math.Min(most, int.MaxValue)).Select(ToEntry));
        Sender.Tell(read);
        if (!Exists)
            LeaveSoon();
    }

    private void Reply(IActorRef caller, CellProblem? problem)
    {
        caller.Tell(new HostReply
        {
            Host = Described(),
            Problem = problem is null ? null : new Problem { Code = problem.Code, Message = problem.Message },
        });
        if (!Exists)
            LeaveSoon();
    }

    private CellProblem NotFound() => new("not_found", $"There is no host '{_id}'.");

    // --- what is stored ---

    private void Take(IMessage stored)
    {
        _record = HostFold.Apply(_record, stored);
        _ledger.Apply(stored);
    }

    /// <summary>Stores the events, then runs <paramref name="then"/>.</summary>
    private void Store(List<IMessage> events, Action then)
    {
        if (events.Count == 0)
        {
            then();
            return;
        }
        var left = events.Count;
        PersistAll(events, stored =>
        {
            Take(stored);
            _eventsSinceSnapshot++;
            if (--left > 0)
                return;
            then();
            SnapshotIfDue();
        });
    }

    private void SnapshotIfDue()
    {
        if (_eventsSinceSnapshot < _options.HostSnapshotEvery)
            return;
        _eventsSinceSnapshot = 0;
        var snapshot = new HostSnapshot { Record = _record!.Clone() };
        snapshot.Entries.AddRange(_ledger.Reservations.Select(ToEntry));
        SaveSnapshot(snapshot);
    }

    private static LedgerEntry ToEntry(Reservation held) => new()
    {
        VmId = held.VmId,
        Epoch = held.Epoch,
        Cpus = held.Cpus,
        MemoryMib = held.MemoryMib,
        Other = held.Needs.Other,
        Vacated = held.Vacated,
        Lost = held.Lost,
        Groups = { held.Groups },
        Volumes = { held.Volumes.Select(volume => volume.Key) },
        VolumeMib = { held.Volumes.Select(volume => (ulong)volume.SizeMib) },
        Priority = PriorityClass.Name(held.Rank),
        Settled = held.Settled,
        Round = held.Round,
        Suspended = held.Suspended,
        Leaving = held.Leaving,
        ForVmId = held.GivesWayTo?.VmId ?? "",
        ForEpoch = held.GivesWayTo?.Epoch ?? 0,
    };

    private void PublishView()
    {
        if (_record is null)
            return;
        HostImages? images = null;
        if (_imagesTold is null || !ReferenceEquals(_imagesTold, _record.Inventory))
        {
            images = new HostImages { Names = { _record.Inventory?.Images ?? [] } };
            _bare = _record.Inventory?.Clone();
            _bare?.Images.Clear();
            _bare?.Volumes.Clear();
            _imagesTold = _record.Inventory;
        }
        var (cap, free) = (_caps.Other(_record.Inventory), _ledger.Free(_record.Inventory, _caps));
        var left = new OtherResources();
        if (cap.HasDiskMib)
            left.DiskMib = (ulong)free.DiskMib;
        if (cap.HasNetworkMbit)
            left.NetworkMbit = (ulong)free.NetworkMbit;
        if (cap.HasIops)
            left.Iops = (ulong)free.Iops;
        _mediator.Tell(new Publish(PlacementActor.HostViewTopic, new HostView
        {
            HostId = _id,
            Connected = Connected,
            Inventory = _bare,
            Images = images,
            ReservedCpus = _record.ReservedCpus,
            ReservedMemoryMib = _record.ReservedMemoryMib,
            Version = _record.Version,
            CpuRatio = _options.CpuRatio,
            MemoryRatio = _options.MemoryRatio,
            CapOther = cap,
            FreeOther = left,
            Cordoned = _record.Cordoned,
            Quarantined = IsQuarantined,
            Pressed = IsPressed,
            Removed = !Exists,
            PeakRoom = Forecast() is { } forecast
                ? new PeakRoom { Cpus = forecast.FreeCpus, MemoryMib = forecast.FreeMemoryMib, MostCpus = forecast.MostCpus, MostMemoryMib = forecast.MostMemoryMib }
                : null,
            Preemptible = { _ledger.Preemptible.Select(room => room.Clone()) },
            Groups = { _ledger.Groups.Select(group => new GroupCount { Group = group.Key, Members = (uint)group.Value }) },
        }));
    }

    /// <summary>A host that never was or is removed leaves no actor behind and is not remembered. Not at once: its agent may be dialling.</summary>
    private void LeaveSoon() => Timers.StartSingleTimer(LeaveIfIdle.Instance, LeaveIfIdle.Instance, LeavePause);

    private void OnLeaveIfIdle()
    {
        if (!Exists)
            Context.Parent.Tell(new Passivate(Left.Instance));
    }

    private void OnHandOff()
    {
        // Those who asked for room are answered first: their turn is in the mailbox.
        if (_asking.Count > 0)
            Self.Tell(HandOff.Instance);
        else
            HandSilence(() => Context.Stop(Self));
    }

    private void OnLeft()
    {
        // It joined after all, by a message that overtook: wake it again, or its shard would forget it.
        if (Exists)
            Context.Parent.Tell(new ReadHost { HostId = _id }, ActorRefs.NoSender);
        Context.Stop(Self);
    }
}
