using Akka.Actor;
using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Fencing;
using Fleet.Host.Link;
using Fleet.Host.State;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Serilog;

namespace Fleet.Host.Agent;

/// <summary>
/// The host's one voice: takes the control plane's commands, owns a <see cref="MicroVmActor"/> per microVM and keeps every
/// report until it is acknowledged.
/// </summary>
/// <remarks>
/// Of each microVM there is one epoch at a time: a newer one waits until nothing of the older is left. Begun anew after a
/// fault it starts from the disk, and the link dials again to tell what is there.
/// </remarks>
internal sealed partial class HostAgentActor : UntypedActor, IWithTimers
{
    /// <summary>Reports of microVMs that are here, and as many of such that are gone or never came.</summary>
    private const int MostReports = 2 * VmLimits.MaxVmsPerHost;

    private const int MostRemovedKnown = 8192;

    /// <summary>The API takes 4096 bytes at once; a longer input is no input of ours.</summary>
    private const int MostInput = 64 * 1024;

    /// <summary>A report without an acknowledgement is sent again after this.</summary>
    private static readonly TimeSpan Resend = TimeSpan.FromSeconds(2);

    private static readonly TimeSpan FirstRetry = TimeSpan.FromSeconds(1);
    private static readonly TimeSpan LongestRetry = TimeSpan.FromMinutes(1);

    private readonly MicroVmContext _context;
    private readonly IReadOnlyList<LaunchRecord> _found;
    private readonly ILogger _log;
    private readonly long _since;
    private readonly Dictionary<string, Entry> _vms = new(StringComparer.Ordinal);
    private readonly Dictionary<IActorRef, string> _byActor = [];
    private readonly ReportOutbox _outbox = new(Resend, MostReports);
    private readonly RemovedEpochs _removed = new(MostRemovedKnown);
    private readonly RefusedLaunches _refused = new(MostRemovedKnown);
    private readonly ConsoleReaders _readers = new();
    private readonly LimiterTable _figures = new();
    private readonly Dictionary<string, uint> _inputTaken = new(StringComparer.Ordinal);
    private ITimer? _resend;
    private LinkSession? _session;
    private bool _waitsForRoom;
    private bool _blind;

    /// <param name="found">What the state directory held when the agent was started.</param>
    public HostAgentActor(MicroVmContext context, IReadOnlyList<LaunchRecord> found)
    {
        _context = context;
        _found = found;
        _log = context.Log.ForContext<HostAgentActor>();
        _since = context.Clock.GetTimestamp();
    }

    public ITimerScheduler Timers { get; set; } = null!;

    private TimeSpan Now => _context.Clock.GetElapsedTime(_since);

    /// <summary>A microVM's newest report, by its actor.</summary>
    public sealed record Reported(VmReport Report) : INoSerializationVerificationNeeded;

    /// <summary>What a rate limiter of a microVM did, by its actor; null: nobody can tell any more.</summary>
    public sealed record LimiterRead(string VmId, ulong Epoch, string Name, LimiterReading? Reading) : INoSerializationVerificationNeeded;

    /// <summary>One <see cref="MicroVmActor.Input"/> was passed on or dropped.</summary>
    public sealed record InputTaken(string VmId) : INoSerializationVerificationNeeded;

    /// <summary>A stream to the control plane is open, its Hello sent and welcomed.</summary>
    public sealed record LinkUp(LinkSession Session, IReadOnlyList<VmEpoch> Unknown) : INoSerializationVerificationNeeded;

    /// <summary>The host's lease, behind the <see cref="LinkUp"/> of the stream that it came by.</summary>
    public sealed record Leased(VmmLease Lease) : INoSerializationVerificationNeeded;

    public sealed record LinkDown(LinkSession Session) : INoSerializationVerificationNeeded;

    /// <summary>A message of the control plane. <paramref name="Taken"/> lets the link read on.</summary>
    public sealed record FromScheduler(SchedulerMessage Message, Action Taken) : INoSerializationVerificationNeeded;

    private sealed record ReaderDone(ulong StreamId, ConsoleReader Reader) : INoSerializationVerificationNeeded;

    private sealed record Room(LinkSession Session) : INoSerializationVerificationNeeded;

