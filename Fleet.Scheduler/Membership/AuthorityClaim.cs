using Fleet.Scheduler.Access;
using Fleet.Scheduler.Journal;
using Fleet.Scheduler.Node;
using Npgsql;

namespace Fleet.Scheduler.Membership;

/// <summary>
/// Binds the database of a cell to the cell's certificate authority: the pin of the first node's stands in it. A node with another one would serve
/// the same journal to hosts and people of its own, and form the cell as soon as the others are away.
/// </summary>
internal static class AuthorityClaim
{
    /// <summary>Nodes that start together on a new database take turns by this advisory lock. Any number that nobody else uses.</summary>
    private const long ClaimLock = 0x466c656574_04;

    /// <summary>The authority of the folder, which is that of the database; on a new database a new one, which is then the database's.</summary>
    /// <param name="database">That the cell shares.</param>
    /// <param name="folder">Where this node keeps the authority. Nothing is made in it when the database is of another one.</param>
    /// <param name="clock">What time it is.</param>
    /// <param name="cancellation">Ends it.</param>
    /// <exception cref="SchedulerStartException">The database is of another authority, or the folder can't be used.</exception>
    /// <exception cref="Cell.CellStartException">The database can't be used.</exception>
    public static async Task<CertificateAuthority> OpenAsync(PostgresDatabase database, string folder, TimeProvider clock, CancellationToken cancellation)
    {
        using var journal = await PostgresJournal.OpenAsync(database, cancellation).ConfigureAwait(false);
        CertificateAuthority? authority = null;
        try
        {
            await using var connection = (NpgsqlConnection)await journal.ConnectAsync(cancellation).ConfigureAwait(false);
            await using var transaction = await connection.BeginTransactionAsync(cancellation).ConfigureAwait(false);
            await RunAsync($"select pg_advisory_xact_lock({ClaimLock})").ConfigureAwait(false);
            var claimed = await RunAsync("select pin from cell_authority").ConfigureAwait(false) as string;
            if (claimed is not null && !CertificateAuthority.Exists(folder))
            {
                throw new SchedulerStartException(
                    $"The database {database} belongs to the cell of authority {claimed}, which is not in {folder}; nothing was made there. Have this node join that cell (--join https://NODE:7071, with a token of role scheduler), or put the authority back from a backup.");
            }
            authority = CertificateAuthority.OpenOrCreate(folder, clock);
            if (claimed is null)
                await RunAsync("insert into cell_authority (pin) values (@pin)", ("pin", authority.Pin)).ConfigureAwait(false);
            else if (claimed != authority.Pin)
                throw Foreign(database, folder, claimed);
            await transaction.CommitAsync(cancellation).ConfigureAwait(false);
            return authority;

            async Task<object?> RunAsync(string sql, params (string Name, object Value)[] values)
            {
                await using var command = new NpgsqlCommand(sql, connection, transaction);
                foreach (var (name, value) in values)
                    command.Parameters.AddWithValue(name, value);
                return await command.ExecuteScalarAsync(cancellation).ConfigureAwait(false);
            }
        }
        catch (Exception fault)
        {
            authority?.Dispose();
            if (fault is NpgsqlException or TimeoutException)
                throw PostgresJournal.Unusable(database, fault);
            throw;
        }
    }

    private static SchedulerStartException Foreign(PostgresDatabase database, string folder, string claimed) => new(
        $"The certificate authority in {folder} is not that of the cell in the database {database}, which is {claimed}. Use the database of its own cell; or, to make this node one of that cell, move {folder} away and start it with --join https://NODE:7071 and a token of role scheduler.");
}
