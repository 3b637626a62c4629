using System.Data.Common;
using System.Globalization;
using System.Net.Sockets;
using Akka.Persistence.Sql.Config;
using Fleet.Scheduler.Cell;
using LinqToDB;
using LinqToDB.DataProvider.PostgreSQL;
using Npgsql;
using NpgsqlTypes;

namespace Fleet.Scheduler.Journal;

/// <summary>The journal in a PostgreSQL database, 13 or newer.</summary>
internal sealed class PostgresJournal : CellJournal
{
    private readonly NpgsqlDataSource _source;
    private readonly NpgsqlDataSource _writing;
    private readonly string _connectionString;

    private PostgresJournal(PostgresDatabase database)
    {
        _source = database.ToSource();
        _writing = database.ToSource(PostgresDatabase.WriterConnections);
        _connectionString = database.ConnectionString;
    }

    public override string Settings => "postgresql.conf";

    /// <summary>Connects and brings the schema up to date.</summary>
    /// <exception cref="CellStartException">The database can't be reached or is not Fleet's; the message says why.</exception>
    public static async Task<PostgresJournal> OpenAsync(PostgresDatabase database, CancellationToken cancellation)
    {
        var journal = new PostgresJournal(database);
        try
        {
            await using var connection = await journal._source.OpenConnectionAsync(cancellation).ConfigureAwait(false);
            await PostgresSchema.MigrateAsync(connection, cancellation).ConfigureAwait(false);
            return journal;
        }
        catch (Exception fault) when (fault is NpgsqlException or TimeoutException or SocketException)
        {
            journal.Dispose();
            throw Unusable(database, fault);
        }
        catch
        {
            journal.Dispose();
            throw;
        }
    }

    /// <summary>What somebody is told who starts a node.</summary>
    internal static CellStartException Unusable(PostgresDatabase database, Exception fault) =>
        new($"The database {database} can't be used: {fault.Message.TrimEnd('.')}. Check the address, the user and its rights, and that it runs.", fault);

    public override DataOptionsSetup ToSetup() => new(new DataOptions()
        .UseConnectionString(ProviderName.PostgreSQL15, _connectionString)
        .UseConnectionFactory(PostgreSQLTools.GetDataProvider(PostgreSQLVersion.v15), _ => _source.CreateConnection()));

    public override async Task<DbConnection> ConnectAsync(CancellationToken cancellation) =>
        await _source.OpenConnectionAsync(cancellation).ConfigureAwait(false);

    /// <summary>Of a pool of its own: many recoveries at once hold all of the other, and whoever could not store would be one more.</summary>
    public override async Task<DbConnection> ConnectWriterAsync() => await _writing.OpenConnectionAsync().ConfigureAwait(false);

    public override async Task WriteAsync(DbConnection connection, IReadOnlyList<JournalRow> rows, string writer)
    {
        // One statement: a transaction of its own, one way there and back.
        await using var insert = new NpgsqlCommand(
            """
            insert into journal (created, deleted, persistence_id, sequence_number, message, manifest, identifier, writer_uuid)
            select $1, false, id, number, message, manifest, serializer, $2
            from unnest($3, $4, $5, $6, $7) with ordinality as stored (id, number, message, manifest, serializer, place) order by place
            """, (NpgsqlConnection)connection)
        {
            Parameters =
            {
                new NpgsqlParameter<long> { TypedValue = DateTime.UtcNow.Ticks },
                new NpgsqlParameter<string> { TypedValue = writer },
                new NpgsqlParameter<string[]> { TypedValue = [.. rows.Select(row => row.PersistenceId)], NpgsqlDbType = NpgsqlDbType.Array | NpgsqlDbType.Text },
                new NpgsqlParameter<long[]> { TypedValue = [.. rows.Select(row => row.SequenceNr)], NpgsqlDbType = NpgsqlDbType.Array | NpgsqlDbType.Bigint },
                new NpgsqlParameter<byte[][]> { TypedValue = [.. rows.Select(row => row.Message)], NpgsqlDbType = NpgsqlDbType.Array | NpgsqlDbType.Bytea },
                new NpgsqlParameter<string[]> { TypedValue = [.. rows.Select(row => row.Manifest)], NpgsqlDbType = NpgsqlDbType.Array | NpgsqlDbType.Text },
                new NpgsqlParameter<int[]> { TypedValue = [.. rows.Select(row => row.Serializer)], NpgsqlDbType = NpgsqlDbType.Array | NpgsqlDbType.Integer },
            },
        };
        await insert.PrepareAsync().ConfigureAwait(false);
        await insert.ExecuteNonQueryAsync().ConfigureAwait(false);
    }

    public override async Task<IReadOnlyList<long>> ReadHighestAsync(DbConnection connection, IReadOnlyList<string> persistenceIds)
    {
        var highest = new long[persistenceIds.Count];
        await using var read = new NpgsqlCommand(
            """
            select place, (select max(sequence_number) from journal where persistence_id = id)
            from unnest($1) with ordinality as asked (id, place)
            """, (NpgsqlConnection)connection)
        {
            Parameters = { new NpgsqlParameter<string[]> { TypedValue = [.. persistenceIds], NpgsqlDbType = NpgsqlDbType.Array | NpgsqlDbType.Text } },
        };
        await read.PrepareAsync().ConfigureAwait(false);
        await using var reader = await read.ExecuteReaderAsync().ConfigureAwait(false);
        while (await reader.ReadAsync().ConfigureAwait(false))
        {
            if (!await reader.IsDBNullAsync(1).ConfigureAwait(false))
                highest[reader.GetInt64(0) - 1] = reader.GetInt64(1);
        }
        return highest;
    }

    public override bool IsTaken(DbException fault) => fault is PostgresException { SqlState: PostgresErrorCodes.UniqueViolation };

    /// <summary>
    /// A transaction id of our own. A trigger has every writer take its id before its first number of the journal (<see cref="PostgresSchema"/>), so
    /// whoever holds a number that we have seen passed has a lower id than this one.
    /// </summary>
    public override async Task<long?> MarkAsync(DbConnection connection, CancellationToken cancellation) =>
        await ReadAsync(connection, "select pg_current_xact_id()::text", cancellation).ConfigureAwait(false);

    public override async Task<bool> IsPastAsync(DbConnection connection, long mark, CancellationToken cancellation) =>
        await ReadAsync(connection, "select pg_snapshot_xmin(pg_current_snapshot())::text", cancellation).ConfigureAwait(false) > mark;

    private static async Task<long> ReadAsync(DbConnection connection, string sql, CancellationToken cancellation)
    {
        await using var command = connection.CreateCommand();
        command.CommandText = sql;
        return long.Parse((string)(await command.ExecuteScalarAsync(cancellation).ConfigureAwait(false))!, CultureInfo.InvariantCulture);
    }

    public override void Dispose()
    {
        _source.Dispose();
        _writing.Dispose();
    }
}
