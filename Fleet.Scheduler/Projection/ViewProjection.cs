using System.Threading.Channels;
using Fleet.Scheduler.Cell;
using Microsoft.Data.Sqlite;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Projection;

/// <summary>
/// Reads the journal's events into the view and tells who waits for changes. Starts where it left off. What goes
/// wrong is logged and tried again from the last committed event; <see cref="Trouble"/> says so to the health check.
/// </summary>
internal sealed class ViewProjection : IAsyncDisposable
{
    // Large enough to make a commit cheap per event, small enough that a batch is well under 100 ms.
    private const int BatchSize = 500;
    private const int Ahead = 2 * BatchSize;
    private static readonly TimeSpan LongestRetry = TimeSpan.FromSeconds(5);

    private readonly ViewWriter _writer;
    private readonly IEventFeed _feed;
    private readonly Func<IReadOnlyList<string>, CancellationToken, Task> _deleted;
    private readonly TimeProvider _clock;
    private readonly ILogger _log;
    private readonly string _connectionString;
    private readonly CancellationTokenSource _stop = new();
    private readonly TaskCompletionSource _caughtUp = NewSignal();
    private TaskCompletionSource _changed = NewSignal();
    private Task _running = Task.CompletedTask;
    private volatile string? _trouble;

    /// <param name="options">Where the view is and how much it keeps.</param>
    /// <param name="feed">The journal's events.</param>
    /// <param name="deleted">Told of microVMs that are gone, after the view shows it; may be told twice.</param>
    /// <param name="clock">Paces retries and bounds waits.</param>
    /// <param name="log">Where trouble is told.</param>
    /// <exception cref="SqliteException">The view's file can't be opened or is not a database.</exception>
    public ViewProjection(ViewOptions options, IEventFeed feed,
        Func<IReadOnlyList<string>, CancellationToken, Task> deleted, TimeProvider clock, ILogger log)
    {
        _connectionString = new SqliteConnectionStringBuilder { DataSource = options.File }.ToString();
        _feed = feed;
        _deleted = deleted;
        _clock = clock;
        _log = log;
        _writer = new ViewWriter(_connectionString, options.ChangesKept, options.ChangeBytesKept, log);
        Reader = new ViewReader(_connectionString);
        Freshness = new Freshness(Reader.VersionOf, clock);
    }

    public ViewReader Reader { get; }

    public Freshness Freshness { get; }

    /// <summary>The last event in the view.</summary>
    public long Index => Volatile.Read(ref _index);
    private long _index;

    /// <summary>Why the view does not follow the journal at the moment, or null.</summary>
    public string? Trouble => _trouble;

    /// <summary>Completes at the next change of the view. Take it before reading, so that nothing falls in between.</summary>
    public Task NextChange => Volatile.Read(ref _changed).Task;

    /// <summary>Completes when the view shows everything that was stored when the projection started.</summary>
    public Task CaughtUp => _caughtUp.Task;

    /// <summary>What <see cref="CaughtUp"/> waits for.</summary>
    public long Target { get; private set; }

    public async Task StartAsync(CancellationToken cancellation)
    {
        Target = await _feed.EndAsync(cancellation);
        // One that was put back from a backup goes on otherwise than the view has it, or not so far.
        if (_writer.Offset > 0 && !_writer.EndsWith(await _feed.FindAsync(_writer.Offset, cancellation)))
        {
            _log.LogWarning("Event {Offset}, the last that the view has, is another in the journal, or not there: the view is built anew from the journal", _writer.Offset);
            _writer.BeginAnew();
        }
        Volatile.Write(ref _index, _writer.Offset);
        if (_writer.Offset >= Target)
            _caughtUp.TrySetResult();
        _running = Task.Run(RunAsync, CancellationToken.None);
    }

    public async ValueTask DisposeAsync()
    {
        await _stop.CancelAsync();
        await _running;
        _writer.Dispose();
        using (var connection = new SqliteConnection(_connectionString))
            SqliteConnection.ClearPool(connection);
        _stop.Dispose();
    }

    private async Task RunAsync()
    {
        var retry = TimeSpan.Zero;
        while (!_stop.IsCancellationRequested)
        {
            var before = _writer.Offset;
            try
            {
                await FollowAsync();
                _trouble = "The event feed ended.";
            }
            catch (OperationCanceledException) when (_stop.IsCancellationRequested)
            {
                return;
            }
            catch (Exception fault)
            {
                _trouble = fault.Message;
                _log.LogError(fault, "The projection stopped at offset {Offset} and starts again there", _writer.Offset);
            }
            retry = _writer.Offset > before || retry == TimeSpan.Zero ? TimeSpan.FromMilliseconds(100) : Min(retry * 2, LongestRetry);
            try
            {
                await Task.Delay(retry, _clock, _stop.Token);
            }
            catch (OperationCanceledException)
            {
                return;
            }
        }
    }

    private async Task FollowAsync()
    {
        using var ending = CancellationTokenSource.CreateLinkedTokenSource(_stop.Token);
        var read = Channel.CreateBounded<JournalEvent>(new BoundedChannelOptions(Ahead) { SingleReader = true, SingleWriter = true });
        var pump = PumpAsync(read.Writer, _writer.Offset, ending.Token);
        try
        {
            var batch = new List<JournalEvent>(BatchSize);
            while (await read.Reader.WaitToReadAsync(ending.Token))
            {
                batch.Clear();
                while (batch.Count < BatchSize && read.Reader.TryRead(out var entry))
                    batch.Add(entry);
                await CommitAsync(batch);
            }
        }
        finally
        {
            await ending.CancelAsync();
            await pump;
        }
    }

    private async Task PumpAsync(ChannelWriter<JournalEvent> into, long after, CancellationToken cancellation)
    {
        try
        {
            await foreach (var entry in _feed.ReadAsync(after, cancellation))
                await into.WriteAsync(entry, cancellation);
            into.TryComplete();
        }
        catch (Exception fault)
        {
            // The reader of the channel hears it, and it alone decides what to do.
            into.TryComplete(fault);
        }
    }

    private async Task CommitAsync(IReadOnlyList<JournalEvent> batch)
    {
        var applied = _writer.Apply(batch);
        Volatile.Write(ref _index, applied.Index);
        _trouble = null;
        Freshness.Shown(applied.Versions);
        Interlocked.Exchange(ref _changed, NewSignal()).TrySetResult();
        if (applied.Index >= Target)
            _caughtUp.TrySetResult();
        if (applied.Deleted.Count == 0)
            return;
        try
        {
            await _deleted(applied.Deleted, _stop.Token);
        }
        catch (Exception fault) when (fault is not OperationCanceledException)
        {
            // Names of the dead are also freed when somebody asks for one: nothing is lost but a little time.
            _log.LogWarning(fault, "The names of {Count} deleted microVMs stay taken until they are asked for", applied.Deleted.Count);
        }
    }

    private static TimeSpan Min(TimeSpan a, TimeSpan b) => a < b ? a : b;

    private static TaskCompletionSource NewSignal() => new(TaskCreationOptions.RunContinuationsAsynchronously);
}

/// <param name="File">Path of the view's SQLite file.</param>
/// <param name="ChangesKept">Entries of the change log that are kept; who asks for older ones gets <c>compacted</c>.</param>
/// <param name="ChangeBytesKept">Bytes of records in the change log that are kept: specs may be large.</param>
internal sealed record ViewOptions(string File, int ChangesKept = 100_000, long ChangeBytesKept = 256 << 20);
