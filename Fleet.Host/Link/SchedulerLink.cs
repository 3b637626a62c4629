using Fleet.Host.Drivers.Processes;
using Fleet.Shared.Access;
using Fleet.Shared.Contracts;
using Grpc.Core;
using Grpc.Net.Client;
using Serilog;

namespace Fleet.Host.Link;

/// <summary>What the link tells and asks of the agent behind it.</summary>
internal interface ILinkOwner
{
    /// <summary>The first message of a stream: who this host is and every microVM it knows.</summary>
    Task<Hello> GreetAsync(CancellationToken cancellation);

    /// <summary>The stream is open and welcomed.</summary>
    /// <param name="session">The way out.</param>
    /// <param name="welcome">The control plane's first word.</param>
    /// <param name="helloAt">When Hello was made, on the boot clock.</param>
    void Up(LinkSession session, Welcome welcome, TimeSpan helloAt);

    /// <summary>A lease, and when the heartbeat was sent that it answers, on the boot clock.</summary>
    void Leased(Lease lease, TimeSpan askedAt);

    /// <summary>A message of the control plane. The next is read when the task is done: the owner's way to bound what waits for it.</summary>
    Task ReceiveAsync(SchedulerMessage message, CancellationToken cancellation);

    /// <summary>The stream is over; another will come.</summary>
    void Down(LinkSession session);
}

/// <summary>
/// Keeps one stream to the control plane: dials, says hello, beats, and dials again when the stream breaks or goes silent,
/// for as long as the agent lives.
/// </summary>
internal sealed class SchedulerLink : IAsyncDisposable
{
    private const int MissedBeats = 3;
    private const int MostWords = 512;
    private const int MostTold = 64;

    /// <summary>A launch carries one spec (at most 150,000 bytes), a Welcome some thousand ids.</summary>
    private const int LargestMessage = 1 << 20;

    private static readonly TimeSpan ShortestPause = TimeSpan.FromMilliseconds(200);
    private static readonly TimeSpan LongestPause = TimeSpan.FromSeconds(5);

    /// <summary>A machine that is off does not refuse: the next node must be asked well within a lease.</summary>
    private static readonly TimeSpan ConnectLimit = TimeSpan.FromSeconds(3);

    private static readonly TimeSpan WelcomeLimit = TimeSpan.FromSeconds(15);
    private static readonly TimeSpan FarewellLimit = TimeSpan.FromSeconds(2);

    private readonly ILinkOwner _owner;
    private readonly TimeProvider _clock;
    private readonly ILogger _log;
    private readonly IReadOnlyList<(Uri Address, GrpcChannel Channel)> _nodes;
    private readonly CancellationTokenSource _stopping = new();
    private readonly Task _running;
    private volatile LinkSession? _open;
    private volatile bool _leaving;

    private static readonly TimeSpan ConnectionLife = TimeSpan.FromHours(1);

    private readonly HashSet<string> _told = [];

    private int _node;

    /// <param name="addresses">Of the control plane's nodes. Which of them it is does not matter; after each stream that ends the next is dialled.</param>
    /// <param name="credentials">What the host shows.</param>
    /// <param name="owner">The agent behind it.</param>
    /// <param name="clock">Times heartbeats and pauses.</param>
    /// <param name="log">Where trouble is told.</param>
    public SchedulerLink(IReadOnlyList<Uri> addresses, LinkCredentials credentials, ILinkOwner owner, TimeProvider clock, ILogger log)
    {
        _owner = owner;
        _clock = clock;
        _log = log.ForContext<SchedulerLink>();
        _nodes = [.. addresses.Select(address => (address, GrpcChannel.ForAddress(address, new GrpcChannelOptions
        {
            MaxReceiveMessageSize = LargestMessage,
            HttpHandler = new SocketsHttpHandler
            {
                UseProxy = false,
                ConnectTimeout = ConnectLimit,
                KeepAlivePingDelay = TimeSpan.FromSeconds(20),
                // A certificate is shown once per connection, and would be an old one for ever. A stream that is open goes on.
                PooledConnectionLifetime = ConnectionLife,
                SslOptions = CellTls.To(credentials.Authority, clock, () => credentials.Certificate),
            },
            DisposeHttpClient = true,
        })))];
        // Hosts that were given the same words spread over the nodes.
        _node = Random.Shared.Next(_nodes.Count);
        _running = Task.Run(RunAsync);
    }

