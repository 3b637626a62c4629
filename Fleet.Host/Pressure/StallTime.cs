using System.Globalization;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Pressure;

/// <summary>How long tasks stood still for want of one resource, since the kernel or the control group began (PSI).</summary>
/// <param name="Some">At least one of them.</param>
/// <param name="Full">All that were not idle, at once.</param>
public readonly record struct StallTime(TimeSpan Some, TimeSpan Full)
{
    /// <summary>The kernel's file has two lines of some 70 characters; a longer one is another file.</summary>
    private const int LongestText = 1024;

    private const string Total = "total=";

    /// <summary>
    /// Parses <c>some avg10=… avg60=… avg300=… total=µs</c> and the same for <c>full</c>, which kernels before 5.13 leave out for CPU (kernel:
    /// Documentation/accounting/psi.rst); null when it is anything else.
    /// </summary>
    public static StallTime? Parse(string text)
    {
        if (text.Length > LongestText)
            return null;
        TimeSpan? some = null;
        var full = TimeSpan.Zero;
        foreach (var line in text.Split('\n', StringSplitOptions.RemoveEmptyEntries))
        {
            var words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words.Length < 2 || !words[^1].StartsWith(Total, StringComparison.Ordinal)
                || !ulong.TryParse(words[^1].AsSpan(Total.Length), NumberStyles.None, CultureInfo.InvariantCulture, out var microseconds)
                || microseconds > long.MaxValue / TimeSpan.TicksPerMicrosecond)
                return null;
            var time = TimeSpan.FromMicroseconds((long)microseconds);
            if (words[0] == "some")
                some = time;
            else if (words[0] == "full")
                full = time;
        }
        return some is { } known ? new StallTime(known, full) : null;
    }

    /// <summary>Reads one of the kernel's files; null when there is none, or the kernel was booted without PSI.</summary>
    public static StallTime? Read(string path)
    {
        try
        {
            return Parse(File.ReadAllText(path));
        }
        catch (Exception unreadable) when (unreadable is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }
}

/// <summary>Stalls for each resource; null: the kernel does not tell.</summary>
public readonly record struct Stalls(StallTime? Cpu, StallTime? Memory, StallTime? Io)
{
    /// <summary>Of all processes of the machine.</summary>
    /// <param name="proc">Where the kernel's files are.</param>
    public static Stalls OfMachine(string proc = "/proc") => Of(Path.Combine(proc, "pressure/{0}"));

    /// <summary>Of the processes in a control group of version 2.</summary>
    public static Stalls OfGroup(string folder) => Of(Path.Combine(folder, "{0}.pressure"));

    public bool AreTold => Cpu is not null || Memory is not null || Io is not null;

    /// <summary>Shares of the time between two readings.</summary>
    public StallShares Since(Stalls before, TimeSpan span) => new(
        Share(Cpu?.Some, before.Cpu?.Some, span),
        Share(Memory?.Some, before.Memory?.Some, span),
        Share(Memory?.Full, before.Memory?.Full, span),
        Share(Io?.Some, before.Io?.Some, span),
        Share(Io?.Full, before.Io?.Full, span));

    private static Stalls Of(string pattern)
    {
        StallTime? One(string name) => StallTime.Read(pattern.Replace("{0}", name, StringComparison.Ordinal));
        return new(One("cpu"), One("memory"), One("io"));
    }

    // Less than before: another group, or another boot.
    private static double? Share(TimeSpan? now, TimeSpan? before, TimeSpan span) =>
        now >= before && span > TimeSpan.Zero ? Math.Min((now.Value - before.Value) / span, 1) : null;
}

/// <summary>Shares of a time in which tasks stood still, 0 to 1; null: not known.</summary>
public readonly record struct StallShares(double? CpuSome, double? MemorySome, double? MemoryFull, double? IoSome, double? IoFull)
{
    /// <summary>As the control plane is told; null: nothing is known.</summary>
    public StallFigures? ToFigures() => this == default ? null : new()
    {
        CpuSome = Permille(CpuSome),
        MemorySome = Permille(MemorySome),
        MemoryFull = Permille(MemoryFull),
        IoSome = Permille(IoSome),
        IoFull = Permille(IoFull),
    };

    private static uint Permille(double? share) => (uint)Math.Round((share ?? 0) * 1000);
}
