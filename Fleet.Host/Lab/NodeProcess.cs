using System.ComponentModel;
using System.Diagnostics;
using System.Globalization;

namespace Fleet.Host.Lab;

/// <summary>How long a node's QEMU lives.</summary>
public enum NodeLifetime
{
    /// <summary>The kernel kills it when the process that started it ends, however that ends.</summary>
    WithThisProcess,

    /// <summary>In a session of its own, until it is powered off.</summary>
    Detached,
}

/// <summary>
/// A QEMU that runs a node, known by process id and start time, so that an id which was given to another process since is
/// never taken for it.
/// </summary>
/// <param name="Pid">Process id.</param>
/// <param name="StartTicks">Field 22 of /proc/PID/stat.</param>
public sealed record NodeProcess(int Pid, ulong StartTicks)
{
    private static readonly TimeSpan Poll = TimeSpan.FromMilliseconds(20);

    /// <summary>Still there, and no zombie.</summary>
    public bool IsRunning => ReadStat(Pid) is (var state, var ticks) && ticks == StartTicks && state is not ('Z' or 'X');

    /// <summary>
    /// Starts <paramref name="program"/> in <paramref name="directory"/> with its output appended to
    /// <paramref name="logPath"/>. No file that it writes grows beyond <paramref name="fileSizeLimit"/> bytes: further writes
    /// fail with EFBIG.
    /// </summary>
    public static Task<NodeProcess> StartAsync(
        string program, IReadOnlyList<string> arguments, string directory, string logPath, NodeLifetime lifetime, long fileSizeLimit)
    {
        string[] prefix = lifetime == NodeLifetime.Detached ? ["setsid"] : ["setpriv", "--pdeathsig", "KILL"];
        const string script = """ulimit -f "$1"; trap '' XFSZ; log=$2; shift 2; exec "$@" </dev/null >>"$log" 2>&1""";
        // The shell counts in blocks of 512 bytes.
        string[] words = ["-c", script, "sh", (fileSizeLimit / 512).ToString(CultureInfo.InvariantCulture), logPath, .. prefix, program, .. arguments];
        var start = new ProcessStartInfo("/bin/sh", words) { UseShellExecute = false, WorkingDirectory = directory };
        var started = new TaskCompletionSource<NodeProcess>(TaskCreationOptions.RunContinuationsAsynchronously);
        // The kernel sends the parent-death signal when the thread that forked ends, not the process: so the thread stays.
        new Thread(() => RunToEnd(start, started)) { IsBackground = true, Name = "lab node" }.Start();
        return started.Task;
    }

    /// <summary>Kills it and waits until it is gone. Nothing happens when it is gone already.</summary>
    public async Task KillAsync()
    {
        if (!IsRunning) return;
        try
        {
            using var process = Process.GetProcessById(Pid);
            process.Kill();
        }
        catch (Exception gone) when (gone is ArgumentException or InvalidOperationException)
        {
            return;
        }
        // SIGKILL of a process that is in no uninterruptible call: milliseconds, plus the return of its memory.
        var since = Stopwatch.StartNew();
        while (IsRunning)
        {
            if (since.Elapsed > TimeSpan.FromSeconds(30))
                throw new LabException("boot_failed", $"Process {Pid} of a lab node does not end although it was killed. Look at /proc/{Pid}/stack.");
            await Task.Delay(Poll);
        }
    }

    /// <summary>Every emulator whose working directory is <paramref name="directory"/>.</summary>
    public static IReadOnlyList<NodeProcess> FindIn(string directory)
    {
        var found = new List<NodeProcess>();
        foreach (var folder in Directory.GetDirectories("/proc"))
        {
            if (!int.TryParse(Path.GetFileName(folder), NumberStyles.None, CultureInfo.InvariantCulture, out var pid)) continue;
            if (LinkTarget($"{folder}/cwd") == directory
                && Path.GetFileName(LinkTarget($"{folder}/exe"))?.StartsWith("qemu", StringComparison.Ordinal) == true
                && ReadStat(pid) is (_, var ticks))
                found.Add(new NodeProcess(pid, ticks));
        }
        return found;

        static string? LinkTarget(string path)
        {
            try
            {
                return new FileInfo(path).LinkTarget;
            }
            catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
            {
                return null;
            }
        }
    }

    private static void RunToEnd(ProcessStartInfo start, TaskCompletionSource<NodeProcess> started)
    {
        try
        {
            using var process = Process.Start(start)!;
            // Gone at once reads as start time 0, which no process has: not running.
            started.SetResult(new NodeProcess(process.Id, ReadStat(process.Id)?.Ticks ?? 0));
            process.WaitForExit();
        }
        catch (Exception error) when (error is Win32Exception or InvalidOperationException)
        {
            started.TrySetException(error);
        }
    }

    private static (char State, ulong Ticks)? ReadStat(int pid)
    {
        string stat;
        try
        {
            stat = File.ReadAllText($"/proc/{pid}/stat");
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            return null;
        }
        // The program's name is in parentheses and may hold anything, spaces and parentheses included.
        var fields = stat[(stat.LastIndexOf(')') + 1)..].Split(' ', StringSplitOptions.RemoveEmptyEntries);
        return fields.Length > 19 && ulong.TryParse(fields[19], CultureInfo.InvariantCulture, out var ticks) ? (fields[0][0], ticks) : null;
    }
}