    private sealed record BeginAgain(string VmId) : INoSerializationVerificationNeeded;

    private sealed class ReadDiskAgain : INoSerializationVerificationNeeded
    {
        public static readonly ReadDiskAgain Instance = new();
    }

    private sealed class ResendTick : INoSerializationVerificationNeeded
    {
        public static readonly ResendTick Instance = new();
    }

    // An actor that lost its thread of events can't be trusted with a VMM; begun anew it takes it over from the disk.
    protected override SupervisorStrategy SupervisorStrategy() => new OneForOneStrategy(_ => Directive.Stop);

    protected override void PreStart() => BeginAll(_found);

    protected override void PreRestart(Exception reason, object message)
    {
        _log.Error(reason, "The agent's actor failed and is begun anew from the state directory");
        _session?.Break();
        base.PreRestart(reason, message);
    }

    protected override void PostRestart(Exception reason) => ReadDisk();

    protected override void PostStop()
    {
        _resend?.Dispose();
        _readers.CloseAll();
    }

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case Reported reported:
                Hear(reported.Report);
                break;
            case InputTaken taken:
                if (_vms.TryGetValue(taken.VmId, out var reader) && reader.InputUnderWay > 0)
                    reader.InputUnderWay--;
                Took(taken.VmId, 1);
                break;
            case LimiterRead read:
                _figures.Put(read);
                break;
            case UseRead or VcpuRead or BalloonRead or GuestRead:
                Answered(message);
                break;
            case ReadDiskAgain:
                ReadDisk();
                break;
            case GetReports when _blind:
                // No answer and so no link: a Hello without its microVMs would say that they are gone.
                break;
            case GetReports:
                Sender.Tell(TellReports());
                break;
            case LinkUp up:
                _session = up.Session;
                _waitsForRoom = false;
                _figures.TellAgain();
                _pressureToldAt = null;
                _inputTaken.Clear();
                foreach (var unknown in up.Unknown)
                    Remove(unknown.VmId, unknown.Epoch);
                Pump();
                break;
            case Leased leased:
                OnLeased(leased.Lease);
                break;
            case LinkDown down when down.Session == _session:
                _session = null;
                _readers.CloseAll();
                _outbox.LinkLost();
                ForgetLaunchesThatWait();
                break;
            case FromScheduler inbound:
                inbound.Taken();
                if (!_blind)
                    Obey(inbound.Message);
                break;
            case ReaderDone done:
                _readers.Done(done.StreamId, done.Reader);
                break;
            case Room room when room.Session == _session:
                _waitsForRoom = false;
                Pump();
                break;
            case LinkDown or Room:
                break; // of a stream that was replaced
            case ResendTick:
                Pump();
                TellFigures();
                Sample();
                LookAtMemory();
                TellPressure();
                TellImages();
                break;
            case BeginAgain again:
                TakeUp(again.VmId);
                break;
            case VolumeOrderOver over:
                OnVolumeOrderOver(over);
                break;
            case Terminated ended:
                Ended(ended.ActorRef);
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
                StopVm(message.Stop);
                break;
            case SchedulerMessage.BodyOneofCase.Suspend:
                SuspendVm(message.Suspend);
                break;
            case SchedulerMessage.BodyOneofCase.Remove:
                Remove(message.Remove.VmId, message.Remove.Epoch);
                break;
            case SchedulerMessage.BodyOneofCase.SetLimits:
                Retune(message.SetLimits);
                break;
            case SchedulerMessage.BodyOneofCase.ReportAck:
                _outbox.Acknowledge(message.ReportAck.VmId, message.ReportAck.Epoch, message.ReportAck.Sequence);
                break;
            case SchedulerMessage.BodyOneofCase.OpenConsole:
                Open(message.OpenConsole);
                break;
            case SchedulerMessage.BodyOneofCase.ConsoleCredit:
                _readers.Grant(message.ConsoleCredit.StreamId, message.ConsoleCredit.Bytes);
                break;
            case SchedulerMessage.BodyOneofCase.CloseConsole:
                _readers.Close(message.CloseConsole.StreamId);
                break;
            case SchedulerMessage.BodyOneofCase.GuestFrame:
                Pass(message.GuestFrame);
                break;
            case SchedulerMessage.BodyOneofCase.ConsoleInput:
                var input = message.ConsoleInput;
                if (input.Data.Length <= MostInput && _vms.TryGetValue(input.VmId, out var typed) && !typed.Actor.IsNobody())
                {
                    typed.InputUnderWay++;
                    typed.Actor.Tell(new MicroVmActor.Input(input.Data.Memory));
                }
                else
                {
                    Took(input.VmId, 1);
                }

