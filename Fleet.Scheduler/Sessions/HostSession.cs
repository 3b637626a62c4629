using System.Threading.Channels;
using Akka.Actor;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Sessions;

/// <summary>A message of the agent, looked at and in order; <see cref="Done"/> lets the stream read on.</summary>
internal sealed record FromAgent(HostMessage Message, InboundWindow Window) : INoSerializationVerificationNeeded
{
    public void Done() => Window.Leave();
}

/// <summary>The gRPC stream ended.</summary>
internal sealed record StreamEnded(string Detail) : INoSerializationVerificationNeeded;

/// <summary>
/// One agent's stream on this node: speaks with the host's actor, wherever that lives, and with console readers. It ends when the
/// agent is silent too long, when the agent does not take what it is sent, or when the host's actor says so.
/// </summary>
internal sealed class HostSession : UntypedActor, IWithTimers
{
    /// <summary>Between the answers of the host's actor to a Hello.</summary>
    private static readonly TimeSpan HelloRetry = TimeSpan.FromSeconds(2);

    private readonly CellOptions _options;
    private readonly IActorRef _hosts;
    private readonly ChannelWriter<SchedulerMessage> _toAgent;
    private readonly uint _enrolment;
    private readonly SessionConsoles _consoles;
    private readonly SessionGuests _guests;
    private readonly ReportsUnderWay _reports = new();
    private readonly InputWindow _input = new();
    private readonly HostFigures _figures;
    private readonly ILoggingAdapter _log = Context.GetLogger();

    // The host's actor itself once it has answered: heartbeats are nearly all that a session sends, and the region and its shard are two hops more.
    private IActorRef _host;

    private Hello? _hello;
    private bool _open;

    // The host's actor was asked since the last tick, by a heartbeat of the agent.
    private bool _asked;

    // The agent's last heartbeat was answered by a lease.
    private bool _leased;
    // By a clock that nobody sets: one that jumps must not cut every agent's stream.
    private TimeSpan _startedAt;
    private TimeSpan _agentHeardAt;
    private TimeSpan _hostHeardAt;

    /// <param name="options">Of the node.</param>
    /// <param name="hosts">Takes every <see cref="IToHost"/>.</param>
    /// <param name="toAgent">Bounded; completing it ends the stream.</param>
    /// <param name="enrolment">Of the certificate that the agent showed.</param>
    /// <param name="figures">Of this node's hosts.</param>
    public HostSession(CellOptions options, IActorRef hosts, ChannelWriter<SchedulerMessage> toAgent, uint enrolment, HostFigures figures)
    {
        _enrolment = enrolment;
        _figures = figures;
        _options = options;
        _hosts = _host = hosts;
        _toAgent = toAgent;
        _consoles = new SessionConsoles(Context, Send);
        _guests = new SessionGuests(Context, Send);
    }

    public ITimerScheduler Timers { get; set; } = null!;

    private TimeSpan Now => _options.Clock.GetElapsedTime(0);

    private string HostId => _hello?.HostId ?? "";

    /// <summary>From the parent, every heartbeat: for all sessions at once, since waking a thread for each costs as much as a heartbeat itself.</summary>
    public sealed class Tick : INoSerializationVerificationNeeded
    {
        public static readonly Tick Instance = new();
    }

    private sealed class SendHello : INoSerializationVerificationNeeded
    {
        public static readonly SendHello Instance = new();
    }

    protected override void PreStart()
    {
        _startedAt = _agentHeardAt = _hostHeardAt = Now;
    }

