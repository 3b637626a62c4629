using Fleet.Scheduler.Simulation;

namespace Fleet.Benchmarks.Overcommit;

/// <summary>Curves of one resource of microVMs, each a day of five-minute samples from 0 to 1; those of a day are of the same day.</summary>
/// <param name="Name">As metrics name it.</param>
/// <param name="IsMemory">Else CPU.</param>
/// <param name="Days">The curves by day.</param>
internal sealed record UsageTrace(string Name, bool IsMemory, IReadOnlyList<IReadOnlyList<double[]>> Days)
{
    public const int Samples = UsageCurves.Samples;

    /// <summary>The days of PlanetLab that settings are chosen by; the others are measured.</summary>
    private static readonly string[] ChoosingDays = ["20110303", "20110306"];

    /// <summary>
    /// The traces below the folder: <c>planetlab/*.tar.gz</c> (DAY/MICROVM, a percentage a line) and <c>gcd/*.tar.gz</c> (vm_JOB_NUMBER, percentages
    /// of CPU and memory a line). Halves by the microVM's name, of GCD by its job's; of PlanetLab by days too.
    /// </summary>
    /// <param name="folder">Where they are.</param>
    /// <param name="choosing">The half that settings are chosen by, else the other.</param>
    public static IReadOnlyList<UsageTrace> Read(string folder, bool choosing)
    {
        var planetLab = new SortedDictionary<string, List<double[]>>(StringComparer.Ordinal);
        foreach (var curve in Curves(Path.Combine(folder, "planetlab")))
        {
            var words = curve.Name.Split('/');
            if (words.Length < 2 || ChoosingDays.Contains(words[^2]) != choosing || IsForChoosing(words[^1]) != choosing)
                continue;
            if (!planetLab.TryGetValue(words[^2], out var day))
                planetLab[words[^2]] = day = [];
            day.Add(curve.Cpu);
        }

        List<double[]> cpu = [], memory = [];
        foreach (var curve in Curves(Path.Combine(folder, "gcd")))
        {
            var words = curve.Name.Split('/')[^1].Split('_');
            if (words.Length != 3 || curve.Memory is null || IsForChoosing(words[1]) != choosing)
                continue;
            cpu.Add(curve.Cpu);
            memory.Add(curve.Memory);
        }

        return
        [
            new("planetlab", false, [.. planetLab.Values]),
            new("gcd_cpu", false, [cpu]),
            new("gcd_memory", true, [memory]),
        ];
    }

    /// <summary>Two days of made-up curves.</summary>
    public static IReadOnlyList<UsageTrace> Generate(ulong seed)
    {
        var days = Enumerable.Range(0, 2).Select(day => UsageCurves.Generate(640, (int)seed + (day * 7919))).ToList();
        return
        [
            new("generated_cpu", false, [.. days.Select(day => day.Select(curve => curve.Cpu).ToList())]),
            new("generated_memory", true, [.. days.Select(day => day.Select(curve => curve.Memory!).ToList())]),
        ];
    }

    private static List<UsageCurve> Curves(string folder)
    {
        if (!Directory.Exists(folder))
            throw new BenchmarkException($"there is no folder {folder}; --traces names the one with planetlab/ and gcd/ in it");
        try
        {
            return [.. UsageCurves.Read(folder)];
        }
        catch (TraceException broken)
        {
            throw new BenchmarkException(broken.Message);
        }
    }

    // FNV-1a: the same halves on every machine and in every run.
    private static bool IsForChoosing(string name)
    {
        var hash = 2_166_136_261u;
        foreach (var c in name)
            hash = unchecked((hash ^ c) * 16_777_619u);
        return (hash >> 7) % 2 == 0;
    }
}
