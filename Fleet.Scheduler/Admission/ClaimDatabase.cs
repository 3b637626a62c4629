using System.Data.Common;
using Fleet.Scheduler.Journal;
using Microsoft.Data.Sqlite;
using Npgsql;
using NpgsqlTypes;

namespace Fleet.Scheduler.Admission;

/// <summary>What keeps names and keys. The statements are the same for all; how to open it and how writers take turns is not.</summary>
internal abstract class ClaimDatabase : IDisposable
{
    /// <summary>
    /// How long a claim may stand without its microVM before it counts as abandoned. Where other nodes may be driving its creation it is longer
    /// than a creation can be on its way (<see cref="VmAdmission.CreateWithin"/>) and than the nodes' clocks differ.
    /// </summary>
    public abstract TimeSpan AbandonedAfter { get; }

    /// <exception cref="DbException">It can't be opened or is not a database.</exception>
    public abstract DbConnection Open();

    /// <summary>A transaction that sees all that was decided before it, and before which nothing else is decided any more.</summary>
    public abstract DbTransaction Begin(DbConnection connection);

    /// <summary>The time by which claims age: one clock for all who claim, whatever theirs say.</summary>
    /// <param name="transaction">Of <see cref="Begin"/>.</param>
    /// <param name="clock">The node's own.</param>
    public abstract DateTimeOffset Now(DbTransaction transaction, TimeProvider clock);

    /// <summary>
    /// Takes the names that are free, one after the other, for those who want nothing else: the microVMs that have theirs then. Null: there is no quicker
    /// way than to take each by itself.
    /// </summary>
    public virtual IReadOnlySet<string>? TakeNames(DbTransaction transaction, IReadOnlyList<ClaimRequest> wanted, DateTimeOffset now) => null;

    public abstract void Dispose();

    /// <summary>A file of the node's own.</summary>
    public sealed class File(string path) : ClaimDatabase
    {
        private const string Create = """
            PRAGMA journal_mode = WAL;
            CREATE TABLE IF NOT EXISTS vm_names (
                name TEXT PRIMARY KEY, vm_id TEXT NOT NULL, claimed_at INTEGER NOT NULL) WITHOUT ROWID;
            CREATE INDEX IF NOT EXISTS vm_names_by_vm ON vm_names (vm_id);
            CREATE TABLE IF NOT EXISTS idempotency_keys (
                key TEXT PRIMARY KEY, body_hash BLOB NOT NULL, vm_id TEXT NOT NULL, created_at INTEGER NOT NULL) WITHOUT ROWID;
            CREATE INDEX IF NOT EXISTS idempotency_keys_by_vm ON idempotency_keys (vm_id);
            CREATE INDEX IF NOT EXISTS idempotency_keys_by_age ON idempotency_keys (created_at);
            """;

        private readonly string _connectionString = new SqliteConnectionStringBuilder { DataSource = path }.ToString();
        private bool _made;

        /// <summary>Nobody else writes to the file, so only what this node drives is under way.</summary>
        public override TimeSpan AbandonedAfter => TimeSpan.FromSeconds(5);

        public override DbConnection Open()
        {
            var connection = new SqliteConnection(_connectionString);
            try
            {
                connection.Open();
                // A claim is on the disk when it is answered.
                using var command = new SqliteCommand("PRAGMA synchronous = FULL; " + (_made ? "" : Create), connection);
                command.ExecuteNonQuery();
                _made = true;
                return connection;
            }
            catch
            {
                // The pool would keep the broken file open.
                connection.Dispose();
                SqliteConnection.ClearPool(connection);
                throw;
            }
        }

        public override DateTimeOffset Now(DbTransaction transaction, TimeProvider clock) => clock.GetUtcNow();

        public override DbTransaction Begin(DbConnection connection) => ((SqliteConnection)connection).BeginTransaction(deferred: false);

        public override void Dispose()
        {
            using var connection = new SqliteConnection(_connectionString);
            SqliteConnection.ClearPool(connection);
        }
    }

    /// <summary>The database that the cell's nodes share; <see cref="PostgresSchema"/> has made the tables.</summary>
    public sealed class Shared(PostgresDatabase database) : ClaimDatabase
    {
        /// <summary>Any number that nobody else uses.</summary>
        private const long ClaimsLock = 0x466c656574_02;

        private readonly NpgsqlDataSource _source = database.ToSource();

        public override TimeSpan AbandonedAfter => TimeSpan.FromSeconds(60);

        public override DbConnection Open() => _source.OpenConnection();

        public override DateTimeOffset Now(DbTransaction transaction, TimeProvider clock)
        {
            using var command = transaction.Connection!.CreateCommand();
            command.CommandText = "select (extract(epoch from clock_timestamp()) * 1000)::bigint";
            command.Transaction = transaction;
            return DateTimeOffset.FromUnixTimeMilliseconds((long)command.ExecuteScalar()!);
        }

        public override DbTransaction Begin(DbConnection connection)
        {
            var transaction = connection.BeginTransaction();
            try
            {
                // One node decides at a time. A stalled one is cut off by the server (PostgresDatabase).
                using var command = connection.CreateCommand();
                command.CommandText = $"select pg_advisory_xact_lock({ClaimsLock})";
                command.Transaction = transaction;
                command.ExecuteNonQuery();
                return transaction;
            }
            catch
            {
                transaction.Dispose();
                throw;
            }
        }

        /// <summary>One way there and back for all of them.</summary>
        public override IReadOnlySet<string> TakeNames(DbTransaction transaction, IReadOnlyList<ClaimRequest> wanted, DateTimeOffset now)
        {
            using var command = new NpgsqlCommand(
                """
                insert into vm_names (name, vm_id, claimed_at)
                select name, vm, $3 from unnest($1, $2) with ordinality as wanted (name, vm, place) order by place
                on conflict (name) do nothing returning vm_id
                """, (NpgsqlConnection)transaction.Connection!, (NpgsqlTransaction)transaction)
            {
                Parameters =
                {
                    new NpgsqlParameter<string[]> { TypedValue = [.. wanted.Select(one => one.Name)], NpgsqlDbType = NpgsqlDbType.Array | NpgsqlDbType.Text },
                    new NpgsqlParameter<string[]> { TypedValue = [.. wanted.Select(one => one.VmId)], NpgsqlDbType = NpgsqlDbType.Array | NpgsqlDbType.Text },
                    new NpgsqlParameter<long> { TypedValue = now.ToUnixTimeMilliseconds() },
                },
            };
            command.Prepare();
            var taken = new HashSet<string>(StringComparer.Ordinal);
            using var reader = command.ExecuteReader();
            while (reader.Read())
                taken.Add(reader.GetString(0));
            return taken;
        }

        public override void Dispose() => _source.Dispose();
    }
}
