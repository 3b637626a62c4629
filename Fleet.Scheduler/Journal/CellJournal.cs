using System.Data.Common;
using Akka.Persistence.Sql.Config;
using Fleet.Scheduler.Cell;

namespace Fleet.Scheduler.Journal;

/// <summary>Where a cell keeps its events: a SQLite file of its one node, or a PostgreSQL database that its nodes share.</summary>
internal abstract class CellJournal : IDisposable
{
    /// <summary>Name of the HOCON file with what this kind needs, below <c>hocon/</c>.</summary>
    public abstract string Settings { get; }

    /// <exception cref="CellStartException">It can't be opened; the message says why.</exception>
    public static async Task<CellJournal> OpenAsync(CellOptions options, CancellationToken cancellation) => options.Database is { } database
        ? await PostgresJournal.OpenAsync(database, cancellation).ConfigureAwait(false)
        : SqliteJournal.Open(options.DataDirectory);

    /// <summary>What the store of snapshots opens its connections with.</summary>
    public abstract DataOptionsSetup ToSetup();

    /// <summary>A connection to the journal, open. Dispose it soon: others may wait for it.</summary>
    public abstract Task<DbConnection> ConnectAsync(CancellationToken cancellation);

    /// <summary>The same for the one who stores what all want to store: it waits for no reader where a reader does not keep the others out.</summary>
    public virtual Task<DbConnection> ConnectWriterAsync() => ConnectAsync(CancellationToken.None);

    /// <summary>Stores the events, all or none of them: on the disk when it answers. Their offsets rise in the order given.</summary>
    /// <param name="connection">Of <see cref="ConnectAsync"/>.</param>
    /// <param name="rows">At least one.</param>
    /// <param name="writer">Who writes, for those who look into the table.</param>
    /// <exception cref="DbException"><see cref="IsTaken"/> says whether a number was given out before.</exception>
    public abstract Task WriteAsync(DbConnection connection, IReadOnlyList<JournalRow> rows, string writer);

    /// <summary>The highest number that each id has ever had, in the order given; 0: none.</summary>
    public abstract Task<IReadOnlyList<long>> ReadHighestAsync(DbConnection connection, IReadOnlyList<string> persistenceIds);

    /// <summary>Whether a write failed because another writer had stored an event under the same number.</summary>
    public abstract bool IsTaken(DbException fault);

    /// <summary>
    /// A mark in the order of all writes to come: when <see cref="IsPastAsync"/> says that it is past, every write that had taken its place in
    /// the journal before the mark was made is visible, or never will be. Null where writes become visible in their order.
    /// </summary>
    public abstract Task<long?> MarkAsync(DbConnection connection, CancellationToken cancellation);

    /// <inheritdoc cref="MarkAsync"/>
    public abstract Task<bool> IsPastAsync(DbConnection connection, long mark, CancellationToken cancellation);

    public abstract void Dispose();
}