    protected override void PostStop()
    {
        _consoles.EndAll("The host's stream ended.");
        _guests.EndAll("The host's stream ended.");
        _reports.LeaveAll();
        _figures.Remove(HostId, this);
        _toAgent.TryComplete();
    }

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case FromAgent inbound:
                OnAgent(inbound);
                break;
            case SessionAccepted accepted:
                OnAccepted(accepted);
                break;
            case SessionConfirmed confirmed:
                _hostHeardAt = Now;
                if (confirmed.Lease is { } lease)
                {
                    _leased = true;
                    Send(new SchedulerMessage { Lease = lease });
                }
                break;
            case SessionSend send:
                Send(send.Message);
                if (send.Message.ReportAck is { } ack)
                    _reports.Leave(ack.VmId, ack.Epoch, ack.Sequence);
                break;
            case SessionEnded ended:
                End(ended.Problem.Code, ended.Problem.Message);
                break;
            case StreamEnded ended:
                Close(ended.Detail);
                break;
            case ConsoleRequest request:
                _consoles.Open(request, Sender);
                break;
            case ConsoleGrant grant:
                _consoles.Grant(grant, Sender);
                break;
            case ConsoleDone done:
                _consoles.Done(done.StreamId, Sender);
                break;
            case GuestOpen open:
                _guests.Open(open, Sender);
                break;
            case GuestToHost frame:
                _guests.ToHost(frame.Frame, Sender);
                break;
            case ConsoleWrite write when !_input.TryEnter(write.VmId):
                Sender.Tell(new ConsoleRefused
                {
                    Problem = new Problem { Code = "console_busy", Message = "What was sent to this console before has not arrived at the guest's host yet. Send it again in a moment." },
                });
                break;
            case ConsoleWrite write:
                Send(new SchedulerMessage { ConsoleInput = new ConsoleInput { VmId = write.VmId, Data = write.Data } });
                Sender.Tell(new ConsoleWritten());
                break;
            case ReadLimiters read:
                Sender.Tell(new LimitersRead { Limiters = { _figures.Of(HostId, read.VmId) }, Use = _figures.UseOf(HostId, read.VmId) });
                break;
            case Terminated terminated when terminated.ActorRef.Equals(_host):
                // It moved or restarts: where it is now the region knows.
                _host = _hosts;
                break;
            case Terminated terminated:
                _consoles.ReaderGone(terminated.ActorRef);
                _guests.ClientGone(terminated.ActorRef);
                break;
            case SendHello:
                TellHello();
                break;
            case Tick:
                OnTick();
                break;
            default:
                Unhandled(message);
                break;
        }
    }

    private void OnAgent(FromAgent inbound)
    {
        _agentHeardAt = Now;
        var message = inbound.Message;
        if (message.BodyCase == HostMessage.BodyOneofCase.Hello ? _hello is not null : !_open)
        {
            inbound.Done();
            End("invalid_message", _hello is null ? "The first message must be Hello." : "Hello may come once, and nothing before Welcome.");
            return;
        }
        switch (message.BodyCase)
        {
            case HostMessage.BodyOneofCase.Hello:
                _hello = message.Hello;
                TellHello();
                break;
            case HostMessage.BodyOneofCase.Heartbeat:
                // The lease is the answer. Where none came for the last beat (there is none, or the host's actor moves) the agent hears that the stream lives.
                if (!_leased)
                    Send(new SchedulerMessage { Heartbeat = new HeartbeatAck { Sequence = message.Heartbeat.Sequence } });
                _leased = false;
                var alive = new SessionAlive { HostId = HostId, Sequence = message.Heartbeat.Sequence };
                if (message.Heartbeat.HasHeard)
                    alive.Heard = message.Heartbeat.Heard;
                _host.Tell(alive);
                _asked = true;
                break;
            case HostMessage.BodyOneofCase.Report:
                // Holds its place in the window until the microVM has stored it: that is the agent's backpressure.
                _reports.Enter(message.Report, inbound, _agentHeardAt);
                _hosts.Tell(new SessionReport { HostId = HostId, Report = message.Report });
                return;
            case HostMessage.BodyOneofCase.Console:
                if (_consoles.Chunk(message.Console) is { } wrong)
                    End("invalid_message", wrong);
                break;
            case HostMessage.BodyOneofCase.GuestFrame:
                if (_guests.FromHost(message.GuestFrame) is { } unfit)
                    End("invalid_message", unfit);
                break;
            case HostMessage.BodyOneofCase.InputTaken:
                _input.Leave(message.InputTaken.VmId, message.InputTaken.Messages);
                break;
            case HostMessage.BodyOneofCase.Limiters:
                _figures.Put(HostId, this, message.Limiters.Limiters);
                break;
            case HostMessage.BodyOneofCase.Usage:
                _figures.Put(HostId, this, message.Usage);
                _hosts.Tell(new SessionUsage { HostId = HostId, Sample = message.Usage });
                break;
            case HostMessage.BodyOneofCase.Pressure:
                _figures.Put(HostId, this, message.Pressure);
                _hosts.Tell(new SessionPressure { HostId = HostId, Pressure = message.Pressure });
                break;
            case HostMessage.BodyOneofCase.Images:
                _hosts.Tell(new SessionImages { HostId = HostId, Images = message.Images });
                break;
            case HostMessage.BodyOneofCase.Volumes:
                _hosts.Tell(new SessionVolumes { HostId = HostId, Volumes = message.Volumes });
                break;
            case HostMessage.BodyOneofCase.VolumeDone:
                _hosts.Tell(new SessionVolumeDone { HostId = HostId, Done = message.VolumeDone });
                break;
            case HostMessage.BodyOneofCase.Goodbye:
                Close(message.Goodbye.Reason.Length == 0 ? "The agent said goodbye." : $"The agent said goodbye: {message.Goodbye.Reason}");
                break;
        }
        inbound.Done();
    }

    private void TellHello()
    {
        _hosts.Tell(new SessionOpened { HostId = HostId, Hello = _hello, Enrolment = _enrolment });
        Timers.StartSingleTimer(SendHello.Instance, SendHello.Instance, HelloRetry);
    }

    private void OnAccepted(SessionAccepted accepted)
    {
        Timers.Cancel(SendHello.Instance);
        _hostHeardAt = Now;
        if (_open)
            return;
        _open = true;
        if (_hello!.Pressure is { } pressure)
            _figures.Put(HostId, this, pressure);
        _host = Context.Watch(Sender);
        // The agent begins to beat with Welcome.
        _agentHeardAt = _hostHeardAt;
        Send(new SchedulerMessage { Welcome = accepted.Welcome });
    }

    private void OnTick()
    {
        var now = Now;
        _reports.LeaveOlderThan(now - _options.HostDeadAfter);
        if (!_open && now - _startedAt > (_hello is null ? _options.HostDeadAfter : _options.AskTimeout))
        {
            End(
                _hello is null ? "no_hello" : "unavailable",
                _hello is null ? "No Hello came." : "The control plane could not take the host in time; dial again.");
        }
        else if (_open && now - _agentHeardAt > _options.HostDeadAfter)
        {
            End("silent", $"Nothing came from the agent for {_options.HostDeadAfter}; dial again.");
        }
        else if (_open && now - _hostHeardAt > _options.HostDeadAfter)
        {
            End("unavailable", "The control plane lost the host's actor; dial again.");
        }
        else if (_open && !_asked)
        {
            _host.Tell(new SessionAlive { HostId = HostId });
        }
        _asked = false;
    }

    private void Send(SchedulerMessage message)
    {
        // Full means that the agent has not read hundreds of messages: what is lost is sent again after it has dialled anew.
        if (!_toAgent.TryWrite(message))
            Close("The agent does not read what it is sent.");
    }

    private void End(string code, string message)
    {
        _log.Info("The stream of host {HostId} ends: {Message}", HostId, message);
        _toAgent.TryWrite(new SchedulerMessage { Refusal = new Refusal { Code = code, Message = message } });
        Close(message);
    }

    private void Close(string detail)
    {
        if (_hello is not null)
            _hosts.Tell(new SessionClosed { HostId = HostId, Detail = detail });
        _toAgent.TryComplete();
        Context.Stop(Self);
    }
}
