using Fleet.Scheduler.Access;
using Fleet.Scheduler.Journal;
using Fleet.Shared.Files;

namespace Fleet.Scheduler.Node;

/// <summary>The node's folder, held by one process at a time: two writers on one journal would end both.</summary>
internal sealed class DataDirectory : IDisposable
{
    private const string JournalNote = "journal.made";

    private readonly FileStream _lock;

    private DataDirectory(string path, FileStream held)
    {
        Path = path;
        _lock = held;
    }

    public string Path { get; }

    public string File(string name) => System.IO.Path.Combine(Path, name);

    /// <exception cref="SchedulerStartException">It can't be made, can't be written, or another process holds it.</exception>
    public static DataDirectory Take(string path)
    {
        try
        {
            path = Directory.CreateDirectory(path).FullName;
            // Specs stand in it, and whatever secrets their environments hold.
            System.IO.File.SetUnixFileMode(path, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw new SchedulerStartException($"The data directory {path} can't be made: {fault.Message}", fault);
        }
        try
        {
            // The lock is the kernel's and goes with the process, however that ends; the file itself stays and means nothing.
            return new(path, new FileStream(System.IO.Path.Combine(path, "scheduler.lock"), FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None));
        }
        catch (UnauthorizedAccessException fault)
        {
            throw new SchedulerStartException($"The data directory {path} can't be written: {fault.Message}", fault);
        }
        catch (IOException fault)
        {
            throw new SchedulerStartException(
                $"Another scheduler holds the data directory {path}. Stop that one first, or give this one a directory of its own. ({fault.Message})", fault);
        }
    }

    /// <summary>
    /// A cell whose journal was removed would start as an empty one, under the same authority: to its hosts it is the old cell, which
    /// has forgotten everything.
    /// </summary>
    /// <exception cref="SchedulerStartException">There was a journal, and it is gone.</exception>
    public void RequireJournal()
    {
        if (HadJournal(Path) && !System.IO.File.Exists(File(SqliteJournal.FileName)))
        {
            throw new SchedulerStartException(
                $"{File(SqliteJournal.FileName)} is missing: it was here before, and every microVM, host and token of this cell is in it. Put it back from a backup. To begin anew as an empty fleet, remove {File(JournalNote)} and start again.");
        }
    }

    /// <summary>An authority made anew is a stranger to every host, node and token of the cell that the journal is of.</summary>
    /// <param name="authority">The authority's folder.</param>
    /// <exception cref="SchedulerStartException">There is a journal, and no authority.</exception>
    public void RequireAuthority(string authority)
    {
        if (System.IO.File.Exists(File(SqliteJournal.FileName)) && !CertificateAuthority.Exists(authority))
        {
            throw new SchedulerStartException(
                $"{System.IO.Path.Combine(authority, CertificateAuthority.FileName)} is missing: the hosts, nodes and tokens of this cell are known by it. Put it back from a backup. To give the cell another one, with which every host joins anew and every token is made anew, run fleet scheduler init with the same --data and start again.");
        }
    }

    /// <summary>Whether a journal was made in that folder once.</summary>
    public static bool HadJournal(string folder) => System.IO.File.Exists(System.IO.Path.Combine(folder, JournalNote));

    /// <summary>From now on there is a journal here.</summary>
    /// <exception cref="SchedulerStartException">The folder can't be written.</exception>
    public void NoteJournal()
    {
        var note = File(JournalNote);
        if (System.IO.File.Exists(note))
            return;
        try
        {
            OwnFile.Write(note, $"{SqliteJournal.FileName} was made here. Without it no node starts on this folder, unless this file is removed too.\n");
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new SchedulerStartException($"{note} can't be written: {fault.Message}", fault);
        }
    }

    public void Dispose() => _lock.Dispose();
}
