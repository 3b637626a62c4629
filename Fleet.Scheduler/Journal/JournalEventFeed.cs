using System.Runtime.CompilerServices;
using Akka.Actor;
using Fleet.Scheduler.Cell;
using Google.Protobuf;

namespace Fleet.Scheduler.Journal;

/// <summary>
/// The events of microVMs and hosts in the order of the journal, without end. A read that breaks off (a busy disk, a database that restarts)
/// goes on after the last event that was handed out, so none is skipped and none comes twice.
/// </summary>
/// <remarks>
/// Rows have numbers that rise. Where several nodes write, a row may become visible after one with a higher number: its number is taken when
/// its transaction begins to write and shows when that ends. So a gap is passed only when every transaction that could still fill it has
/// ended (<see cref="CellJournal.MarkAsync"/>), however long that takes; a wait for a fixed time, as Akka.Persistence.Sql's read journal has it,
/// would skip what a stalled node commits later. What sharding stores for itself is left out.
/// </remarks>
internal sealed class JournalEventFeed(ActorSystem system, CellJournal journal, TimeProvider clock, Serilog.ILogger log) : IEventFeed
{
    private const int RowsAtOnce = 500;

    /// <summary>How far a list may be behind an acknowledged change. Half of it doubles what an idle node costs.</summary>
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(100);

    private static readonly TimeSpan LongestPause = TimeSpan.FromSeconds(5);

    /// <summary>One read that breaks off is no trouble yet.</summary>
    private static readonly TimeSpan TroubleAfter = TimeSpan.FromSeconds(5);

    /// <summary>A writer of Fleet's own has ended by then, well or not (PostgresDatabase bounds it).</summary>
    private static readonly TimeSpan GapTroubleAfter = TimeSpan.FromSeconds(15);

    private long _failingSince;
    private volatile string? _fault;

    /// <summary>Since when nothing could be taken of what is there, for a gap before it; 0: there is nothing, or it was taken.</summary>
    private long _waitingSince;

    /// <inheritdoc/>
    public string? Trouble =>
        _fault is { } fault && clock.GetElapsedTime(Volatile.Read(ref _failingSince)) > TroubleAfter ? $"The journal can't be read: {fault}"
        : Volatile.Read(ref _waitingSince) is not 0 and var since && clock.GetElapsedTime(since) is var waited && waited > GapTroubleAfter
            ? $"Lists and watches have stood still for {waited.TotalSeconds:0} s: a transaction is open in the database server, and until it ends nobody knows what it will still write. Find it (pg_stat_activity, pg_prepared_xacts) and end it."
        : null;

    public async IAsyncEnumerable<JournalEvent> ReadAsync(long after, [EnumeratorCancellation] CancellationToken cancellation)
    {
        var window = new SettledWindow(after);
        var pause = Pause;
        while (true)
        {
            cancellation.ThrowIfCancellationRequested();
            IReadOnlyList<StoredRow> rows;
            try
            {
                rows = await ReadSettledAsync(window, cancellation).ConfigureAwait(false);
                pause = Pause;
                _fault = null;
            }
            catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
            {
                throw;
            }
            catch (Exception fault) when (!system.WhenTerminated.IsCompleted)
            {
                if (_fault is null)
                    Volatile.Write(ref _failingSince, clock.GetTimestamp());
                _fault = fault.Message;
                log.Warning(fault, "Reading the journal broke off; it goes on after event {Offset}", window.Last);
                rows = [];
                pause = pause * 2 < LongestPause ? pause * 2 : LongestPause;
            }
            foreach (var row in rows)
            {
                if (IsOurs(row.Row.PersistenceId))
                    yield return ToEvent(row);
            }
            if (rows.Count < RowsAtOnce)
                await Task.Delay(pause, cancellation).ConfigureAwait(false);
        }
    }

    public async IAsyncEnumerable<JournalEvent> ReadOneAsync(string persistenceId, long after, int most, [EnumeratorCancellation] CancellationToken cancellation)
    {
        List<StoredRow> rows;
        await using (var connection = await journal.ConnectAsync(cancellation).ConfigureAwait(false))
            rows = await JournalTable.ReadOneAsync(connection, persistenceId, after, long.MaxValue, most, cancellation).ConfigureAwait(false);
        foreach (var row in rows)
            yield return ToEvent(row);
    }

    public async Task<long> EndAsync(CancellationToken cancellation)
    {
        await using var connection = await journal.ConnectAsync(cancellation).ConfigureAwait(false);
        await using var command = connection.CreateCommand();
        // Walks back over what sharding stored for itself.
        command.CommandText = "select ordering from journal where substr(persistence_id, 1, 3) = @vm or substr(persistence_id, 1, 5) = @host order by ordering desc limit 1";
        JournalTable.Add(command, "@vm", PersistenceIds.VmPrefix);
        JournalTable.Add(command, "@host", PersistenceIds.HostPrefix);
        return await command.ExecuteScalarAsync(cancellation).ConfigureAwait(false) is long end ? end : 0;
    }

    public async Task<JournalEvent?> FindAsync(long offset, CancellationToken cancellation)
    {
        await using var connection = await journal.ConnectAsync(cancellation).ConfigureAwait(false);
        var rows = await JournalTable.ReadAsync(connection, offset - 1, 1, cancellation).ConfigureAwait(false);
        return rows is [var row] && row.Offset == offset && IsOurs(row.Row.PersistenceId) ? ToEvent(row) : null;
    }

    /// <summary>The rows that may be handed out now, in order; the window has moved behind them.</summary>
    private async Task<IReadOnlyList<StoredRow>> ReadSettledAsync(SettledWindow window, CancellationToken cancellation)
    {
        await using var connection = await journal.ConnectAsync(cancellation).ConfigureAwait(false);
        if (window.Mark is { } mark && await journal.IsPastAsync(connection, mark, cancellation).ConfigureAwait(false))
            window.MarkIsPast();
        var rows = await JournalTable.ReadAsync(connection, window.Last, RowsAtOnce, cancellation).ConfigureAwait(false);
        var settled = window.Take([.. rows.Select(row => row.Offset)]);
        if (settled < rows.Count && window.Mark is null)
        {
            // Made after the rows were read: who took a number below theirs did so before they became visible.
            if (await journal.MarkAsync(connection, cancellation).ConfigureAwait(false) is { } made)
                window.Marked(made, rows[^1].Offset);
            else
                settled = window.TakeAll([.. rows.Select(row => row.Offset)]);
        }
        if (settled == rows.Count)
            Volatile.Write(ref _waitingSince, 0);
        else if (settled > 0 || Volatile.Read(ref _waitingSince) == 0)
            Volatile.Write(ref _waitingSince, clock.GetTimestamp());
        return settled == rows.Count ? rows : rows.GetRange(0, settled);
    }

    private JournalEvent ToEvent(StoredRow stored) =>
        new(stored.Offset, stored.Row.PersistenceId, stored.Row.SequenceNr, (IMessage)system.Serialization.Deserialize(stored.Row.Message, stored.Row.Serializer, stored.Row.Manifest));

    private static bool IsOurs(string persistenceId) =>
        persistenceId.StartsWith(PersistenceIds.VmPrefix, StringComparison.Ordinal)
        || persistenceId.StartsWith(PersistenceIds.HostPrefix, StringComparison.Ordinal);
}
