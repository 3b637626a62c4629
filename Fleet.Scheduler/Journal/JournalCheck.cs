using Microsoft.Data.Sqlite;

namespace Fleet.Scheduler.Journal;

/// <summary>Looks at a node's SQLite files without changing them, also while the node runs.</summary>
public static class JournalCheck
{
    /// <summary>Up to which a start looks at every page: a third of a second. A larger journal is looked at when a start has failed.</summary>
    public const long MostAtStart = 256L << 20;

    /// <summary>Above it a look at every page takes minutes.</summary>
    private const long MostBytes = 1L << 30;

    /// <summary>The file of the view, in the same folder.</summary>
    internal const string ViewFile = "view.db";

    private const int SqliteIoError = 10, SqliteCorrupt = 11, SqliteFull = 13, SqliteNotADatabase = 26;

    /// <summary>What is wrong with the journal in the folder.</summary>
    /// <param name="folder">The node's: <see cref="Node.SchedulerOptions.DataDirectory"/>.</param>
    /// <param name="most">Of bytes: of a larger file only the head is looked at.</param>
    /// <returns>The file, null when there is none; and what is wrong with it, null when nothing is.</returns>
    public static (string? File, string? Trouble) Look(string folder, long most = MostBytes)
    {
        var file = Path.Combine(folder, SqliteJournal.FileName);
        return Look(file, most, "put it back from a backup") is { Found: true } seen
            ? (file, seen.Trouble)
            : (null, Node.DataDirectory.HadJournal(folder) ? $"{file} is missing, and was here before: put it back from a backup" : null);
    }

    /// <summary>The same of the view, which is made anew from the journal when it is not there.</summary>
    /// <inheritdoc cref="Look(string, long)"/>
    public static (string? File, string? Trouble) LookAtView(string folder, long most = MostBytes)
    {
        var file = Path.Combine(folder, ViewFile);
        return Look(file, most, "delete it while no node runs on it, and it is made anew") is { Found: true } seen ? (file, seen.Trouble) : (null, null);
    }

    /// <summary>Whether SQLite found the file itself to be wrong, and not its disk or its mode.</summary>
    private static bool IsDamage(Exception fault) => fault is SqliteException { SqliteErrorCode: SqliteCorrupt or SqliteNotADatabase };

    private static (bool Found, string? Trouble) Look(string file, long most, string cure)
    {
        try
        {
            // Not File.Exists, to which a file that others may not see is none.
            _ = System.IO.File.GetAttributes(file);
            using var connection = new SqliteConnection(new SqliteConnectionStringBuilder { DataSource = file, Mode = SqliteOpenMode.ReadOnly, Pooling = false }.ToString());
            connection.Open();
            using var command = connection.CreateCommand();
            command.CommandText = new FileInfo(file).Length > most ? "select 'ok' from sqlite_schema limit 1" : "pragma quick_check(1)";
            var said = command.ExecuteScalar() as string;
            return (true, said == "ok" ? null : Damaged(said ?? "it says nothing"));
        }
        catch (Exception gone) when (gone is FileNotFoundException or DirectoryNotFoundException)
        {
            return (false, null);
        }
        catch (SqliteException fault) when (IsDamage(fault))
        {
            return (true, Damaged(fault.Message.TrimEnd('.')));
        }
        catch (Exception fault) when (fault is SqliteException or IOException or UnauthorizedAccessException)
        {
            // Of a disk without room SQLite says the same as of a broken one; whoever took the file away for that would lose what is on it.
            var what = fault is SqliteException { SqliteErrorCode: SqliteIoError or SqliteFull } ? $"look at its disk, which may be full (df {file}); if it is broken" : "run as the user that runs Fleet, or";
            return (true, $"{file} can't be read ({fault.Message.TrimEnd('.')}): {what} {cure}");
        }

        string Damaged(string said) => $"{file} is damaged ({said.ReplaceLineEndings(" ")}): {cure}";
    }
}
