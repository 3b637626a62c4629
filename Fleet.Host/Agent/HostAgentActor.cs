using Akka.Actor;
using Fleet.Host.Consoles;
using Fleet.Host.Link;
using Fleet.Host.State;
using Fleet.Shared.Contracts;
using Serilog;

namespace Fleet.Host.Agent;

/// <summary>
/// The host's one voice: takes the control plane's commands, owns a <see cref="MicroVmActor"/> per microVM and keeps every
/// report until it is acknowledged.
/// </summary>
internal sealed class HostAgentActor : UntypedActor, IWithTimers
{
    /// <summary>Console readers at once: each holds up to its credit in memory.</summary>
    public const int MostReaders = 1024;

    public const int MostReadersPerVm = 16;

    /// <summary>A report without an acknowledgement is sent again after this.</summary>
    private static readonly TimeSpan Resend = TimeSpan.FromSeconds(2);

    private readonly MicroVmContext _context;
    private readonly string _autoDriver;
    private readonly IReadOnlyList<LaunchRecord> _found;
    private readonly ILogger _log;
    private readonly Dictionary<string, Entry> _vms = [];

    // The newest report of each (microVM, epoch) that nobody has acknowledged.
    private readonly Dictionary<(string VmId, ulong Epoch), VmReport> _unheard = [];
    private readonly Dictionary<ulong, ConsoleReader> _readers = [];
    private LinkSession? _session;

    public HostAgentActor(MicroVmContext context, string autoDriver, IReadOnlyList<LaunchRecord> found)
    {
        _context = context;
        _autoDriver = autoDriver;
        _found = found;
        _log = context.Log.ForContext<HostAgentActor>();
    }

    public ITimerScheduler Timers { get; set; } = null!;

    /// <summary>A microVM's newest report, by its actor.</summary>
    public sealed record Reported(VmReport Report) : INoSerializationVerificationNeeded;

    /// <summary>Asks for the newest report of every microVM: what Hello tells.</summary>
    public sealed class GetReports : INoSerializationVerificationNeeded
    {
        public static readonly GetReports Instance = new();
    }

    /// <summary>A stream to the control plane is open, its Hello sent and welcomed.</summary>
    public sealed record LinkUp(LinkSession Session, IReadOnlyList<VmEpoch> Unknown) : INoSerializationVerificationNeeded;

    public sealed record LinkDown(LinkSession Session) : INoSerializationVerificationNeeded;

    /// <summary>A message of the control plane.</summary>
    public sealed record FromScheduler(SchedulerMessage Message) : INoSerializationVerificationNeeded;

    private sealed record ConsoleFound(OpenConsole Request, MicroVmActor.ConsoleSource Source, LinkSession Session) : INoSerializationVerificationNeeded;

    private sealed record ReaderDone(ulong StreamId, ConsoleReader Reader) : INoSerializationVerificationNeeded;

    private sealed class ResendTick : INoSerializationVerificationNeeded
    {
        public static readonly ResendTick Instance = new();
    }

    protected override SupervisorStrategy SupervisorStrategy() => new OneForOneStrategy(fault =>
    {
        // An actor that lost its thread of events can't be trusted with a VMM; begun anew it takes it over from the disk.
        _log.Error(fault, "A microVM's actor failed and is begun anew");
        return Directive.Stop;
    });

    protected override void PreStart()
    {
        foreach (var record in _found)
            Begin(record, found: true);
        Timers.StartPeriodicTimer("resend", ResendTick.Instance, Resend);
    }

