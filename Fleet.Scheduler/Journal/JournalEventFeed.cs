using System.Runtime.CompilerServices;
using Akka.Actor;
using Akka.Persistence.Query;
using Akka.Persistence.Sql.Query;
using Akka.Streams;
using Akka.Streams.Dsl;
using Fleet.Scheduler.Cell;
using Google.Protobuf;

namespace Fleet.Scheduler.Journal;

/// <summary>
/// The events of microVMs and hosts in the order of the journal, without end. A read that breaks off (a busy disk) goes on after
/// the last event that was handed out, so none is skipped and none comes twice.
/// </summary>
/// <remarks>
/// The order is that of commits: one writer stores one batch after the other, and SQLite numbers rows in that order, so no event can
/// appear below one that was read. (With several writers the read journal waits for gaps to close.) What sharding stores for itself is left out.
/// </remarks>
internal sealed class JournalEventFeed(ActorSystem system, SqliteJournal file, Serilog.ILogger log) : IEventFeed
{
    private static readonly TimeSpan FirstPause = TimeSpan.FromMilliseconds(100);
    private static readonly TimeSpan LongestPause = TimeSpan.FromSeconds(5);

    private readonly Lazy<SqlReadJournal> _journal =
        new(() => PersistenceQuery.Get(system).ReadJournalFor<SqlReadJournal>(SqlReadJournal.Identifier));

    private readonly Lazy<IMaterializer> _materializer = new(() => system.Materializer());

    public async IAsyncEnumerable<JournalEvent> ReadAsync(long after, [EnumeratorCancellation] CancellationToken cancellation)
    {
        var last = after;
        var pause = FirstPause;
        while (!cancellation.IsCancellationRequested)
        {
            await using var events = _journal.Value
                .AllEvents(Offset.Sequence(last))
                .RunAsAsyncEnumerable(_materializer.Value)
                .GetAsyncEnumerator(cancellation);
            while (await NextAsync(events, cancellation).ConfigureAwait(false) is { } envelope)
            {
                last = ((Sequence)envelope.Offset).Value;
                pause = FirstPause;
                if (IsOurs(envelope.PersistenceId))
                    yield return new JournalEvent(last, envelope.PersistenceId, envelope.SequenceNr, (IMessage)envelope.Event);
            }
            cancellation.ThrowIfCancellationRequested();
            await Task.Delay(pause, cancellation).ConfigureAwait(false);
            pause = pause * 2 < LongestPause ? pause * 2 : LongestPause;
        }
        cancellation.ThrowIfCancellationRequested();
    }

    public Task<long> EndAsync(CancellationToken cancellation) => file.EndAsync(cancellation);

    /// <summary>Null when the read broke off.</summary>
    private async Task<EventEnvelope?> NextAsync(IAsyncEnumerator<EventEnvelope> events, CancellationToken cancellation)
    {
        try
        {
            return await events.MoveNextAsync().ConfigureAwait(false) ? events.Current : null;
        }
        catch (OperationCanceledException) when (cancellation.IsCancellationRequested)
        {
            throw;
        }
        catch (Exception fault) when (!system.WhenTerminated.IsCompleted)
        {
            log.Warning(fault, "Reading the journal broke off; it goes on after the last event");
            return null;
        }
    }

    private static bool IsOurs(string persistenceId) =>
        persistenceId.StartsWith(PersistenceIds.VmPrefix, StringComparison.Ordinal)
        || persistenceId.StartsWith(PersistenceIds.HostPrefix, StringComparison.Ordinal);
}
