using System.Globalization;

namespace Fleet.Host.Drivers.Processes;

/// <summary>
/// A process that no other can be mistaken for: its id, when it started (clock ticks since boot) and which boot that was.
/// </summary>
internal sealed record ProcessIdentity(int Pid, ulong StartTime, string BootId)
{
    // Fields of /proc/PID/stat, counted from the one behind the command's name, which itself may hold blanks and brackets.
    private const int StateField = 0;
    private const int UserTimeField = 11;
    private const int SystemTimeField = 12;
    private const int StartTimeField = 19;
    private const int ResidentField = 21;

    /// <summary>The kernel's unit in /proc, whatever its own clock: a hundredth of a second.</summary>
    private const int TicksPerSecond = 100;

    /// <summary>The running machine's boot.</summary>
    public static string CurrentBoot() => File.ReadAllText("/proc/sys/kernel/random/boot_id").Trim();

    /// <summary>Reads what a process wrote of itself: the boot id, then its line of /proc/PID/stat; null when cut short.</summary>
    public static ProcessIdentity? Parse(string text)
    {
        var lines = text.Split('\n');
        if (lines.Length < 3 || lines[0].Length == 0) return null;
        int blank = lines[1].IndexOf(' ', StringComparison.Ordinal);
        var fields = FieldsOf(lines[1]);
        if (blank <= 0 || fields.Length <= StartTimeField) return null;
        return int.TryParse(lines[1].AsSpan(0, blank), CultureInfo.InvariantCulture, out int pid) && pid > 0
            && ulong.TryParse(fields[StartTimeField], CultureInfo.InvariantCulture, out ulong start)
            ? new ProcessIdentity(pid, start, lines[0])
            : null;
    }

    /// <summary>Whether the process of this id is this one and not yet dead.</summary>
    public bool IsAlive()
    {
        var fields = ReadStat(Pid);
        return fields is not null
            && ulong.TryParse(fields[StartTimeField], CultureInfo.InvariantCulture, out ulong start) && start == StartTime
            && fields[StateField] is not ("Z" or "X");
    }

    /// <summary>CPU time that a process has used, in clock ticks; null when it is gone.</summary>
    public static ulong? CpuTicks(int pid)
    {
        var fields = ReadStat(pid);
        return fields is not null
            && ulong.TryParse(fields[UserTimeField], CultureInfo.InvariantCulture, out ulong user)
            && ulong.TryParse(fields[SystemTimeField], CultureInfo.InvariantCulture, out ulong system)
            ? user + system
            : null;
    }

    /// <summary>CPU time of all its threads, and resident memory; null when it is gone.</summary>
    public static VmmUse? ReadUse(int pid)
    {
        var fields = ReadStat(pid);
        return fields?.Length > ResidentField
            && ulong.TryParse(fields[UserTimeField], CultureInfo.InvariantCulture, out ulong user)
            && ulong.TryParse(fields[SystemTimeField], CultureInfo.InvariantCulture, out ulong system)
            && long.TryParse(fields[ResidentField], CultureInfo.InvariantCulture, out long pages)
            ? new VmmUse(TimeSpan.FromSeconds((double)(user + system) / TicksPerSecond), pages * (Environment.SystemPageSize / 1024))
            : null;
    }

    /// <summary>Whether any process has this directory as its working directory.</summary>
    public static bool WorksIn(string directory)
    {
        // By identity: the path that we know may lead over links, the kernel's never does.
        if (Posix.TryIdentify(directory) is not { } wanted) return false;
        foreach (string process in Directory.EnumerateDirectories("/proc"))
        {
            // Nothing to see: ended meanwhile, a kernel thread, or another user's, so no VMM of ours.
            if (char.IsAsciiDigit(process[^1]) && Posix.TryIdentify(Path.Combine(process, "cwd")) == wanted) return true;
        }
        return false;
    }

    private static string[]? ReadStat(int pid)
    {
        string line;
        try
        {
            line = File.ReadAllText($"/proc/{pid}/stat");
        }
        catch (Exception e) when (e is FileNotFoundException or DirectoryNotFoundException || IsNoSuchProcess(e))
        {
            return null;
        }
        var fields = FieldsOf(line);
        return fields.Length > StartTimeField ? fields : null;
    }

    // A process that ends between open and read makes the read fail with ESRCH.
    private static bool IsNoSuchProcess(Exception e) => e is IOException && e.HResult == 3;

    private static string[] FieldsOf(string stat)
    {
        int name = stat.LastIndexOf(')');
        return name < 0 || name + 2 > stat.Length ? [] : stat[(name + 2)..].Split(' ');
    }
}
