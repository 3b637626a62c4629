using System.Globalization;
using Fleet.Scheduler.Placement;

namespace Fleet.Scheduler.Simulation;

/// <summary>A microVM of a trace comes or goes.</summary>
/// <param name="At">Seconds since the trace began.</param>
/// <param name="Vm">Its number.</param>
/// <param name="Comes">Else it goes.</param>
public readonly record struct TraceEvent(double At, int Vm, bool Comes);

/// <summary>MicroVMs that come and go, in order.</summary>
/// <param name="Name">Of the sample.</param>
/// <param name="Needs">What each takes, in units of the trace.</param>
/// <param name="Events">What goes at a moment goes before what comes.</param>
/// <param name="Shapes">Sizes of hosts that fit it, in the same units.</param>
public sealed record ArrivalTrace(string Name, IReadOnlyList<Resources> Needs, IReadOnlyList<TraceEvent> Events, IReadOnlyList<Resources> Shapes)
{
    /// <summary>MicroVMs that a trace may have.</summary>
    public const int MostVms = 2_000_000;

    private const double SecondsPerDay = 86_400;
    private const string ProteanHeader = "vmId,tenantId,cores,ram,vmTypeId,starttime,endtime";

    /// <summary>
    /// Of the table that comes with the Protean samples, the shapes of which both sizes fit the VMs' own, in its units (about a hundredth of a core; a
    /// quarter GiB).
    /// </summary>
    private static readonly Resources[] ProteanShapes = [new(6400, 3072), new(9600, 2250), new(10400, 2250), new(4000, 2048)];

    /// <summary>Cores and MiB.</summary>
    private static readonly Resources[] Machines = [new(64, 256 * 1024), new(96, 192 * 1024)];

    /// <summary>
    /// A Protean sample (a CSV file), or Azure's trace of 2017 (the folder with <c>flav_map.txt</c>, <c>v1.dev.txt</c>, <c>v1.dev.c2100000.txt</c> and
    /// <c>v1.interval_map.txt</c>). Each file may be packed, with .gz after its name.
    /// </summary>
    /// <param name="path">Of either.</param>
    /// <param name="seed">For what the trace only tells roughly.</param>
    /// <exception cref="TraceException">It is neither, broken, or has too many microVMs.</exception>
    public static ArrivalTrace Read(string path, int seed) => Directory.Exists(path) ? AzureTrace.Read(path, seed) : ReadProtean(path);

    /// <summary>
    /// By published figures of Azure's VMs (Resource Central, SOSP'17; Protean, OSDI'20): most have one or two cores and 2 to 8 GiB a core at most;
    /// more than half live under an hour, some for weeks, in between roughly evenly over the logarithm. Arrivals at random. Cores and MiB.
    /// </summary>
    public static ArrivalTrace Generate(int count, int seed)
    {
        (int Cores, int Share)[] cores = [(1, 45), (2, 25), (4, 17), (8, 9), (16, 4)];
        (double Gib, int Share)[] perCore = [(0.75, 10), (1.75, 40), (2, 15), (3.5, 20), (4, 5), (7, 10)];
        var random = new Random(seed);
        var needs = new List<Resources>();
        var times = new List<TraceEvent>();
        var at = 0.0;
        for (var vm = 0; vm < count; vm++)
        {
            var wants = Pick(random, cores);
            needs.Add(new(wants, (long)(wants * Pick(random, perCore) * 1024)));
            at += -Math.Log(1 - random.NextDouble()) / 2;
            var minutes = random.NextDouble() < 0.55 ? Math.Exp(random.NextDouble() * Math.Log(60)) : 60 * Math.Exp(random.NextDouble() * Math.Log(24 * 14));
            times.Add(new(at * 60, vm, true));
            times.Add(new((at + minutes) * 60, vm, false));
        }
        return InOrder("generated", needs, times, Machines);
    }

    /// <summary>The hosts without which no packing is possible: the volume of what is there at the worst moment.</summary>
    public double VolumeBound(Resources shape)
    {
        Resources used = default;
        var most = 0.0;
        foreach (var (_, vm, comes) in Events)
        {
            if (!Needs[vm].FitsIn(shape))
                continue;
            used = comes ? used + Needs[vm] : used - Needs[vm];
            most = Math.Max(most, Math.Max((double)used.Cpus / shape.Cpus, (double)used.MemoryMib / shape.MemoryMib));
        }
        return most;
    }

    internal static ArrivalTrace OnMachines(string name, List<Resources> needs, List<TraceEvent> times) => InOrder(name, needs, times, Machines);

    private static ArrivalTrace ReadProtean(string path)
    {
        var needs = new List<Resources>();
        var times = new List<TraceEvent>();
        using var file = new TraceFile(path);
        if (file.Next() != ProteanHeader)
            throw file.Malformed($"not the first line of a Protean sample, {ProteanHeader}");
        while (file.Next() is { } line)
        {
            var words = line.Split(',');
            if (words.Length != 7 || !Number(words[2], out var cores) || !Number(words[3], out var ram) || !Number(words[5], out var starts))
                throw file.Malformed("not seven fields with numbers of cores, ram and days");
            var ends = double.PositiveInfinity;
            if (words[6] != "inf" && !Number(words[6], out ends))
                throw file.Malformed($"'{words[6]}' is neither a number of days nor inf");
            if (cores < 0 || ram < 0 || ends < starts)
                throw file.Malformed("sizes below 0, or an end before the start");
            if (needs.Count == MostVms)
                throw new TraceException(TraceException.TooLarge, $"'{path}' has more than {MostVms} microVMs.");
            times.Add(new(starts * SecondsPerDay, needs.Count, true));
            if (words[6] != "inf")
                times.Add(new(ends * SecondsPerDay, needs.Count, false));
            needs.Add(new((long)Math.Ceiling(cores), (long)Math.Ceiling(ram)));
        }
        return InOrder(Path.GetFileName(path).Split('.')[0], needs, times, ProteanShapes);
    }

    // What was there before the trace began comes as it begins, in the order in which it came.
    private static ArrivalTrace InOrder(string name, List<Resources> needs, List<TraceEvent> times, IReadOnlyList<Resources> shapes) =>
        new(name, needs, [.. times.OrderBy(one => one.At).ThenBy(one => one.Comes).ThenBy(one => one.Vm).Select(one => one with { At = Math.Max(0, one.At) })], shapes);

    private static T Pick<T>(Random random, (T Value, int Share)[] of)
    {
        var at = random.Next(of.Sum(one => one.Share));
        foreach (var (value, share) in of)
        {
            if ((at -= share) < 0)
                return value;
        }
        return of[^1].Value;
    }

    private static bool Number(string text, out double number) =>
        double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out number) && double.IsFinite(number) && Math.Abs(number) < 1e9;
}
