using Akka.Actor;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Google.Protobuf;

namespace Fleet.Scheduler.Hosts;

/// <summary>The side towards the agent: its session, orders to it, reports from it.</summary>
internal sealed partial class HostActor
{
    /// <summary>
    /// Audits between two looks at what ended microVMs left here, an hour. Their microVM says when it starts elsewhere; this is for the
    /// word that got lost. Each look wakes them all, so it must be rare beside <see cref="CellOptions.RestAfter"/>.
    /// </summary>
    private const int RemainsAuditEvery = 360;

    /// <summary>With the pause, 640 microVMs per second and host: what one journal recovers without keeping others waiting.</summary>
    private const int ReconcileAtOnce = 64;

    private static readonly TimeSpan ReconcilePause = TimeSpan.FromMilliseconds(100);

    private readonly Queue<Action> _reconciling = new();
    private readonly HashSet<(string VmId, ulong Epoch)> _releasing = [];
    private readonly Dictionary<string, CommandHost> _launchesBehindRemains = new(StringComparer.Ordinal);
    private int _audits;

    /// <summary>Not stored: what is only a wish of placement the next Hello tells again.</summary>
    private void OnImages(IReadOnlyList<string> names)
    {
        if (!Connected || _record?.Inventory is not { } inventory || inventory.Images.SequenceEqual(names))
            return;
        _record = _record.Clone();
        _record.Inventory.Images.Clear();
        _record.Inventory.Images.AddRange(names);
        _imagesTold = null;
        PublishView();
    }

    private void OnSessionOpened(Hello hello)
    {
        var session = Sender;
        if (session.Equals(_session))
        {
            // Our first answer was lost on the way.
            Reconcile(hello);
            return;
        }
        if (FormerMayRun(hello))
        {
            _log.Warning("Host {HostId}: an agent with another state directory, or on a machine that was started anew, was put off; what ran here may run for {Seconds:0} s more", _id, Math.Max(0, _lease.UntilGivenUp.TotalSeconds));
            session.Tell(Ended("host_not_over",
                $"Host '{_id}' spoke with another state directory, or before a restart of its machine, and what it runs ends with its lease, in {Math.Max(1, Math.Ceiling(_lease.UntilGivenUp.TotalSeconds)):0} s or less. This agent is welcome then. If that host is another machine which still runs, give one of the two another --id."));
            return;
        }
        var connected = new HostConnected
        {
            At = At,
            Id = _id,
            Inventory = hello.Inventory,
            AgentVersion = hello.AgentVersion,
            BootId = hello.BootId,
            StateId = hello.StateId,
            Fenced = hello.Fenced,
            LeaseMs = (ulong)_lease.Outstanding.TotalMilliseconds,
            Pressure = HostPressure.IsCalm(hello.Pressure) ? null : hello.Pressure,
        };
        Store([connected], () =>
        {
            // The newest stream wins: an agent that restarted must not wait for the time-out of the one before. Two agents that
            // use one name push each other out, which both logs show.
            if (_session is { } older && !older.Equals(session))
            {
                _log.Warning("Host {HostId}: a newer stream of agent {AgentInstance} replaces the one before", _id, hello.AgentInstance);
                Context.Unwatch(older);
                older.Tell(Ended("replaced", "A newer stream of this host was opened. If this agent did not restart, another agent uses the same host id."));
            }
            _session = session;
            _usage.Opened();
            Context.Watch(session);
            RefuseRemovals();
            // What was removed while it was away is told to it. A host that was never forgotten costs one look.
            _volumes.Tell(new HostCame { HostId = _id }, Self);
            Reconcile(hello);
            PublishView();
            StartTimers();
            EvictWhereAsked();
            AwaitLease();
        });
    }

    /// <summary>
    /// Whether microVMs may still run here of which this agent can know nothing: its state directory or the machine's boot is another than of the one that
    /// was welcomed last. What it does not name would count as ended, and run twice; so the former lease is waited out, and what it carried given up.
    /// </summary>
    private bool FormerMayRun(Hello hello) =>
        IsFenced && _record is { State: HostState.Connected or HostState.Disconnected } && (IsAnother(_record.StateId, hello.StateId) || IsAnother(_record.BootId, hello.BootId))
        && _ledger.Reservations.Any(held => held is { Vacated: false, Lost: false });

    // Agents of before told none.
    private static bool IsAnother(string former, string now) => former.Length > 0 && now.Length > 0 && former != now;

