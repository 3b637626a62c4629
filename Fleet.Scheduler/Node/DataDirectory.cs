namespace Fleet.Scheduler.Node;

/// <summary>The node's folder, held by one process at a time: two writers on one journal would end both.</summary>
internal sealed class DataDirectory : IDisposable
{
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

    public void Dispose() => _lock.Dispose();
}
