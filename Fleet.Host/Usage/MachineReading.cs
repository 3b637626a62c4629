using System.Globalization;

namespace Fleet.Host.Usage;

/// <summary>The machine's CPU time so far and its memory now, all processes together.</summary>
/// <param name="Busy">Ticks that some CPU worked, or would have if its hypervisor had let it.</param>
/// <param name="Total">Ticks of all CPUs.</param>
/// <param name="Cpus">CPUs that are online.</param>
/// <param name="MemoryKib">What is not available.</param>
internal sealed record MachineReading(ulong Busy, ulong Total, int Cpus, ulong MemoryKib)
{
    // Fields of the line "cpu" of /proc/stat: user nice system idle iowait irq softirq steal; what follows is in user and nice already.
    private const int IdleField = 3;
    private const int WaitField = 4;
    private const int StealField = 7;
    private const int Fields = 8;

    /// <summary>Ticks that some CPU would have worked and its hypervisor did not let it; in <see cref="Busy"/> too.</summary>
    public ulong Steal { get; init; }

    /// <summary>Null when the kernel does not tell.</summary>
    /// <param name="proc">Where its files are.</param>
    public static MachineReading? Read(string proc = "/proc")
    {
        try
        {
            return Parse(File.ReadAllText(Path.Combine(proc, "stat")), File.ReadAllText(Path.Combine(proc, "meminfo")));
        }
        catch (Exception unreadable) when (unreadable is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>Share of the memory that is available, 0 to 1; null when the kernel does not tell.</summary>
    public static double? ReadMemoryAvailable(string proc)
    {
        try
        {
            var meminfo = File.ReadAllText(Path.Combine(proc, "meminfo"));
            return Kib(meminfo, "MemTotal:") is { } all and > 0 && Kib(meminfo, "MemAvailable:") is { } available ? Math.Min((double)available / all, 1) : null;
        }
        catch (Exception unreadable) when (unreadable is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <summary>Reads the kernel's two files; null when they are anything else.</summary>
    public static MachineReading? Parse(string stat, string meminfo)
    {
        var lines = stat.Split('\n');
        var words = lines[0].Split(' ', StringSplitOptions.RemoveEmptyEntries);
        if (words.Length <= Fields || words[0] != "cpu")
            return null;
        ulong busy = 0, total = 0, steal = 0;
        for (var i = 0; i < Fields; i++)
        {
            if (!ulong.TryParse(words[i + 1], NumberStyles.None, CultureInfo.InvariantCulture, out var ticks))
                return null;
            total += ticks;
            if (i is not (IdleField or WaitField))
                busy += ticks;
            if (i == StealField)
                steal = ticks;
        }
        var cpus = lines.Count(line => line.StartsWith("cpu", StringComparison.Ordinal)) - 1;
        return Kib(meminfo, "MemTotal:") is { } all && Kib(meminfo, "MemAvailable:") is { } available
            ? new MachineReading(busy, total, cpus, all > available ? all - available : 0) { Steal = steal }
            : null;
    }

    /// <summary>Share of the CPUs' time that was stolen since then, 0 to 1.</summary>
    public double StealSince(MachineReading before) =>
        Total > before.Total && Steal >= before.Steal ? Math.Min((double)(Steal - before.Steal) / (Total - before.Total), 1) : 0;

    /// <summary>Thousandths of a CPU that were busy since then.</summary>
    public uint CpuMillisSince(MachineReading before) =>
        Total > before.Total && Busy >= before.Busy
            ? (uint)(Math.Min((double)(Busy - before.Busy) / (Total - before.Total), 1.0) * Cpus * 1000)
            : 0;

    private static ulong? Kib(string meminfo, string key)
    {
        foreach (var line in meminfo.Split('\n'))
        {
            if (line.StartsWith(key, StringComparison.Ordinal)
                && ulong.TryParse(line[key.Length..].Trim().Split(' ')[0], NumberStyles.None, CultureInfo.InvariantCulture, out var kib))
                return kib;
        }
        return null;
    }
}