    /// <summary>Compares what the agent has with what was promised here; both sides end up with the same.</summary>
    private void Reconcile(Hello hello)
    {
        _presence.Hello(hello.Vms.Where(report => report.State != HostVmState.Removed).Select(report => (report.VmId, report.Epoch)));
        var welcome = new Welcome { HeartbeatMs = (uint)_options.Heartbeat.TotalMilliseconds };
        welcome.Unknown.AddRange(hello.Vms
            .Where(report => report.State != HostVmState.Removed && _ledger.Find(report.VmId, report.Epoch) is null or { Lost: true })
            .Select(report => new VmEpoch { VmId = report.VmId, Epoch = report.Epoch }));
        welcome.Lease = Grant(0);
        _session!.Tell(new SessionAccepted { Welcome = welcome });
        _log.Info(
            "Host {HostId} is connected: agent {AgentVersion}, {Known} microVMs of which {Unknown} are not placed on it",
            _id, hello.AgentVersion, hello.Vms.Count, welcome.Unknown.Count);

        _reconciling.Clear();
        var told = hello.Vms.Select(report => (report.VmId, report.Epoch)).ToHashSet();
        foreach (var report in hello.Vms)
            _reconciling.Enqueue(() => OnSessionReport(report));
        foreach (var held in _ledger.Reservations.Where(held => !told.Contains((held.VmId, held.Epoch))))
            _reconciling.Enqueue(() => AskWhetherMeant(held));
        ReconcileSome();
    }

    /// <summary>
    /// A host with thousands of microVMs would wake all their actors at once, and after a start of the cell every host does. So a few
    /// go at a time, and the rest follows by the clock.
    /// </summary>
    private void ReconcileSome()
    {
        for (var i = 0; i < ReconcileAtOnce && _reconciling.TryDequeue(out var next); i++)
            next();
        if (_reconciling.Count > 0)
            Timers.StartSingleTimer(Reconciling.Instance, Reconciling.Instance, ReconcilePause);
    }

    private void OnSessionAlive(SessionAlive alive)
    {
        if (Sender.Equals(_session))
        {
            Sender.Tell(new SessionConfirmed { Lease = alive.Sequence > 0 && HeardTheLast(alive) ? Grant(alive.Sequence) : null });
            return;
        }
        // This actor moved or restarted and knows nothing of the stream: the agent dials again and says Hello anew.
        Sender.Tell(Ended("reconnect", "The control plane moved this host to another node; dial again."));
        if (!Exists)
            LeaveSoon();
    }

    private void OnSessionLost(string detail)
    {
        if (_session is { } session)
            Context.Unwatch(session);
        _session = null;
        _presence.Lost();
        _reconciling.Clear();
        _launchesBehindRemains.Clear();
        _log.Info("Host {HostId} is disconnected: {Detail}", _id, detail);
        if (_record is { State: HostState.Connected })
        {
            Store([new HostDisconnected { At = At, Detail = detail }], () =>
            {
                PublishView();
                AwaitLease();
            });
        }
    }

    private static SessionEnded Ended(string code, string message) => new() { Problem = new Problem { Code = code, Message = message } };

    // --- orders ---

    private void OnCommandHost(CommandHost command)
    {
        var caller = Sender;
        if (_ledger.Find(command.VmId, command.Epoch) is not { } held)
        {
            Answer(caller, command, HostCommandOutcome.Gone);
            if (!Exists)
                LeaveSoon();
            return;
        }
        if (held.Lost)
        {
            TellLost(held);
            return;
        }
        _presence.Confirm(command.VmId, command.Epoch);
        if (command.CommandCase == CommandHost.CommandOneofCase.Remove)
            DiscardOlder(command.VmId, command.Epoch);
        if (!Connected)
        {
            if (command.CommandCase == CommandHost.CommandOneofCase.Remove)
                _presence.RemoveWanted(command.VmId, command.Epoch);
            Answer(caller, command, HostCommandOutcome.NotConnected);
            return;
        }
        switch (command.CommandCase)
        {
            case CommandHost.CommandOneofCase.Launch when !held.Vacated:
                Launch(command);
                break;
            // Its room may be another's by now: how it ended here is on its way to whoever still wants it launched.
            case CommandHost.CommandOneofCase.Launch when !_presence.IsAbsent(command.VmId, command.Epoch):
                break;
            case CommandHost.CommandOneofCase.Stop when !_presence.IsAbsent(command.VmId, command.Epoch):
                Send(new SchedulerMessage { Stop = command.Stop });
                break;
            case CommandHost.CommandOneofCase.Suspend when !_presence.IsAbsent(command.VmId, command.Epoch):
                Send(new SchedulerMessage { Suspend = command.Suspend });
                break;
            case CommandHost.CommandOneofCase.Limits:
                Send(new SchedulerMessage { SetLimits = command.Limits });
                break;
            case CommandHost.CommandOneofCase.Remove when !_presence.IsAbsent(command.VmId, command.Epoch):
                SendRemove(command.VmId, command.Epoch);
                break;
            default:
                // Never launched, or the agent said Hello without it: there is nothing to stop or to remove.
                Release(held, () => Answer(caller, command, HostCommandOutcome.Gone));
                return;
        }
        Answer(caller, command, HostCommandOutcome.Accepted);
    }

