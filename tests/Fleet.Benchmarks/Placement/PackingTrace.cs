using System.Globalization;
using System.IO.Compression;
using Fleet.Scheduler.Placement;

namespace Fleet.Benchmarks.Placement;

/// <summary>MicroVMs that come and go, in order.</summary>
/// <param name="Name">Of the sample.</param>
/// <param name="Needs">What each takes.</param>
/// <param name="Events">Which one comes (true) or goes.</param>
/// <param name="Shapes">Sizes of hosts to pack it on.</param>
internal sealed record PackingTrace(string Name, IReadOnlyList<Resources> Needs, IReadOnlyList<(int Vm, bool Comes)> Events, IReadOnlyList<Resources> Shapes)
{
    /// <summary>
    /// Of the table that comes with the samples, the shapes of which both sizes fit the VMs' own, in its units (about a hundredth of a core; a
    /// quarter GiB).
    /// </summary>
    private static readonly Resources[] ProteanShapes = [new(6400, 3072), new(9600, 2250), new(10400, 2250), new(4000, 2048)];

    /// <summary>The Protean samples of a folder, or one of our own making where none is given.</summary>
    public static IReadOnlyList<PackingTrace> Load(BenchmarkOptions options)
    {
        if (options.Traces is null)
            return [Generate((int)Math.Min(1_000_000, options.Number("microvms", 20_000)), (int)options.Number("seed", 1))];
        var folder = Path.Combine(options.Traces, "protean");
        if (!Directory.Exists(folder))
            throw new BenchmarkException($"'{folder}' is not there. --traces wants a folder with the Protean samples in protean/*.csv.gz.");
        var samples = Directory.GetFiles(folder, "*.csv.gz").Order(StringComparer.Ordinal).Select(Read).ToList();
        return samples.Count > 0 ? samples : throw new BenchmarkException($"'{folder}' has no *.csv.gz.");
    }

    /// <summary>The hosts without which no packing is possible: the volume of what is there at the worst moment.</summary>
    public double VolumeBound(Resources shape)
    {
        Resources used = default;
        var most = 0.0;
        foreach (var (vm, comes) in Events)
        {
            if (!Needs[vm].FitsIn(shape))
                continue;
            used = comes ? used + Needs[vm] : used - Needs[vm];
            most = Math.Max(most, Math.Max((double)used.Cpus / shape.Cpus, (double)used.MemoryMib / shape.MemoryMib));
        }
        return most;
    }

    private static PackingTrace Read(string file)
    {
        var needs = new List<Resources>();
        var times = new List<(double At, int Vm, bool Comes)>();
        using var reader = new StreamReader(new GZipStream(File.OpenRead(file), CompressionMode.Decompress));
        if (reader.ReadLine() != "vmId,tenantId,cores,ram,vmTypeId,starttime,endtime")
            throw new BenchmarkException($"'{file}' is not a Protean sample: its first line is not vmId,tenantId,cores,ram,vmTypeId,starttime,endtime.");
        while (reader.ReadLine() is { } line)
        {
            var words = line.Split(',');
            if (words.Length != 7 || !Number(words[2], out var cores) || !Number(words[3], out var ram) || !Number(words[5], out var starts) || !(Number(words[6], out var ends) || words[6] == "inf"))
                throw new BenchmarkException($"'{file}', line {needs.Count + 2}: not seven fields with numbers.");
            times.Add((starts, needs.Count, true));
            if (words[6] != "inf")
                times.Add((ends, needs.Count, false));
            needs.Add(new((long)Math.Ceiling(cores), (long)Math.Ceiling(ram)));
        }
        return new(Path.GetFileName(file).Split('.')[0], needs, InOrder(times), ProteanShapes);
    }

    // By published figures of Azure's VMs (Resource Central, SOSP'17; Protean, OSDI'20): most have one or two cores and 2 to 8 GiB a core at most;
    // more than half live under an hour, some for weeks, in between roughly evenly over the logarithm. Arrivals at random.
    private static PackingTrace Generate(int count, int seed)
    {
        (int Cores, int Share)[] cores = [(1, 45), (2, 25), (4, 17), (8, 9), (16, 4)];
        (double Gib, int Share)[] perCore = [(0.75, 10), (1.75, 40), (2, 15), (3.5, 20), (4, 5), (7, 10)];
        var random = new Random(seed);
        var needs = new List<Resources>();
        var times = new List<(double At, int Vm, bool Comes)>();
        var at = 0.0;
        for (var vm = 0; vm < count; vm++)
        {
            var wants = Pick(random, cores);
            needs.Add(new(wants, (long)(wants * Pick(random, perCore) * 1024)));
            at += -Math.Log(1 - random.NextDouble()) / 2;
            var minutes = random.NextDouble() < 0.55 ? Math.Exp(random.NextDouble() * Math.Log(60)) : 60 * Math.Exp(random.NextDouble() * Math.Log(24 * 14));
            times.Add((at, vm, true));
            times.Add((at + minutes, vm, false));
        }
        return new("generated", needs, InOrder(times), [new(64, 256 * 1024), new(96, 192 * 1024)]);
    }

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

    // What goes at a moment goes before what comes.
    private static List<(int Vm, bool Comes)> InOrder(List<(double At, int Vm, bool Comes)> times) =>
        [.. times.OrderBy(one => one.At).ThenBy(one => one.Comes).ThenBy(one => one.Vm).Select(one => (one.Vm, one.Comes))];

    private static bool Number(string text, out double number) =>
        double.TryParse(text, NumberStyles.Float, CultureInfo.InvariantCulture, out number) && double.IsFinite(number) && Math.Abs(number) < 1e9;
}