                break;
            case SchedulerMessage.BodyOneofCase.Volume:
                CarryOut(message.Volume);
                break;
            default:
                _log.Warning("The control plane sent {Kind}, which this agent does not know", message.BodyCase);
                break;
        }
    }

    private void StartVm(LaunchVm launch)
    {
        if (!Names(launch.VmId, launch.Epoch))
            return;
        if (_vms.TryGetValue(launch.VmId, out var entry) && entry.Epoch == launch.Epoch)
        {
            // Asked again: answered again, also when the first answer was acknowledged.
            Send(entry.Report);
            return;
        }

        if (entry?.Epoch > launch.Epoch || _removed.Contains(launch.VmId, launch.Epoch))
        {
            _log.Warning("Refused to launch {VmId} under epoch {Epoch}: that epoch is over on this host", launch.VmId, launch.Epoch);
            TellGone(launch.VmId, launch.Epoch);
            return;
        }

        if (_refused.Find(launch.VmId, launch.Epoch) is { } refused)
        {
            // What stood in its way may be gone by now, and its room another's: a word that was given stands.
            Send(refused);
            return;
        }

        var problem = launch.Spec is null ? "It is missing." : VmSpecRules.FirstProblem(launch.Spec)?.Message;
        if (problem is not null)
        {
            Refuse(launch, $"The host does not accept the spec. {problem}");
            return;
        }

        if (entry is { Succeeded: true, Next: not null })
            return;
        if (entry is { Doomed: false, Next: null } && launch is { SnapshotEpoch: > 0, Ticket: null } && entry.Report.State is HostVmState.Suspended or HostVmState.Failed)
        {
            Succeed(entry, launch);
            return;
        }

        if (entry is not null)
        {
            // The older epoch goes first, all of it: never two VMMs of one microVM.
            if (entry.Next is null || entry.Next.Epoch < launch.Epoch)
                entry.Next = launch;
            Doom(entry);
            return;
        }

        if (_vms.Count >= VmLimits.MaxVmsPerHost)
            Refuse(launch, $"The host carries {VmLimits.MaxVmsPerHost} microVMs, the most that one agent takes; delete some that have ended.");
        else
            BeginNew(launch);
    }

    private void OnLeased(VmmLease lease)
    {
        if (!_context.Lease.Take(lease))
            return;
        foreach (var entry in _vms.Values.Where(entry => !entry.Doomed))
            entry.Actor.Tell(new MicroVmActor.Renew(lease));
    }

    private void Remove(string vmId, ulong epoch)
    {
        if (!Names(vmId, epoch))
            return;
        if (!_vms.TryGetValue(vmId, out var entry) || entry.Epoch > epoch)
        {
            TellGone(vmId, epoch);
            return;
        }

        if (entry.Next?.Epoch <= epoch)
            entry.Next = null;
        Doom(entry);
        if (entry.Epoch < epoch)
            TellGone(vmId, epoch);
    }

    /// <summary>Hello tells nothing of them, and their places may be given away meanwhile: they are ordered again if they are still meant.</summary>
    private void ForgetLaunchesThatWait()
    {
        foreach (var entry in _vms.Values.Where(entry => !entry.Succeeded))
            entry.Next = null;
    }

    // Its place may have been given away: whatever lease it has, it gets no other.
    private static void Doom(Entry entry)
    {
        entry.Doomed = true;
        entry.Actor.Tell(MicroVmActor.Remove.Instance);
    }

    /// <summary>Whether a command names a microVM at all. One that does not can't even be answered.</summary>
    private bool Names(string vmId, ulong epoch)
    {
        if (VmId.IsValid(vmId) && epoch > 0)
            return true;
        _log.Warning("The control plane sent a command without a microVM's id or epoch; it is passed over");
        return false;
    }

    /// <summary>Of that epoch there is nothing on this host, and will be nothing.</summary>
    private void TellGone(string vmId, ulong epoch)
    {
        var report = _context.NewReport(vmId, epoch, HostVmState.Removed, last: _removed.LastSequence(vmId));
        _removed.Add(vmId, epoch, report.Sequence);
        Send(report);
    }

    private void Refuse(LaunchVm launch, string why, string code = "launch_failed")
    {
        _log.Warning("Refused to launch {VmId} under epoch {Epoch}: {Reason}", launch.VmId, launch.Epoch, why);
        var report = _context.NewReport(launch.VmId, launch.Epoch, HostVmState.Failed);
        report.Reason = new Reason { Code = code, Message = ReasonText.Shorten(why) };
        report.NeverRan = true;
        _refused.Add(report);
        Send(report);
    }

    private void ReadDisk()
    {
        try
        {
            BeginAll(_context.State.ReadAll());
            _blind = false;
        }
        catch (AgentStartException unreadable)
        {
            _blind = true;
            _log.Error(unreadable, "This host's microVMs can't be found out; they run on, and the control plane hears nothing until the directory can be read");
            Timers.StartSingleTimer("read", ReadDiskAgain.Instance, LongestRetry);
        }
    }

    private void BeginAll(IReadOnlyList<LaunchRecord> records)
    {
        foreach (var record in records)
            Begin(record, found: true);
        var self = Self;
        _resend = _context.Clock.CreateTimer(_ => self.Tell(ResendTick.Instance), null, Resend, Resend);
    }

    private void Begin(LaunchRecord record, bool found)
    {
        var id = record.Launch.VmId;
        if (!_vms.TryGetValue(id, out var entry) || entry.Epoch != record.Launch.Epoch)
            _vms[id] = entry = new Entry(record);
        // The name of a stopped actor is free only once it is quite gone: a number keeps names apart.
        entry.Console = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
        entry.Actor = Context.ActorOf(
            Props.Create<MicroVmActor>(_context, record, found, entry.Console).WithDispatcher("fleet.disk-dispatcher"),
            $"{id}-{record.Launch.Epoch}-{Guid.NewGuid():n}");
        _byActor[entry.Actor] = id;
        Context.Watch(entry.Actor);
        // One that was found here is renewed only after a new word of the control plane, which has seen in Hello that it is here.
        if (!found && _context.Lease.Now is { } lease)
            entry.Actor.Tell(new MicroVmActor.Renew(lease));
        entry.Ease = MicroVmActor.Ease.Nothing;
        EaseAnew();
    }

    private void Hear(VmReport report)
    {
        if (_vms.TryGetValue(report.VmId, out var entry) && entry.Epoch == report.Epoch)
        {
            var hadVmm = entry.HasVmm;
            entry.Report = report;
            if (entry.HasVmm != hadVmm)
                EaseAnew();
        }

        Send(report);
    }

    private void Send(VmReport report)
    {
        if (!_outbox.Put(report))
            _log.Warning("{Count} reports wait for the control plane; one on {VmId} is dropped until it is asked for again", _outbox.Count, report.VmId);
        Pump();
    }

    private void Pump()
    {
        if (_session is not { } session || _waitsForRoom)
            return;
        if (!TellVolumes(session))
            return;
        while (_outbox.Next(Now) is { } report)
        {
            if (!TrySend(session, new HostMessage { Report = report }))
                return;
            _outbox.Sent(Now);
        }

        foreach (var (vmId, messages) in _inputTaken)
        {
            if (!TrySend(session, new HostMessage { InputTaken = new ConsoleInputTaken { VmId = vmId, Messages = messages } }))
                return;
            _inputTaken.Remove(vmId);
        }
    }

    private bool TrySend(LinkSession session, HostMessage message)
    {
        if (session.TrySend(message))
            return true;
        _waitsForRoom = true;
        _ = session.WaitForRoomAsync().PipeTo(Self, success: _ => new Room(session));
        return false;
    }

    /// <summary>The control plane hears it at once, or together with others when the stream has room again.</summary>
    private void Took(string vmId, uint messages)
    {
        _inputTaken[vmId] = _inputTaken.GetValueOrDefault(vmId) + messages;
        Pump();
    }

    private void TellFigures()
    {
        // What does not fit into the stream now is told at the next tick.
        if (_session is { } session && !_waitsForRoom && _figures.Next() is { } figures && session.TrySend(new HostMessage { Limiters = figures }))
            _figures.Told();
    }

    private void Ended(IActorRef actor)
    {
        if (!_byActor.Remove(actor, out var id) || !_vms.TryGetValue(id, out var entry) || !entry.Actor.Equals(actor))
            return;
        _figures.Forget(id);
        _usage.Forget(id);
        if (entry.InputUnderWay > 0)
            Took(id, entry.InputUnderWay);
        entry.InputUnderWay = 0;
        if (entry is { Succeeded: true, Next: { } successor })
        {
            Begin(_context.NewRecord(successor), found: false);
            return;
        }

        if (entry.Report.State != HostVmState.Removed)
        {
            // It failed. What stands on the disk is the truth, and a VMM that runs is found by it.
            entry.Actor = ActorRefs.Nobody;
            var pause = FirstRetry * Math.Pow(2, Math.Min(entry.Faults++, 10));
            _log.Error("The actor of {VmId} failed; it is begun anew from its record", id);
            Timers.StartSingleTimer($"again-{id}", new BeginAgain(id), pause < LongestRetry ? pause : LongestRetry);
            return;
        }

        _vms.Remove(id);
        _removed.Add(id, entry.Epoch, entry.Report.Sequence);
        BeginNext(entry);
    }

    private void TakeUp(string id)
    {
        if (!_vms.TryGetValue(id, out var entry) || !entry.Actor.IsNobody())
            return;
        LaunchRecord? record;
        try
        {
            record = _context.State.Read(id);
        }
        catch (Exception unreadable) when (unreadable is IOException or UnauthorizedAccessException)
        {
            _log.Error(unreadable, "The record of {VmId} can't be read; it is tried again", id);
            Timers.StartSingleTimer($"again-{id}", new BeginAgain(id), LongestRetry);
            return;
        }

        if (record?.Launch.Epoch == entry.Epoch)
        {
            Begin(record, found: true);
            return;
        }

        // It had not come so far as to write down its launch, and so has started nothing.
        _vms.Remove(id);
        EaseAnew();
        _context.Networks.Release(id);
        Refuse(new LaunchVm { VmId = id, Epoch = entry.Epoch }, "The agent failed before it had written the launch down; its log tells more.");
        BeginNext(entry);
    }

    private sealed class Entry(LaunchRecord record)
    {
        public ulong Epoch { get; } = record.Launch.Epoch;

        public IActorRef Actor { get; set; } = ActorRefs.Nobody;

        public VmSpec Spec { get; } = record.Launch.Spec;

        /// <summary>What it was last told to give.</summary>
        public MicroVmActor.Ease Ease { get; set; } = MicroVmActor.Ease.Nothing;

        public VmReport Report { get; set; } = Sized(record.Report);

        public bool HasVmm => Report.State.HasVmm();

        /// <summary>Complete when nothing writes to the console any more.</summary>
        public TaskCompletionSource Console { get; set; } = new();

        /// <summary>A launch under a newer epoch that waits until this one is gone.</summary>
        public LaunchVm? Next { get; set; }

        /// <summary>That launch takes over its folder, and it has no VMM and no say any more.</summary>
        public bool Succeeded { get; set; }

        /// <summary>It is to be removed.</summary>
        public bool Doomed { get; set; }

        /// <summary>Console inputs that its actor has not answered yet.</summary>
        public uint InputUnderWay { get; set; }

        /// <summary>How often its actor failed.</summary>
        public int Faults { get; set; }

        // An agent of an earlier version may have written down a longer sentence.
        private static VmReport Sized(VmReport found)
        {
            var report = found.Clone();
            if (report.Reason is { } reason)
                reason.Message = ReasonText.Shorten(reason.Message);
            return report;
        }
    }
}
