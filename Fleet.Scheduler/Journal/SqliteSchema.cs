using System.Globalization;
using Fleet.Scheduler.Cell;
using Microsoft.Data.Sqlite;

namespace Fleet.Scheduler.Journal;

/// <summary>The tables of a cell's SQLite file; its <c>user_version</c> counts the steps. A step never changes once it was released.</summary>
internal static class SqliteSchema
{
    private static readonly string[] Steps =
    [
        // Files of the first versions have these tables already, made by Akka.Persistence.Sql.
        """
        create table if not exists journal (
            ordering integer not null primary key autoincrement,
            created integer not null,
            deleted integer not null,
            persistence_id text not null,
            sequence_number integer not null,
            message blob not null,
            tags text,
            manifest text,
            identifier integer,
            writer_uuid text);
        create unique index if not exists journal_uq on journal (persistence_id, sequence_number);

        create table if not exists snapshot (
            persistence_id text not null,
            sequence_number integer not null,
            created integer not null,
            snapshot blob,
            manifest text,
            serializer_id integer,
            primary key (persistence_id, sequence_number));
        """,
    ];

    /// <exception cref="CellStartException">A newer version of Fleet made the tables.</exception>
    public static void Migrate(SqliteConnection connection)
    {
        using var transaction = connection.BeginTransaction(deferred: false);
        var done = Convert.ToInt32(Run("pragma user_version"), CultureInfo.InvariantCulture);
        if (done > Steps.Length)
        {
            throw new CellStartException(string.Create(CultureInfo.InvariantCulture,
                $"The journal {connection.DataSource} was brought to step {done} by a newer version of Fleet; this one knows {Steps.Length}. Start the newer version."));
        }
        for (var step = done + 1; step <= Steps.Length; step++)
        {
            Run(Steps[step - 1]);
            Run(string.Create(CultureInfo.InvariantCulture, $"pragma user_version = {step}"));
        }
        transaction.Commit();

        object? Run(string sql)
        {
            using var command = new SqliteCommand(sql, connection, transaction);
            return command.ExecuteScalar();
        }
    }
}
