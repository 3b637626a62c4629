using System.Collections.Immutable;
using Akka.Actor;
using Akka.Actor.Setup;
using Akka.Persistence;
using Akka.Persistence.Journal;
using Akka.Serialization;

namespace Fleet.Scheduler.Journal;

/// <summary>Tells a node's journal actor where the cell keeps its events.</summary>
internal sealed class CellWriteJournalSetup(CellJournal journal) : Setup
{
    public CellJournal Journal => journal;
}

/// <summary>
/// What Akka.Persistence stores events through. The one of Akka.Persistence.Sql spends a query and a transaction on each actor that starts,
/// and on SQLite a transaction on each event: several times what the rest of a placement costs.
/// </summary>
internal sealed class CellWriteJournal : AsyncWriteJournal
{
    private const int RowsAtOnce = 500;

    private readonly CellJournal _journal;
    private readonly JournalQueue _queue;
    private readonly Serialization _serialization = Context.System.Serialization;

    public CellWriteJournal()
    {
        _journal = Context.System.Settings.Setup.Get<CellWriteJournalSetup>().Value.Journal;
        _queue = new JournalQueue(_journal);
    }

    protected override void PostStop()
    {
        _queue.Close();
        base.PostStop();
    }

    protected override async Task<IImmutableList<Exception>> WriteMessagesAsync(IEnumerable<AtomicWrite> messages, CancellationToken cancellationToken)
    {
        await _queue.WriteAsync([.. messages.SelectMany(write => (IEnumerable<IPersistentRepresentation>)write.Payload).Select(ToRow)]).ConfigureAwait(false);
        // None was refused.
        return null!;
    }

    public override async Task<long> ReadHighestSequenceNrAsync(string persistenceId, long fromSequenceNr, CancellationToken cancellationToken) =>
        await _queue.ReadHighestAsync(persistenceId).ConfigureAwait(false);

    public override async Task ReplayMessagesAsync(
        IActorContext context, string persistenceId, long fromSequenceNr, long toSequenceNr, long max, Action<IPersistentRepresentation> recoveryCallback)
    {
        for (var after = fromSequenceNr - 1; after < toSequenceNr && max > 0;)
        {
            var wanted = (int)Math.Min(RowsAtOnce, max);
            List<StoredRow> rows;
            await using (var connection = await _journal.ConnectAsync(CancellationToken.None).ConfigureAwait(false))
                rows = await JournalTable.ReadOneAsync(connection, persistenceId, after, toSequenceNr, wanted, CancellationToken.None).ConfigureAwait(false);
            foreach (var (_, row) in rows)
                recoveryCallback(new Persistent(_serialization.Deserialize(row.Message, row.Serializer, row.Manifest), row.SequenceNr, persistenceId));
            if (rows.Count < wanted)
                return;
            after = rows[^1].Row.SequenceNr;
            max -= rows.Count;
        }
    }

    protected override async Task DeleteMessagesToAsync(string persistenceId, long toSequenceNr, CancellationToken cancellationToken)
    {
        await using var connection = await _journal.ConnectAsync(cancellationToken).ConfigureAwait(false);
        await JournalTable.DeleteAsync(connection, persistenceId, toSequenceNr, cancellationToken).ConfigureAwait(false);
    }

    private JournalRow ToRow(IPersistentRepresentation stored)
    {
        var serializer = _serialization.FindSerializerFor(stored.Payload);
        return new(
            stored.PersistenceId, stored.SequenceNr, serializer.ToBinary(stored.Payload), serializer.Identifier, Serialization.ManifestFor(serializer, stored.Payload));
    }
}
