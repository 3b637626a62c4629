using Serilog;

namespace Fleet.Host.Images;

/// <summary>
/// A lock among processes of one machine: flock(2) on a file, which the kernel lets go when the holder dies, however it
/// dies. The file stays; its content means nothing.
/// </summary>
internal sealed class FileLock : IDisposable
{
    private static readonly TimeSpan Poll = TimeSpan.FromMilliseconds(50);

    private readonly FileStream _file;

    private FileLock(FileStream file) => _file = file;

    /// <summary>Waits for the lock, at most <paramref name="limit"/>, and says so in the log when it has to.</summary>
    public static async Task<FileLock> AcquireAsync(string path, TimeSpan limit, ILogger log, CancellationToken cancellation)
    {
        var waiting = false;
        var started = TimeProvider.System.GetTimestamp();
        while (true)
        {
            try
            {
                // FileShare.None is flock(LOCK_EX | LOCK_NB) on Linux.
                return new FileLock(new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None));
            }
            catch (IOException error) when (error is not (FileNotFoundException or DirectoryNotFoundException))
            {
                if (TimeProvider.System.GetElapsedTime(started) > limit)
                    throw ImageUnavailable.Because($"Another process has held {path} for more than {limit.TotalSeconds:0} s ({error.Message}). Find it with `fuser {path}`.", error);
            }
            if (!waiting) log.Information("Waiting for another process, which holds {Lock}", path);
            waiting = true;
            await Task.Delay(Poll, cancellation);
        }
    }

    public void Dispose() => _file.Dispose();
}
