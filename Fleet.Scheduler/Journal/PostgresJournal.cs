using System.Data.Common;
using System.Globalization;
using System.Net.Sockets;
using Akka.Persistence.Sql.Config;
using Fleet.Scheduler.Cell;
using LinqToDB;
using LinqToDB.DataProvider.PostgreSQL;
using Npgsql;

namespace Fleet.Scheduler.Journal;

/// <summary>The journal in a PostgreSQL database, 13 or newer.</summary>
internal sealed class PostgresJournal : CellJournal
{
    private readonly NpgsqlDataSource _source;
    private readonly string _connectionString;

    private PostgresJournal(PostgresDatabase database)
    {
        _source = database.ToSource();
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

    public override void Dispose() => _source.Dispose();
}