    /// <summary>Says goodbye and ends the stream, within a bounded time.</summary>
    public async ValueTask DisposeAsync()
    {
        _leaving = true;
        if (_open is { } session && session.TrySend(new HostMessage { Goodbye = new Goodbye { Reason = "The agent ends; its microVMs go on." } }))
        {
            session.Complete();
            await _running.WaitAsync(FarewellLimit).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }

        await _stopping.CancelAsync().ConfigureAwait(false);
        await _running.ConfigureAwait(false);
        foreach (var (_, channel) in _nodes)
            channel.Dispose();
        _stopping.Dispose();
    }

    private async Task RunAsync()
    {
        var pause = ShortestPause;
        while (!_leaving)
        {
            var since = _clock.GetTimestamp();
            var problem = await TryStreamAsync().ConfigureAwait(false);
            if (_leaving)
                return;
            var address = _nodes[_node].Address;
            _node = (_node + 1) % _nodes.Count;

            // Said once for each kind of trouble, not once a second all night.
            if (_told.Count < MostTold && _told.Add($"{address} {problem}"))
                _log.Warning("No link to the control plane at {Address}: {Problem:l}. Trying {Next}", address, problem, _nodes.Count > 1 ? $"{_nodes[_node].Address}" : "again until it answers");
            if (_clock.GetElapsedTime(since) > LongestPause)
                pause = ShortestPause;
            var jittered = pause * (0.5 + Random.Shared.NextDouble() / 2);
            await Task.Delay(jittered, _clock, _stopping.Token).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            pause = pause * 2 < LongestPause ? pause * 2 : LongestPause;
        }
    }

    /// <summary>One stream; whatever it ends with, the next is dialled.</summary>
    private async Task<string> TryStreamAsync()
    {
        try
        {
            return await StreamAsync().ConfigureAwait(false);
        }
        catch (Exception cut) when (cut is OperationCanceledException or RpcException { StatusCode: StatusCode.Cancelled })
        {
            return "the stream went silent or was not welcomed in time";
        }
        catch (RpcException failed)
        {
            return Clean(LinkFault.Describe(failed));
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            return Clean(failed.Message);
        }
    }

