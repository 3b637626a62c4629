using Fleet.Host.Drivers.Processes;
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
            if (TryAcquire(path, out var reason) is { } held) return held;
            if (TimeProvider.System.GetElapsedTime(started) > limit)
                throw ImageUnavailable.Because($"Another process has held {path} for more than {limit.TotalSeconds:0} s ({reason}). Find it with `fuser {path}`.");
            if (!waiting) log.Information("Waiting for another process, which holds {Lock}", path);
            waiting = true;
            await Task.Delay(Poll, cancellation);
        }
    }

    /// <summary>The lock, or null when somebody has it.</summary>
    public static FileLock? TryAcquire(string path, out string reason)
    {
        try
        {
            reason = "";
            // FileShare.None is flock(LOCK_EX | LOCK_NB) on Linux.
            var file = new FileStream(path, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
            // Its last holder may have removed the file after we had opened it: then the next comer locks another one.
            if (Posix.TryIdentify($"/proc/self/fd/{file.SafeFileHandle.DangerousGetHandle()}") == Posix.TryIdentify(path)) return new FileLock(file);
            file.Dispose();
            reason = "the lock's file was removed by its holder";
            return null;
        }
        catch (IOException error) when (error is not (FileNotFoundException or DirectoryNotFoundException))
        {
            reason = error.Message;
            return null;
        }
    }

    /// <summary>
    /// A file that is there, for oneself; null when somebody has it open, or it is gone. .NET locks every file that it opens: shared, or alone with
    /// <see cref="FileShare.None"/>.
    /// </summary>
    public static FileLock? TryTake(string path)
    {
        try
        {
            return new FileLock(new FileStream(path, FileMode.Open, FileAccess.Read, FileShare.None));
        }
        catch (Exception taken) when (taken is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    public void Dispose() => _file.Dispose();
}
