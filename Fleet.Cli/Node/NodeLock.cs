using System.Globalization;
using System.Runtime.InteropServices;

namespace Fleet.Cli.Node;

/// <summary>
/// One process per data directory. The lock is the kernel's (flock), so it is gone with its holder however that ended;
/// the pid beside it names the holder to <c>fleet down</c>.
/// </summary>
internal sealed partial class NodeLock : IDisposable
{
    private const int SigTerm = 15;
    private const int SigKill = 9;

    private readonly FileStream _lock;

    private NodeLock(FileStream held) => _lock = held;

    /// <summary>Null when another process holds the directory.</summary>
    public static NodeLock? TryTake(DataDirectory data)
    {
        Directory.CreateDirectory(data.Root);
        FileStream held;
        try
        {
            held = new FileStream(data.Lock, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
        }
        catch (IOException) when (File.Exists(data.Lock))
        {
            return null;
        }

        File.WriteAllText(PidFile(data), Environment.ProcessId.ToString(CultureInfo.InvariantCulture));
        return new NodeLock(held);
    }

    /// <summary>True while some process holds the directory.</summary>
    public static bool IsHeld(DataDirectory data)
    {
        if (!File.Exists(data.Lock))
            return false;
        try
        {
            using var probe = new FileStream(data.Lock, FileMode.Open, FileAccess.ReadWrite, FileShare.None);
            return false;
        }
        catch (FileNotFoundException)
        {
            return false;
        }
        catch (IOException)
        {
            return true;
        }
    }

    /// <summary>Asks the holder to end in order, and after <paramref name="patience"/> makes it. False when it is still there.</summary>
    public static async Task<bool> EndHolderAsync(DataDirectory data, TimeSpan patience, CancellationToken cancellation)
    {
        if (!int.TryParse(await File.ReadAllTextAsync(PidFile(data), cancellation), NumberStyles.None, CultureInfo.InvariantCulture, out var pid) || pid <= 1)
            return false;
        foreach (var (signal, wait) in new[] { (SigTerm, patience), (SigKill, TimeSpan.FromSeconds(5)) })
        {
            // The lock is held, so the pid in the file is its holder's: nobody else can have taken the number meanwhile.
            if (!IsHeld(data))
                return true;
            _ = kill(pid, signal);
            for (var waited = TimeSpan.Zero; waited < wait; waited += TimeSpan.FromMilliseconds(100))
            {
                if (!IsHeld(data))
                    return true;
                await Task.Delay(100, cancellation);
            }
        }

        return !IsHeld(data);
    }

    public void Dispose() => _lock.Dispose();

    private static string PidFile(DataDirectory data) => Path.Combine(data.Root, "fleet.pid");

    [LibraryImport("libc")]
    private static partial int kill(int pid, int signal);
}