    /// <summary>One stream, from dialling to its end; the reason of its end.</summary>
    private async Task<string> StreamAsync()
    {
        using var stream = CancellationTokenSource.CreateLinkedTokenSource(_stopping.Token);
        using var call = new HostLink.HostLinkClient(_nodes[_node].Channel).Connect(cancellationToken: stream.Token);
        TimeSpan helloAt;
        using (var limit = new CancellationTokenSource(WelcomeLimit, _clock))
        await using (limit.Token.Register(stream.Cancel))
        {
            // What does not hear says nothing: Hello is answered by a lease that counts whether it arrives or not.
            await call.ResponseHeadersAsync.WaitAsync(stream.Token).ConfigureAwait(false);
            helloAt = Posix.BootTime;
            try
            {
                await call.RequestStream.WriteAsync(new HostMessage { Hello = await _owner.GreetAsync(stream.Token).ConfigureAwait(false) }, stream.Token).ConfigureAwait(false);
            }
            catch (Exception over) when (over is InvalidOperationException or RpcException { StatusCode: not StatusCode.Cancelled })
            {
                // Refused already: it is in the stream why.
            }
            if (!await call.ResponseStream.MoveNext(stream.Token).ConfigureAwait(false))
                return "the control plane closed the stream without a word";
        }

        var first = call.ResponseStream.Current;
        if (first.BodyCase == SchedulerMessage.BodyOneofCase.Refusal)
            return Refused(first.Refusal);
        if (first.BodyCase != SchedulerMessage.BodyOneofCase.Welcome)
            return $"the control plane began with {first.BodyCase} instead of Welcome";

        var session = new LinkSession(stream);
        var beat = TimeSpan.FromMilliseconds(Math.Clamp(first.Welcome.HeartbeatMs, 100, 60_000));
        var heard = new LastHeard(_clock);
        var beats = new SentBeats(helloAt);
        _owner.Up(session, first.Welcome, helloAt);
        _open = session;
        _told.Clear();
        _log.Information("Linked to the control plane at {Address}", _nodes[_node].Address);
        var writing = WriteAsync(call.RequestStream, session, stream);
        var beating = BeatAsync(session, beat, heard, beats, stream);
        try
        {
            while (await call.ResponseStream.MoveNext(stream.Token).ConfigureAwait(false))
            {
                heard.Now();
                var message = call.ResponseStream.Current;
                switch (message.BodyCase)
                {
                    case SchedulerMessage.BodyOneofCase.Refusal:
                        return Refused(message.Refusal);
                    case SchedulerMessage.BodyOneofCase.Heartbeat or SchedulerMessage.BodyOneofCase.None or SchedulerMessage.BodyOneofCase.Welcome:
                        break;
                    case SchedulerMessage.BodyOneofCase.Lease:
                        beats.Heard = message.Lease.Sequence;
                        if (beats.Of(message.Lease.Sequence) is { } askedAt)
                            _owner.Leased(message.Lease, askedAt);
                        break;
                    default:
                        await _owner.ReceiveAsync(message, stream.Token).ConfigureAwait(false);
                        break;
                }
            }

            return "the control plane ended the stream";
        }
        finally
        {
            _open = null;
            session.Complete();
            await stream.CancelAsync().ConfigureAwait(false);
            await Task.WhenAll(writing, beating).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            _owner.Down(session);
        }
    }

    private static async Task WriteAsync(IClientStreamWriter<HostMessage> stream, LinkSession session, CancellationTokenSource ends)
    {
        try
        {
            await foreach (var message in session.ReadAllAsync(ends.Token).ConfigureAwait(false))
                await stream.WriteAsync(message, ends.Token).ConfigureAwait(false);
            await stream.CompleteAsync().ConfigureAwait(false);
        }
        catch (Exception broken) when (broken is not OutOfMemoryException)
        {
            // The reading side sees the same end and tells why.
            await ends.CancelAsync().ConfigureAwait(false);
        }
    }

    private async Task BeatAsync(LinkSession session, TimeSpan beat, LastHeard heard, SentBeats beats, CancellationTokenSource ends)
    {
        using var timer = new PeriodicTimer(beat, _clock);
        try
        {
            for (ulong sequence = 1; await timer.WaitForNextTickAsync(ends.Token).ConfigureAwait(false); sequence++)
            {
                beats.Note(sequence, Posix.BootTime);
                session.TrySend(new HostMessage { Heartbeat = new Heartbeat { Sequence = sequence, Heard = beats.Heard } });
                if (heard.Silence > beat * MissedBeats)
                    await ends.CancelAsync().ConfigureAwait(false);
            }
        }
        catch (OperationCanceledException)
        {
            // The stream is over.
        }
    }

    private static string Refused(Refusal refusal) => Clean($"refused: {refusal.Message} ({refusal.Code})");

    /// <summary>Words from outside for a log: on one line, and not too many.</summary>
    private static string Clean(string words)
    {
        var cut = words.Length <= MostWords ? words : words[..MostWords];
        return string.Concat(cut.Select(c => char.IsControl(c) ? '?' : c)).TrimEnd('.');
    }

    /// <summary>When the control plane was heard last.</summary>
    private sealed class LastHeard(TimeProvider clock)
    {
        private long _at = clock.GetTimestamp();

        public TimeSpan Silence => clock.GetElapsedTime(Interlocked.Read(ref _at));

        public void Now() => Interlocked.Exchange(ref _at, clock.GetTimestamp());
    }
}