    private void Launch(CommandHost command)
    {
        // What an earlier run left here goes first, so that a host never has two epochs of one microVM side by side. What it is saved in is taken over.
        var remains = command.Launch is { SnapshotEpoch: > 0, Ticket: null } ? [] : _ledger.OlderThan(command.VmId, command.Epoch);
        if (remains.Count > 0)
        {
            _launchesBehindRemains[command.VmId] = command;
            foreach (var held in remains)
            {
                _presence.Unwanted(held.VmId, held.Epoch);
                Discard(held);
            }
            return;
        }
        if (AwaitsPreempted(command.VmId, command.Epoch))
        {
            _launchesBehindRemains[command.VmId] = command;
            return;
        }
        _presence.Launched(command.VmId, command.Epoch);
        _launches.Began(command.VmId, command.Epoch);
        Send(new SchedulerMessage { Launch = command.Launch });
    }

    /// <summary>A newer epoch runs here, or shall not be here either: of those before nothing is needed any more.</summary>
    private void DiscardOlder(string vmId, ulong epoch)
    {
        foreach (var held in _ledger.OlderThan(vmId, epoch).Where(held => held.Vacated))
        {
            _presence.Unwanted(held.VmId, held.Epoch);
            Discard(held);
        }
    }

    private void Send(SchedulerMessage message) => _session?.Tell(new SessionSend { Message = message });

    private void Answer(IActorRef caller, CommandHost command, HostCommandOutcome outcome) =>
        caller.Tell(new HostCommandAnswer { VmId = command.VmId, HostId = _id, Epoch = command.Epoch, Outcome = outcome });

    // --- reservations that may not be meant ---

    private void OnAudit()
    {
        // Without an agent nothing can be released; its next Hello asks about everything.
        if (!Connected || _reconciling.Count > 0)
            return;
        var before = Monotonic - _options.ReservationAudit;
        var alsoRemains = ++_audits % RemainsAuditEvery == 0;
        foreach (var held in _ledger.Reservations.ToList())
        {
            if (_presence.IsUnwanted(held.VmId, held.Epoch))
                Discard(held);
            else if (_presence.IsDoubtful(held.VmId, held.Epoch, before))
                AskWhetherMeant(held);
            else if (held.Vacated && alsoRemains)
                _reconciling.Enqueue(() => AskWhetherMeant(held));
        }
        ReconcileSome();
    }

    private void AskWhetherMeant(Reservation held) => _vms.Tell(new CheckPlacement
    {
        VmId = held.VmId,
        HostId = _id,
        Epoch = held.Epoch,
        Present = !_presence.IsAbsent(held.VmId, held.Epoch),
        Round = held.Round,
    }, Self);

    private void OnVerdict(PlacementVerdict verdict)
    {
        if (_ledger.Find(verdict.VmId, verdict.Epoch) is not { } held)
            return;
        if (verdict.Keep)
        {
            _presence.Confirm(verdict.VmId, verdict.Epoch);
            return;
        }
        if (!held.Goes(verdict, _presence.IsConfirmed(held.VmId, held.Epoch)))
            return;
        if (held.Lost && !Connected)
        {
            // Nothing of it runs; what is left on the disk goes when the host comes back and says that it has it.
            Release(held, static () => { });
            return;
        }
        _presence.Unwanted(verdict.VmId, verdict.Epoch);
        Discard(held);
    }

    /// <summary>Releases it if the agent has nothing of it, else has it removed; the audit repeats that until it is gone.</summary>
    private void Discard(Reservation held)
    {
        if (!Connected)
            return;
        if (_presence.IsAbsent(held.VmId, held.Epoch))
            Release(held, static () => { });
        else
            SendRemove(held.VmId, held.Epoch);
    }

    private void SendRemove(string vmId, ulong epoch)
    {
        _presence.RemoveSent(vmId, epoch);
        Send(new SchedulerMessage { Remove = new RemoveVm { VmId = vmId, Epoch = epoch } });
    }

    /// <summary>
    /// Nothing of it is here any more. Once per reservation, however many ask while it is being stored: who was not answered
    /// asks again, and finds it gone.
    /// </summary>
    private void Release(Reservation held, Action then)
    {
        if (!_releasing.Add((held.VmId, held.Epoch)))
            return;
        Store([Released(held)], () =>
        {
            _releasing.Remove((held.VmId, held.Epoch));
            _presence.Forget(held.VmId, held.Epoch);
            _launches.Over(held.VmId, held.Epoch);
            PublishView();
            then();
            if (_launchesBehindRemains.Remove(held.VmId, out var waiting) && _ledger.Find(waiting.VmId, waiting.Epoch) is { Vacated: false })
                Launch(waiting);
            LaunchInItsPlace(held);
            RemoveWhenHandedBack();
        });
    }

