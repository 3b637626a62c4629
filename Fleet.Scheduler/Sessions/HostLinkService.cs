using System.Threading.Channels;
using Akka.Actor;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Grpc.Core;

namespace Fleet.Scheduler.Sessions;

/// <summary>
/// Where agents dial in: carries messages between a gRPC stream and a <see cref="HostSession"/>, both ways within bounds.
/// Knows nothing of microVMs.
/// </summary>
public sealed class HostLinkService : HostLink.HostLinkBase
{
    /// <summary>Messages that wait for a slow agent before its stream is cut. They are small: orders, acknowledgements.</summary>
    private const int OutboundSize = 4096;

    /// <summary>Of one address, or one host that has joined, within a minute.</summary>
    private const int LoggedRefusals = 20;

    private readonly RefusalLimit _refusals;
    private readonly CellOptions _options;
    private readonly IActorRef _sessions;

    internal HostLinkService(CellOptions options, IActorRef sessions)
    {
        _options = options;
        _refusals = new RefusalLimit(LoggedRefusals, options.Clock);
        _sessions = sessions;
    }

    /// <inheritdoc/>
    public override async Task Connect(
        IAsyncStreamReader<HostMessage> requestStream,
        IServerStreamWriter<SchedulerMessage> responseStream,
        ServerCallContext context)
    {
        ArgumentNullException.ThrowIfNull(requestStream);
        ArgumentNullException.ThrowIfNull(responseStream);
        ArgumentNullException.ThrowIfNull(context);
        var peer = LinkPeer.Of(context);
        if (peer.Holder is not { } host)
        {
            if (_refusals.Note(EnrolmentService.Address(context.Peer)))
                _options.Log.Warning("An agent at {Peer} was refused: {Code}, {Reason}", context.Peer, peer.Code, peer.Message);
            await responseStream.WriteAsync(new SchedulerMessage { Refusal = new Refusal { Code = peer.Code, Message = peer.Message } }).ConfigureAwait(false);
            return;
        }
        // The agent says Hello when it has heard this: one that hears nothing any more would be granted a lease that it never gets.
        await context.WriteResponseHeadersAsync([]).ConfigureAwait(false);
        var toAgent = Channel.CreateBounded<SchedulerMessage>(
            // Written out by whoever has something to send: another thread would have to be woken for it.
            new BoundedChannelOptions(OutboundSize) { SingleReader = true, AllowSynchronousContinuations = true });
        using var end = CancellationTokenSource.CreateLinkedTokenSource(context.CancellationToken);
        using var window = new InboundWindow();
        var session = await OpenAsync(toAgent.Writer, host.Enrolment).ConfigureAwait(false);
        var reading = ReadAsync(requestStream, host.Name, session, toAgent.Writer, window, end.Token);
        try
        {
            await WriteAsync(responseStream, toAgent.Reader, end.Token).ConfigureAwait(false);
        }
        finally
        {
            // Both halves end together: the session may have closed the channel, or the agent may be gone.
            session.Tell(new StreamEnded("The stream ended."));
            await end.CancelAsync().ConfigureAwait(false);
            await reading.ConfigureAwait(false);
            // The session gives back every place of the window; it must be gone before the window is.
            await session.WatchAsync().WaitAsync(_options.AskTimeout).ConfigureAwait(false);
        }
    }

    private async Task<IActorRef> OpenAsync(ChannelWriter<SchedulerMessage> toAgent, uint enrolment)
    {
        var answer = await _sessions.Ask<SessionStarted>(new StartSession(toAgent, enrolment), _options.AskTimeout).ConfigureAwait(false);
        return answer.Session
            ?? throw new RpcException(new Grpc.Core.Status(StatusCode.ResourceExhausted, $"This node serves {_options.SessionsPerNode} agents already."));
    }

    private async Task ReadAsync(
        IAsyncStreamReader<HostMessage> fromAgent,
        string hostId,
        IActorRef session,
        ChannelWriter<SchedulerMessage> toAgent,
        InboundWindow window,
        CancellationToken end)
    {
        var detail = "The agent closed the stream.";
        try
        {
            while (await fromAgent.MoveNext(end).ConfigureAwait(false))
            {
                var message = fromAgent.Current;
                HostMessageRules.Shorten(message);
                if (HostMessageRules.Check(message) is { } wrong)
                {
                    session.Tell(new SessionEnded { Problem = new Problem { Code = "invalid_message", Message = wrong } });
                    return;
                }
                if (message.Hello is { } hello && hello.HostId != hostId)
                {
                    if (_refusals.Note(hostId))
                        _options.Log.Warning("The agent of host {HostId} was refused: it said that it is {Other}", hostId, hello.HostId);
                    session.Tell(new SessionEnded { Problem = new Problem { Code = "host_mismatch", Message = $"The certificate is of host {hostId}, and the agent speaks for {hello.HostId}." } });
                    return;
                }
                await window.EnterAsync(end).ConfigureAwait(false);
                session.Tell(new FromAgent(message, window));
            }
        }
        catch (Exception fault) when (fault is OperationCanceledException or IOException or RpcException or InvalidOperationException)
        {
            detail = "The stream broke off.";
        }
        session.Tell(new StreamEnded(detail));
        toAgent.TryComplete();
    }

    private static async Task WriteAsync(
        IServerStreamWriter<SchedulerMessage> responseStream,
        ChannelReader<SchedulerMessage> toAgent,
        CancellationToken end)
    {
        try
        {
            await foreach (var message in toAgent.ReadAllAsync(end).ConfigureAwait(false))
                await responseStream.WriteAsync(message, end).ConfigureAwait(false);
        }
        catch (Exception fault) when (fault is OperationCanceledException or IOException or RpcException or InvalidOperationException)
        {
            // The agent is gone; the session hears it from our caller, and the agent will dial again.
        }
    }
}

/// <summary>Starts a session that sends to this channel.</summary>
/// <param name="ToAgent">Where to.</param>
/// <param name="Enrolment">Of the certificate that the agent showed.</param>
internal sealed record StartSession(ChannelWriter<SchedulerMessage> ToAgent, uint Enrolment) : INoSerializationVerificationNeeded;

/// <summary>Null: there are too many.</summary>
internal sealed record SessionStarted(IActorRef? Session) : INoSerializationVerificationNeeded;

/// <summary>Parent of this node's sessions. One that fails is stopped, not restarted: its stream is gone, the agent dials again.</summary>
internal sealed class SessionsActor(CellOptions options, IActorRef hosts, HostFigures figures) : UntypedActor, IWithTimers
{
    public ITimerScheduler Timers { get; set; } = null!;

    protected override SupervisorStrategy SupervisorStrategy() => new OneForOneStrategy(_ => Directive.Stop);

    protected override void PreStart() => Timers.StartPeriodicTimer(HostSession.Tick.Instance, HostSession.Tick.Instance, options.Heartbeat);

    protected override void OnReceive(object message)
    {
        if (message is HostSession.Tick)
        {
            foreach (var child in Context.GetChildren())
                child.Tell(message);
            return;
        }
        if (message is not StartSession start)
        {
            Unhandled(message);
            return;
        }
        var session = Context.GetChildren().Count() < options.SessionsPerNode
            ? Context.ActorOf(ActorProps.Of(() => new HostSession(options, hosts, start.ToAgent, start.Enrolment, figures)))
            : null;
        Sender.Tell(new SessionStarted(session));
    }
}
