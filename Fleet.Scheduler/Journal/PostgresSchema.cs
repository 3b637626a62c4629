using System.Globalization;
using Fleet.Scheduler.Cell;
using Npgsql;

namespace Fleet.Scheduler.Journal;

/// <summary>The tables of a cell in PostgreSQL, made and brought up to date by whichever node comes first. A step never changes once it was released.</summary>
internal static class PostgresSchema
{
    /// <summary>Nodes that start together take turns by this advisory lock. Any number that nobody else uses.</summary>
    private const long MigrationLock = 0x466c656574_01;

    private static readonly string[] Steps =
    [
        // Columns as Akka.Persistence.Sql wants them; of its indexes the two that are used.
        """
        create table journal (
            ordering bigint generated always as identity primary key,
            created bigint not null,
            deleted boolean not null,
            persistence_id text not null,
            sequence_number bigint not null,
            message bytea not null,
            tags text,
            manifest text,
            identifier integer,
            writer_uuid text,
            constraint journal_uq unique (persistence_id, sequence_number));

        -- A writer has its transaction id before its first number: readers tell by it who may still fill a gap. Statement triggers run
        -- before the defaults of the rows are worked out.
        create function fleet_take_xid() returns trigger language plpgsql as
            $$ begin perform pg_current_xact_id(); return null; end $$;
        create trigger journal_takes_xid before insert on journal for each statement execute function fleet_take_xid();

        create table snapshot (
            persistence_id text not null,
            sequence_number bigint not null,
            created bigint not null,
            snapshot bytea,
            manifest text,
            serializer_id integer,
            primary key (persistence_id, sequence_number));

        create table vm_names (
            name text primary key,
            vm_id text not null,
            claimed_at bigint not null);
        create index vm_names_by_vm on vm_names (vm_id);

        create table idempotency_keys (
            key text primary key,
            body_hash bytea not null,
            vm_id text not null,
            created_at bigint not null);
        create index idempotency_keys_by_vm on idempotency_keys (vm_id);
        create index idempotency_keys_by_age on idempotency_keys (created_at);

        -- Which nodes form the cell: CellRegister.
        create table cell_nodes (
            address text primary key,
            incarnation uuid not null unique,
            member boolean not null,
            seen_at timestamptz not null);
        """,
        // Which certificate authority the cell is of: AuthorityClaim.
        """
        create table cell_authority (
            single boolean primary key default true check (single),
            pin text not null,
            claimed_at timestamptz not null default now());
        """,
    ];

    /// <exception cref="CellStartException">A newer version of Fleet made the tables.</exception>
    public static async Task MigrateAsync(NpgsqlConnection connection, CancellationToken cancellation)
    {
        await using var transaction = await connection.BeginTransactionAsync(cancellation).ConfigureAwait(false);
        await RunAsync($"select pg_advisory_xact_lock({MigrationLock})").ConfigureAwait(false);
        await RunAsync("create table if not exists fleet_schema (step integer primary key, made_at timestamptz not null default now())").ConfigureAwait(false);
        var done = Convert.ToInt32(await RunAsync("select coalesce(max(step), 0) from fleet_schema").ConfigureAwait(false), CultureInfo.InvariantCulture);
        if (done > Steps.Length)
        {
            throw new CellStartException(string.Create(CultureInfo.InvariantCulture,
                $"The database was brought to step {done} by a newer version of Fleet; this one knows {Steps.Length}. Start the newer version."));
        }
        for (var step = done + 1; step <= Steps.Length; step++)
        {
            await RunAsync(Steps[step - 1]).ConfigureAwait(false);
            await RunAsync($"insert into fleet_schema (step) values ({step})").ConfigureAwait(false);
        }
        await transaction.CommitAsync(cancellation).ConfigureAwait(false);

        async Task<object?> RunAsync(string sql)
        {
            await using var command = new NpgsqlCommand(sql, connection, transaction);
            return await command.ExecuteScalarAsync(cancellation).ConfigureAwait(false);
        }
    }
}
