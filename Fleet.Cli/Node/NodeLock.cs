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
    private const int Attempts = 5;

    private readonly FileStream _lock;

    private NodeLock(FileStream held) => _lock = held;

    /// <summary>Null when another process holds the directory.</summary>
    public static NodeLock? TryTake(DataDirectory data)
    {
        Directory.CreateDirectory(data.Root);
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                var held = new FileStream(data.Lock, FileMode.OpenOrCreate, FileAccess.ReadWrite, FileShare.None);
                File.WriteAllText(PidFile(data), Environment.ProcessId.ToString(CultureInfo.InvariantCulture));
                return new NodeLock(held);
            }
            catch (IOException) when (File.Exists(data.Lock) && attempt < Attempts)
            {
                // It may be somebody who only looks whether it is held; that lasts an instant.
                Thread.Sleep(20);
            }
            catch (IOException) when (File.Exists(data.Lock))
            {
                return null;
            }
        }
    }

    /// <summary>The process that holds the directory; null when none does, or when it has not said yet which it is.</summary>
    public static int? Holder(DataDirectory data)
    {
        if (!IsHeld(data) || !File.Exists(PidFile(data)))
            return null;
        // The number may be an earlier holder's, which was killed, and a stranger's by now: it counts only for a Fleet.
        return int.TryParse(File.ReadAllText(PidFile(data)), NumberStyles.None, CultureInfo.InvariantCulture, out var pid) && pid > 1 && IsFleet(pid) ? pid : null;
    }

    /// <summary>True while some process holds the directory.</summary>
    public static bool IsHeld(DataDirectory data)
    {
        if (!File.Exists(data.Lock))
            return false;
        try
        {
            // A shared lock: those who only look never find each other.
            using var probe = new FileStream(data.Lock, FileMode.Open, FileAccess.Read, FileShare.Read);
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
        if (Holder(data) is not { } pid)
            return !IsHeld(data);
        foreach (var (signal, wait) in new[] { (SigTerm, patience), (SigKill, TimeSpan.FromSeconds(5)) })
        {
            // While the lock is held its holder lives, and nobody else can have taken its number.
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

    private static bool IsFleet(int pid)
    {
        try
        {
            return File.ReadAllText($"/proc/{pid}/cmdline").Contains(Path.GetFileName(Programs.Cli), StringComparison.Ordinal);
        }
        catch (IOException)
        {
            return false;
        }
    }

    public static string PidFile(DataDirectory data) => Path.Combine(data.Root, "fleet.pid");

    [LibraryImport("libc")]
    private static partial int kill(int pid, int signal);
}
