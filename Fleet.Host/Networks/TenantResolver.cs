using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using Serilog;

namespace Fleet.Host.Networks;

/// <summary>
/// The resolver of one tenant's network, on the host's addresses in it: <c>NAME</c> and <c>NAME.fleet</c> are its microVMs on this
/// host, everything else is asked of the host's own resolvers.
/// </summary>
/// <remarks>
/// Who asks is a guest, and hostile: so many questions at once and no more, each bounded in time and size; what comes on top is
/// dropped, and asked again by who meant it.
/// </remarks>
internal sealed class TenantResolver : IAsyncDisposable
{
    /// <summary>Of every microVM.</summary>
    public const string Domain = "fleet";

    private const int MostQuestions = 64;
    private const int MostStreams = 16;
    private static readonly TimeSpan StreamPatience = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan AfterFault = TimeSpan.FromMilliseconds(100);

    private readonly CancellationTokenSource _ending = new();
    private readonly ConcurrentDictionary<Task, byte> _work = new();
    private readonly SemaphoreSlim _questions = new(MostQuestions);
    private readonly SemaphoreSlim _streams = new(MostStreams);
    private readonly List<Socket> _sockets = [];
    private readonly Upstream _upstream;
    private readonly ILogger _log;
    private volatile Dictionary<string, (IPAddress Four, IPAddress Six)> _names = [];

    private TenantResolver(Upstream upstream, ILogger log) => (_upstream, _log) = (upstream, log);

    /// <summary>Listens on the addresses; without the IPv6 one where the machine has no IPv6.</summary>
    /// <exception cref="SocketException">The IPv4 address can't be had.</exception>
    public static TenantResolver Start(IPAddress address4, IPAddress address6, ILogger log) => Start(new IPEndPoint(address4, DnsMessage.Port), new IPEndPoint(address6, DnsMessage.Port), new Upstream(), log);

    internal static TenantResolver Start(IPEndPoint four, IPEndPoint? six, Upstream upstream, ILogger log)
    {
        var resolver = new TenantResolver(upstream, log);
        resolver.Listen(four);
        try
        {
            if (six is not null)
                resolver.Listen(six);
        }
        catch (SocketException absent)
        {
            log.Information("No resolver on {Address}: {Why:l}", six, absent.Message);
        }

        foreach (var socket in resolver._sockets)
            resolver.Track(socket.SocketType == SocketType.Dgram ? resolver.TakeDatagramsAsync(socket) : resolver.TakeStreamsAsync(socket));
        return resolver;
    }

    /// <summary>Where it listens for datagrams.</summary>
    internal IPEndPoint EndPoint => (IPEndPoint)_sockets[0].LocalEndPoint!;

    /// <summary>Who is there from now on. Of a name given twice, which a tenant can't, the first counts.</summary>
    public void Know(IEnumerable<Attachment> members)
    {
        var names = new Dictionary<string, (IPAddress, IPAddress)>(StringComparer.Ordinal);
        foreach (var one in members)
            names.TryAdd(one.Name, (one.Address4, one.Address6));
        _names = names;
    }