    protected override void PostStop()
    {
        foreach (var reader in _readers.Values)
            reader.Close();
    }

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case Reported reported:
                Hear(reported.Report);
                break;
            case GetReports:
                Sender.Tell(_vms.Values.Where(entry => entry.Report is not null).Select(entry => entry.Report!.Clone()).ToArray());
                break;
            case LinkUp up:
                _session = up.Session;
                foreach (var unknown in up.Unknown)
                    Remove(unknown.VmId, unknown.Epoch);
                SendUnheard();
                break;
            case LinkDown down when down.Session == _session:
                _session = null;
                foreach (var reader in _readers.Values)
                    reader.Close();
                _readers.Clear();
                break;
            case LinkDown:
                break;
            case FromScheduler { Message: var body }:
                Obey(body);
                break;
            case ConsoleFound found:
                Open(found);
                break;
            case ReaderDone done:
                if (_readers.TryGetValue(done.StreamId, out var current) && current == done.Reader)
                    _readers.Remove(done.StreamId);
                break;
            case ResendTick:
                SendUnheard();
                break;
            case Terminated ended:
                Ended(ended.ActorRef);
                break;
            case Status.Failure failure:
                _log.Warning(failure.Cause, "A request of the control plane could not be carried out");
                break;
            default:
                Unhandled(message);
                break;
        }
    }

    private void Obey(SchedulerMessage message)
    {
        switch (message.BodyCase)
        {
            case SchedulerMessage.BodyOneofCase.Launch:
                StartVm(message.Launch);
                break;
            case SchedulerMessage.BodyOneofCase.Stop:
                if (Find(message.Stop.VmId, message.Stop.Epoch) is { } stopped)
                    stopped.Actor.Tell(new MicroVmActor.Stop(TimeSpan.FromMilliseconds(message.Stop.GraceMs)));
                else
                    TellGone(message.Stop.VmId, message.Stop.Epoch);
                break;
            case SchedulerMessage.BodyOneofCase.Remove:
                Remove(message.Remove.VmId, message.Remove.Epoch);
                break;
            case SchedulerMessage.BodyOneofCase.ReportAck:
                var ack = message.ReportAck;
                if (_unheard.TryGetValue((ack.VmId, ack.Epoch), out var report) && report.Sequence <= ack.Sequence)
                    _unheard.Remove((ack.VmId, ack.Epoch));
                break;
            case SchedulerMessage.BodyOneofCase.OpenConsole:
                Find(message.OpenConsole);
                break;
            case SchedulerMessage.BodyOneofCase.ConsoleCredit:
                if (_readers.TryGetValue(message.ConsoleCredit.StreamId, out var reader))
                    reader.Grant(message.ConsoleCredit.Bytes);
                break;
            case SchedulerMessage.BodyOneofCase.CloseConsole:
                if (_readers.Remove(message.CloseConsole.StreamId, out var closed))
                    closed.Close();
                break;
            case SchedulerMessage.BodyOneofCase.ConsoleInput:
                if (_vms.TryGetValue(message.ConsoleInput.VmId, out var typed))
                    typed.Actor.Tell(new MicroVmActor.Input(message.ConsoleInput.Data.Memory));
                break;
            default:
                _log.Warning("The control plane sent {Kind}, which this agent does not know", message.BodyCase);
                break;
        }
    }

    private void StartVm(LaunchVm launch)
    {
        if (!StateDirectory.IsVmId(launch.VmId) || launch.Spec is null || launch.Epoch == 0)
        {
            _log.Warning("Refused to launch '{VmId}' under epoch {Epoch}: not a launch", launch.VmId, launch.Epoch);
            return;
        }

        if (!_vms.TryGetValue(launch.VmId, out var entry))
        {
            Begin(_context.NewRecord(launch, _autoDriver), found: false);
            return;
        }

        if (entry.Epoch == launch.Epoch)
        {
            entry.Actor.Tell(MicroVmActor.ReportAgain.Instance);
        }
        else if (entry.Epoch > launch.Epoch)
        {
            _log.Warning("Refused to launch {VmId} under epoch {Epoch}: this host has epoch {Newer}", launch.VmId, launch.Epoch, entry.Epoch);
        }
        else
        {
            // The older epoch goes first, all of it: never two VMMs of one microVM.
            if (entry.Next is null || entry.Next.Epoch < launch.Epoch)
                entry.Next = launch;
            entry.Actor.Tell(MicroVmActor.Remove.Instance);
        }
    }

    private void Remove(string vmId, ulong epoch)
    {
        if (_vms.TryGetValue(vmId, out var entry) && entry.Epoch <= epoch)
        {
            if (entry.Next?.Epoch <= epoch)
                entry.Next = null;
            entry.Actor.Tell(MicroVmActor.Remove.Instance);
            if (entry.Epoch < epoch)
                TellGone(vmId, epoch);
            return;
        }

        TellGone(vmId, epoch);
    }

    /// <summary>Of that epoch there is nothing on this host, and will be nothing.</summary>
    private void TellGone(string vmId, ulong epoch)
    {
        if (!StateDirectory.IsVmId(vmId))
            return;
        var now = _context.Clock.GetUtcNow();
        Hear(new VmReport
        {
            VmId = vmId,
            Epoch = epoch,
            Sequence = (ulong)now.ToUnixTimeMilliseconds(),
            State = HostVmState.Removed,
            At = Google.Protobuf.WellKnownTypes.Timestamp.FromDateTimeOffset(now),
        });
    }

    private void Begin(LaunchRecord record, bool found)
    {
        var id = record.Launch.VmId;
        // The name of a stopped actor is free only once it is quite gone: the epoch and a number keep names apart.
        var actor = Context.ActorOf(Props.Create<MicroVmActor>(_context, record, found), $"{id}-{record.Launch.Epoch}-{Guid.NewGuid():n}");
        Context.Watch(actor);
        _vms[id] = new Entry(actor, record.Launch.Epoch) { Report = record.Report };
    }

    private void Hear(VmReport report)
    {
        if (_vms.TryGetValue(report.VmId, out var entry) && entry.Epoch == report.Epoch)
            entry.Report = report;
        _unheard[(report.VmId, report.Epoch)] = report;
        _session?.TrySend(new HostMessage { Report = report });
    }

    private void SendUnheard()
    {
        if (_session is null)
            return;
        foreach (var report in _unheard.Values)
        {
            if (!_session.TrySend(new HostMessage { Report = report }))
                break; // the stream is full: the next tick goes on
        }
    }

    private void Ended(IActorRef actor)
    {
        var (id, entry) = _vms.FirstOrDefault(pair => pair.Value.Actor.Equals(actor));
        if (entry is null)
            return;
        _vms.Remove(id);
        if (entry.Report?.State != HostVmState.Removed)
        {
            // It failed. What stands on the disk is the truth, and a VMM that runs is found by it.
            if (_context.State.ReadAll().FirstOrDefault(record => record.Launch.VmId == id) is { } record)
                Begin(record, found: true);
            return;
        }

        if (entry.Next is { } next)
            Begin(_context.NewRecord(next, _autoDriver), found: false);
    }

    private Entry? Find(string vmId, ulong epoch) => _vms.TryGetValue(vmId, out var entry) && entry.Epoch == epoch ? entry : null;

    private void Find(OpenConsole request)
    {
        if (_session is not { } session)
            return;
        if (!_vms.TryGetValue(request.VmId, out var entry))
        {
            Refuse(session, request.StreamId, "not_found", "This host has no such microVM.");
            return;
        }

        if (_readers.Count >= MostReaders || _readers.Values.Count(reader => reader.VmId == request.VmId) >= MostReadersPerVm)
        {
            Refuse(session, request.StreamId, "unavailable", "Too many readers of consoles on this host; close one and try again.");
            return;
        }

        _ = entry.Actor.Ask<MicroVmActor.ConsoleSource>(MicroVmActor.GetConsole.Instance, TimeSpan.FromSeconds(5))
            .PipeTo(Self, success: source => new ConsoleFound(request, source, session));
    }

    private void Open(ConsoleFound found)
    {
        if (_session != found.Session)
            return;
        if (_readers.Remove(found.Request.StreamId, out var replaced))
            replaced.Close();
        var log = new ConsoleLog(found.Source.Folder, _context.Clock);
        var reader = new ConsoleReader(found.Request, log, found.Source.Ended, found.Session);
        _readers[found.Request.StreamId] = reader;
        _ = reader.RunAsync().PipeTo(Self, success: () => new ReaderDone(found.Request.StreamId, reader));
    }

    private static void Refuse(LinkSession session, ulong stream, string code, string message) => session.TrySend(new HostMessage
    {
        Console = new ConsoleChunk { StreamId = stream, End = true, Error = new Reason { Code = code, Message = message } },
    });

    private sealed class Entry(IActorRef actor, ulong epoch)
    {
        public IActorRef Actor { get; } = actor;

        public ulong Epoch { get; } = epoch;

        public VmReport? Report { get; set; }

        /// <summary>A launch under a newer epoch that waits until this one is gone.</summary>
        public LaunchVm? Next { get; set; }
    }
}
