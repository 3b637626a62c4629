using System.Data.Common;

namespace Fleet.Scheduler.Journal;

/// <summary>What is read from the journal's table and deleted from it: the same words for SQLite and PostgreSQL.</summary>
internal static class JournalTable
{
    private const string Columns = "ordering, persistence_id, sequence_number, message, identifier, manifest";

    /// <summary>Rows of all, in order, also those that only mark what was deleted.</summary>
    /// <param name="connection">Open.</param>
    /// <param name="after">The offset before the first.</param>
    /// <param name="most">How many at most.</param>
    /// <param name="cancellation">Ends the read.</param>
    public static async Task<List<StoredRow>> ReadAsync(DbConnection connection, long after, int most, CancellationToken cancellation)
    {
        await using var command = connection.CreateCommand();
        command.CommandText = $"select {Columns} from journal where ordering > @after order by ordering limit @limit";
        Add(command, "@after", after);
        Add(command, "@limit", most);
        return await ReadRowsAsync(command, cancellation).ConfigureAwait(false);
    }

    /// <summary>Events of one id that were not deleted, in order.</summary>
    /// <param name="connection">Open.</param>
    /// <param name="persistenceId">Whose.</param>
    /// <param name="after">The number before the first.</param>
    /// <param name="last">The last number that is wanted.</param>
    /// <param name="most">How many at most.</param>
    /// <param name="cancellation">Ends the read.</param>
    public static async Task<List<StoredRow>> ReadOneAsync(
        DbConnection connection, string persistenceId, long after, long last, int most, CancellationToken cancellation)
    {
        await using var command = connection.CreateCommand();
        command.CommandText =
            $"select {Columns} from journal where persistence_id = @id and sequence_number > @after and sequence_number <= @last and deleted = @deleted order by sequence_number limit @limit";
        Add(command, "@id", persistenceId);
        Add(command, "@after", after);
        Add(command, "@last", last);
        Add(command, "@limit", most);
        // The last one of those that were deleted stays as a mark.
        Add(command, "@deleted", false);
        return await ReadRowsAsync(command, cancellation).ConfigureAwait(false);
    }

    /// <summary>
    /// Deletes the events of one id up to a number. The last of them stays as a mark, so that its number is not given out again.
    /// </summary>
    public static async Task DeleteAsync(DbConnection connection, string persistenceId, long last, CancellationToken cancellation)
    {
        await using var transaction = await connection.BeginTransactionAsync(cancellation).ConfigureAwait(false);
        await using (var mark = connection.CreateCommand())
        {
            mark.Transaction = transaction;
            mark.CommandText =
                "update journal set deleted = @deleted where persistence_id = @id and sequence_number = (select max(sequence_number) from journal where persistence_id = @id and sequence_number <= @last)";
            Add(mark, "@id", persistenceId);
            Add(mark, "@last", last);
            Add(mark, "@deleted", true);
            await mark.ExecuteNonQueryAsync(cancellation).ConfigureAwait(false);
        }
        await using (var delete = connection.CreateCommand())
        {
            delete.Transaction = transaction;
            delete.CommandText =
                "delete from journal where persistence_id = @id and sequence_number < (select max(sequence_number) from journal where persistence_id = @id and deleted = @deleted)";
            Add(delete, "@id", persistenceId);
            Add(delete, "@deleted", true);
            await delete.ExecuteNonQueryAsync(cancellation).ConfigureAwait(false);
        }
        await transaction.CommitAsync(cancellation).ConfigureAwait(false);
    }

    private static async Task<List<StoredRow>> ReadRowsAsync(DbCommand command, CancellationToken cancellation)
    {
        var rows = new List<StoredRow>();
        await using var reader = await command.ExecuteReaderAsync(cancellation).ConfigureAwait(false);
        while (await reader.ReadAsync(cancellation).ConfigureAwait(false))
        {
            rows.Add(new(reader.GetInt64(0), new(
                reader.GetString(1), reader.GetInt64(2), reader.GetFieldValue<byte[]>(3), reader.GetInt32(4),
                await reader.IsDBNullAsync(5, cancellation).ConfigureAwait(false) ? "" : reader.GetString(5))));
        }
        return rows;
    }

    public static void Add(DbCommand command, string name, object value)
    {
        var parameter = command.CreateParameter();
        parameter.ParameterName = name;
        parameter.Value = value;
        command.Parameters.Add(parameter);
    }
}