    public async ValueTask DisposeAsync()
    {
        await _ending.CancelAsync().ConfigureAwait(false);
        _sockets.ForEach(socket => socket.Dispose());
        while (!_work.IsEmpty)
            await Task.WhenAll(_work.Keys).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing | ConfigureAwaitOptions.ForceYielding);
        _questions.Dispose();
        _streams.Dispose();
        _ending.Dispose();
    }

    private void Listen(IPEndPoint point)
    {
        Socket? datagrams = null, streams = null;
        try
        {
            datagrams = new Socket(point.AddressFamily, SocketType.Dgram, ProtocolType.Udp);
            datagrams.Bind(point);
            streams = new Socket(point.AddressFamily, SocketType.Stream, ProtocolType.Tcp);
            streams.Bind(datagrams.LocalEndPoint!);
            streams.Listen(MostStreams);
        }
        catch
        {
            datagrams?.Dispose();
            streams?.Dispose();
            throw;
        }

        _sockets.AddRange([datagrams, streams]);
    }

    private async Task TakeDatagramsAsync(Socket socket)
    {
        var buffer = new byte[Upstream.LargestDatagram];
        EndPoint any = new IPEndPoint(socket.AddressFamily == AddressFamily.InterNetwork ? IPAddress.Any : IPAddress.IPv6Any, 0);
        while (!_ending.IsCancellationRequested)
        {
            try
            {
                var got = await socket.ReceiveFromAsync(buffer, any, _ending.Token).ConfigureAwait(false);
                if (!_questions.Wait(0))
                    continue;
                var query = buffer[..got.ReceivedBytes];
                Track(ReplyAsync(socket, query, got.RemoteEndPoint));
            }
            catch (SocketException fault)
            {
                await PauseAsync(fault).ConfigureAwait(false);
            }
            catch (Exception ended) when (ended is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
        }
    }

    private async Task ReplyAsync(Socket socket, byte[] query, EndPoint asker)
    {
        try
        {
            if (await AnswerAsync(query, byStream: false).ConfigureAwait(false) is { } answer)
                await socket.SendToAsync(answer, asker, _ending.Token).ConfigureAwait(false);
        }
        catch (Exception lost) when (lost is SocketException or OperationCanceledException or ObjectDisposedException)
        {
            // It asks again, or is gone.
        }
        finally
        {
            _questions.Release();
        }
    }

    private async Task TakeStreamsAsync(Socket listener)
    {
        while (!_ending.IsCancellationRequested)
        {
            try
            {
                await _streams.WaitAsync(_ending.Token).ConfigureAwait(false);
                try
                {
                    Track(ServeAsync(await listener.AcceptAsync(_ending.Token).ConfigureAwait(false)));
                }
                catch
                {
                    _streams.Release();
                    throw;
                }
            }
            catch (SocketException fault)
            {
                await PauseAsync(fault).ConfigureAwait(false);
            }
            catch (Exception ended) when (ended is OperationCanceledException or ObjectDisposedException)
            {
                return;
            }
        }
    }

    private async Task ServeAsync(Socket socket)
    {
        using var time = CancellationTokenSource.CreateLinkedTokenSource(_ending.Token);
        try
        {
            await using var stream = new NetworkStream(socket, ownsSocket: true);
            time.CancelAfter(StreamPatience);
            while (await Upstream.ReadAsync(stream, time.Token).ConfigureAwait(false) is { } query
                && await AnswerAsync(query, byStream: true).ConfigureAwait(false) is { } answer)
            {
                await Upstream.WriteAsync(stream, answer, time.Token).ConfigureAwait(false);
            }
        }
        catch (Exception lost) when (lost is IOException or SocketException or OperationCanceledException or ObjectDisposedException)
        {
            // Its connection, its loss.
        }
        finally
        {
            _streams.Release();
        }
    }

    /// <summary>Null: there is nothing to answer.</summary>
    private async Task<byte[]?> AnswerAsync(byte[] query, bool byStream)
    {
        if (DnsMessage.Parse(query) is not { } question)
            return null;
        var isOurs = question.Name == Domain || question.Name.EndsWith("." + Domain, StringComparison.Ordinal);
        var label = isOurs ? question.Name[..^Math.Min(question.Name.Length, Domain.Length + 1)] : question.Name;
        if (_names.TryGetValue(label, out var known))
        {
            return DnsMessage.Answer(query, question, DnsMessage.NoError, question.Type switch { DnsMessage.A => known.Four, DnsMessage.Aaaa => known.Six, _ => null });
        }

        // A bare name is nobody's elsewhere, and what a tenant calls its microVMs is told to nobody.
        if (isOurs || (question.Name.Length > 0 && !question.Name.Contains('.', StringComparison.Ordinal)))
            return DnsMessage.Answer(query, question, question.Name == Domain ? DnsMessage.NoError : DnsMessage.NoSuchName);
        return await _upstream.AskAsync(query, question, byStream, _ending.Token).ConfigureAwait(false)
            ?? DnsMessage.Answer(query, question, DnsMessage.ServerFailure);
    }

    private Task PauseAsync(SocketException fault)
    {
        _log.Warning("A tenant's resolver: {Why:l}", fault.Message);
        return Task.Delay(AfterFault, _ending.Token).ContinueWith(static _ => { }, TaskScheduler.Default);
    }

    private void Track(Task task)
    {
        if (task.IsCompleted)
            return;
        _work[task] = 0;
        _ = task.ContinueWith(static (done, all) => ((ConcurrentDictionary<Task, byte>)all!).TryRemove(done, out _), _work, TaskScheduler.Default);
    }
}
