using System.Data.Common;
using Akka.Persistence.Sql.Config;
using Fleet.Scheduler.Cell;
using LinqToDB;
using LinqToDB.DataProvider.SQLite;
using Microsoft.Data.Sqlite;

namespace Fleet.Scheduler.Journal;

/// <summary>The journal's file: where it is, how it is opened, what makes a commit durable.</summary>
internal sealed class SqliteJournal : CellJournal
{
    /// <summary>
    /// FULL: an acknowledged event is on the disk, not only with the kernel, so it survives a power cut too. With the gate a commit
    /// carries many events, which makes FULL nearly free; NORMAL would be safe against kill -9 only.
    /// busy_timeout is for a second process on the file (a backup, an operator's shell): SQLite then waits by itself.
    /// </summary>
    internal const string ConnectionPragmas = "pragma synchronous = full; pragma busy_timeout = 5000;";

    /// <summary>Of the file, in the node's folder.</summary>
    public const string FileName = "journal.db";

    /// <summary>SQLite's word for a row that a unique index refuses.</summary>
    private const int Constraint = 19;

    private static readonly TimeSpan LastWritePatience = TimeSpan.FromSeconds(5);

    private readonly string _connectionString;
    private readonly SemaphoreSlim _gate = new(1, 1);

    private SqliteJournal(string path)
    {
        FilePath = path;
        _connectionString = new SqliteConnectionStringBuilder
        {
            DataSource = path,
            Mode = SqliteOpenMode.ReadWriteCreate,
            Pooling = true,
        }.ToString();
    }

    public string FilePath { get; }

    /// <summary>Makes the folder and the file if need be and switches the file to a write-ahead log, which stays so.</summary>
    /// <exception cref="CellStartException">The folder can't be made or written, or the file is no SQLite database.</exception>
    public static SqliteJournal Open(string dataDirectory)
    {
        var path = Path.Combine(Path.GetFullPath(dataDirectory), FileName);
        var journal = new SqliteJournal(path);
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(path)!);
            using var connection = journal.Connect();
            connection.Open();
            using var command = connection.CreateCommand();
            command.CommandText = "pragma journal_mode = wal;";
            var mode = command.ExecuteScalar() as string;
            if (!string.Equals(mode, "wal", StringComparison.OrdinalIgnoreCase))
            {
                throw new CellStartException(
                    $"The journal {path} can't use a write-ahead log (SQLite says '{mode}'). Put the data directory on a local file system.");
            }
            SqliteSchema.Migrate(connection);
            return journal;
        }
        catch (CellStartException)
        {
            journal.Dispose();
            throw;
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException or SqliteException)
        {
            journal.Dispose();
            throw new CellStartException(
                $"The journal {path} can't be opened: {fault.Message.TrimEnd('.')}. Check that the data directory can be written and that the file is Fleet's.", fault);
        }
    }

    public override string Settings => "sqlite.conf";

    public override Task WriteAsync(DbConnection connection, IReadOnlyList<JournalRow> rows, string writer)
    {
        var sqlite = (SqliteConnection)connection;
        using var transaction = sqlite.BeginTransaction(deferred: false);
        using var insert = new SqliteCommand(
            """
            insert into journal (created, deleted, persistence_id, sequence_number, message, manifest, identifier, writer_uuid)
            values (@created, 0, @id, @number, @message, @manifest, @serializer, @writer)
            """, sqlite, transaction);
        insert.Parameters.AddWithValue("@created", DateTime.UtcNow.Ticks);
        insert.Parameters.AddWithValue("@writer", writer);
        var id = insert.Parameters.Add("@id", SqliteType.Text);
        var number = insert.Parameters.Add("@number", SqliteType.Integer);
        var message = insert.Parameters.Add("@message", SqliteType.Blob);
        var manifest = insert.Parameters.Add("@manifest", SqliteType.Text);
        var serializer = insert.Parameters.Add("@serializer", SqliteType.Integer);
        foreach (var row in rows)
        {
            (id.Value, number.Value, message.Value, manifest.Value, serializer.Value) = (row.PersistenceId, row.SequenceNr, row.Message, row.Manifest, row.Serializer);
            insert.ExecuteNonQuery();
        }
        transaction.Commit();
        return Task.CompletedTask;
    }

    public override Task<IReadOnlyList<long>> ReadHighestAsync(DbConnection connection, IReadOnlyList<string> persistenceIds)
    {
        using var read = new SqliteCommand("select max(sequence_number) from journal where persistence_id = @id", (SqliteConnection)connection);
        var id = read.Parameters.Add("@id", SqliteType.Text);
        var highest = new long[persistenceIds.Count];
        for (var at = 0; at < highest.Length; at++)
        {
            id.Value = persistenceIds[at];
            highest[at] = read.ExecuteScalar() is long number ? number : 0;
        }
        return Task.FromResult<IReadOnlyList<long>>(highest);
    }

    public override bool IsTaken(DbException fault) => fault is SqliteException { SqliteErrorCode: Constraint };

    /// <summary>Journal, snapshots and queries go through the one gate.</summary>
    public override DataOptionsSetup ToSetup() => new(new DataOptions()
        .UseConnectionString(ProviderName.SQLiteMS, _connectionString)
        .UseConnectionFactory(SQLiteTools.GetDataProvider(SQLiteProvider.Microsoft), _ => Connect()));

    public override async Task<DbConnection> ConnectAsync(CancellationToken cancellation)
    {
        var connection = Connect();
        await connection.OpenAsync(cancellation).ConfigureAwait(false);
        return connection;
    }

    /// <summary>One writer stores one batch after the other, and SQLite numbers rows in the order of commits.</summary>
    public override Task<long?> MarkAsync(DbConnection connection, CancellationToken cancellation) => Task.FromResult<long?>(null);

    public override Task<bool> IsPastAsync(DbConnection connection, long mark, CancellationToken cancellation) => Task.FromResult(true);

    private GatedSqliteConnection Connect() => new(_connectionString, _gate);

    /// <summary>Closes the pooled connections, which checkpoints the log: the file alone is complete afterwards.</summary>
    public override void Dispose()
    {
        // A write that is still under way has the gate; what comes after it finds the gate gone and fails, as on a stopped node it must.
        _gate.Wait(LastWritePatience);
        using (var connection = new SqliteConnection(_connectionString))
            SqliteConnection.ClearPool(connection);
        _gate.Dispose();
    }
}