    private HostReleased Released(Reservation held) => new()
    {
        At = At,
        VmId = held.VmId,
        Epoch = held.Epoch,
        WasReserved = !held.Vacated,
        Cpus = (uint)held.Held.Cpus,
        MemoryMib = (ulong)held.Held.MemoryMib,
        Other = held.Held.Other,
    };

    // --- reports ---

    /// <summary>
    /// What the agent says of one of its microVMs. The ledger is brought up to date first, then the microVM hears it and stores it;
    /// only then is the agent told that it need not repeat it.
    /// </summary>
    private void OnSessionReport(VmReport report)
    {
        var held = _ledger.Find(report.VmId, report.Epoch);
        switch (report.State)
        {
            case var _ when held is null:
                // Not promised here: it may not stay, whoever started it. The microVM itself is not asked; a host speaks of its own only.
                Acknowledge(report.VmId, report.Epoch, report.Sequence);
                if (report.State != HostVmState.Removed)
                    Send(new SchedulerMessage { Remove = new RemoveVm { VmId = report.VmId, Epoch = report.Epoch } });
                break;
            case not HostVmState.Removed when held.Lost:
                // Given up: whatever it says now, it may not stay. Its microVM hears of the loss by itself.
                _presence.Seen(report.VmId, report.Epoch);
                Acknowledge(report.VmId, report.Epoch, report.Sequence);
                SendRemove(report.VmId, report.Epoch);
                break;
            case HostVmState.Removed when held.Lost:
                _presence.Removed(report.VmId, report.Epoch);
                Acknowledge(report.VmId, report.Epoch, report.Sequence);
                break;
            case HostVmState.Removed when _presence.WasRemoveSent(report.VmId, report.Epoch):
                // Room first, then the word. If we die in between, whoever asked for the removal asks again and hears that it is gone.
                Release(held, () => Relay(report));
                break;
            case HostVmState.Removed:
                // Nobody asked, so nobody would ask again: the reservation stays until the microVM has stored what happened.
                _presence.Removed(report.VmId, report.Epoch);
                Relay(report);
                break;
            case HostVmState.Ended or HostVmState.Failed or HostVmState.Suspended when !held.Vacated:
                _presence.Seen(report.VmId, report.Epoch);
                var vacated = new HostVacated
                {
                    At = At,
                    VmId = held.VmId,
                    Epoch = held.Epoch,
                    Cpus = (uint)held.Held.Cpus,
                    MemoryMib = (ulong)held.Held.MemoryMib,
                    Other = held.Held.Other,
                    Suspended = report.State == HostVmState.Suspended,
                    Leaving = report is { State: HostVmState.Suspended, Snapshot: not null },
                };
                Store([vacated], () =>
                {
                    PublishView();
                    LaunchInItsPlace(held);
                    OnLaunchReport(report);
                    Relay(report);
                });
                break;
            default:
                _presence.Seen(report.VmId, report.Epoch);
                if (report.State == HostVmState.Running)
                {
                    OnLaunchReport(report);
                    DiscardOlder(report.VmId, report.Epoch);
                }
                Relay(report);
                break;
        }
    }

    private void Relay(VmReport report) =>
        _vms.Tell(new HostReport { VmId = report.VmId, HostId = _id, Report = report }, Self);

    private void OnReportAnswer(HostReportAnswer answer)
    {
        if (_ledger.Find(answer.VmId, answer.Epoch) is { } held && Connected)
        {
            if (!answer.Stale)
                _presence.Confirm(held.VmId, held.Epoch);
            if (_presence.IsAbsent(held.VmId, held.Epoch))
            {
                Release(held, () => Acknowledge(answer.VmId, answer.Epoch, answer.Sequence));
                return;
            }
            if (answer.Stale)
            {
                _presence.Unwanted(held.VmId, held.Epoch);
                Discard(held);
            }
        }
        Acknowledge(answer.VmId, answer.Epoch, answer.Sequence);
    }

    private void Acknowledge(string vmId, ulong epoch, ulong sequence) =>
        Send(new SchedulerMessage { ReportAck = new VmReportAck { VmId = vmId, Epoch = epoch, Sequence = sequence } });

    // --- what the session answers ---

    private void OnForSession(object message)
    {
        if (_session is { } session && Connected)
        {
            session.Forward(message);
            return;
        }
        var problem = Exists
            ? new Problem { Code = "unavailable", Message = $"Host '{_id}' is not connected." }
            : new Problem { Code = "not_found", Message = $"There is no host '{_id}'." };
        Sender.Tell(message switch
        {
            ReadLimiters => new LimitersRead { Problem = problem },
            GuestOpen => new GuestRefused { Problem = problem },
            _ => (object)new ConsoleRefused { Problem = problem },
        });
        if (!Exists)
            LeaveSoon();
    }
}
