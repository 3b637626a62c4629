using Microsoft.Data.Sqlite;

namespace Fleet.Scheduler.Journal;

/// <summary>Looks at a node's SQLite journal without changing it, also while the node runs.</summary>
public static class JournalCheck
{
    /// <summary>Above it a look at every page takes minutes.</summary>
    private const long MostBytes = 1L << 30;

    /// <summary>What is wrong with the journal in the folder.</summary>
    /// <param name="folder">The node's: <see cref="Node.SchedulerOptions.DataDirectory"/>.</param>
    /// <returns>The file, null when there is none; and what is wrong with it, null when nothing is.</returns>
    public static (string? File, string? Trouble) Look(string folder)
    {
        var file = Path.Combine(folder, SqliteJournal.FileName);
        if (!System.IO.File.Exists(file))
            return (null, Node.DataDirectory.HadJournal(folder) ? $"{file} is missing, and was here before: put it back from a backup" : null);
        try
        {
            using var connection = new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = file, Mode = SqliteOpenMode.ReadOnly, Pooling = false }.ToString());
            connection.Open();
            using var command = connection.CreateCommand();
            command.CommandText = new FileInfo(file).Length > MostBytes ? "select 'ok' from sqlite_schema limit 1" : "pragma quick_check(1)";
            var said = command.ExecuteScalar() as string;
            return (file, said == "ok" ? null : $"{file} is damaged ({said}): put it back from a backup");
        }
        catch (Exception fault) when (fault is SqliteException or IOException or UnauthorizedAccessException)
        {
            return (file, $"{file} can't be read ({fault.Message.TrimEnd('.')}): run as the user that runs Fleet, or put it back from a backup");
        }
    }
}
