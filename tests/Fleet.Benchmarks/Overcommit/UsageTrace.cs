using System.Formats.Tar;
using System.Globalization;
using System.IO.Compression;

namespace Fleet.Benchmarks.Overcommit;

/// <summary>Curves of one resource of microVMs, each a day of five-minute samples from 0 to 1; those of a day are of the same day.</summary>
/// <param name="Name">As metrics name it.</param>
/// <param name="IsMemory">Else CPU.</param>
/// <param name="Days">The curves by day.</param>
internal sealed record UsageTrace(string Name, bool IsMemory, IReadOnlyList<IReadOnlyList<double[]>> Days)
{
    public const int Samples = 288;

    private const int MostCurves = 20_000;

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
        foreach (var (path, columns) in Files(Path.Combine(folder, "planetlab"), 1))
        {
            var words = path.Split('/');
            if (words.Length < 2 || ChoosingDays.Contains(words[^2]) != choosing || IsForChoosing(words[^1]) != choosing)
                continue;
            if (!planetLab.TryGetValue(words[^2], out var day))
                planetLab[words[^2]] = day = [];
            day.Add(columns[0]);
        }

        List<double[]> cpu = [], memory = [];
        foreach (var (path, columns) in Files(Path.Combine(folder, "gcd"), 2))
        {
            var words = path.Split('/')[^1].Split('_');
            if (words.Length != 3 || IsForChoosing(words[1]) != choosing)
                continue;
            cpu.Add(columns[0]);
            memory.Add(columns[1]);
        }

        return
        [
            new("planetlab", false, [.. planetLab.Values]),
            new("gcd_cpu", false, [cpu]),
            new("gcd_memory", true, [memory]),
        ];
    }

    /// <summary>Made-up curves: a level, a day's rhythm, noise that lasts a while, and bursts.</summary>
    public static IReadOnlyList<UsageTrace> Generate(ulong seed)
    {
        var random = new Random((int)seed);
        double[] Curve(bool isMemory)
        {
            var level = 0.02 + (0.3 * Math.Pow(random.NextDouble(), 2));
            var rhythm = random.NextDouble() * 0.5 * level;
            var phase = random.NextDouble() * 0.3;
            var noise = 0.0;
            var burst = 0;
            var curve = new double[Samples];
            for (var i = 0; i < Samples; i++)
            {
                noise = (0.9 * noise) + (0.2 * level * (random.NextDouble() - 0.5));
                if (burst > 0)
                    burst--;
                else if (!isMemory && random.NextDouble() < 0.004)
                    burst = random.Next(1, 12);
                var use = level + noise + (rhythm * Math.Sin((((double)i / Samples) + phase) * 2 * Math.PI)) + (burst > 0 ? 0.4 : 0);
                curve[i] = Math.Clamp(use, 0, 1);
            }
            return curve;
        }

        UsageTrace Of(string name, bool isMemory) =>
            new(name, isMemory, [.. Enumerable.Range(0, 2).Select(_ => (IReadOnlyList<double[]>)[.. Enumerable.Range(0, 640).Select(_ => Curve(isMemory))])]);
        return [Of("generated_cpu", false), Of("generated_memory", true)];
    }

    private static IEnumerable<(string Path, double[][] Columns)> Files(string folder, int columns)
    {
        if (!Directory.Exists(folder))
            throw new BenchmarkException($"there is no folder {folder}; --traces names the one with planetlab/ and gcd/ in it");
        var read = 0;
        foreach (var archive in Directory.GetFiles(folder, "*.tar.gz").Order(StringComparer.Ordinal))
        {
            using var tar = new TarReader(new GZipStream(File.OpenRead(archive), CompressionMode.Decompress));
            while (tar.GetNextEntry() is { } entry)
            {
                if (entry.DataStream is not { } data)
                    continue;
                if (++read > MostCurves)
                    throw new BenchmarkException($"{folder} has more than {MostCurves} curves");
                if (Parse(data, columns) is { } parsed)
                    yield return (entry.Name, parsed);
            }
        }
    }

    // Null: too few samples for a day, or no numbers.
    private static double[][]? Parse(Stream data, int columns)
    {
        var parsed = Enumerable.Range(0, columns).Select(_ => new double[Samples]).ToArray();
        using var lines = new StreamReader(data);
        for (var i = 0; i < Samples; i++)
        {
            var words = lines.ReadLine()?.Split((char[])[' ', '\t', ','], StringSplitOptions.RemoveEmptyEntries) ?? [];
            if (words.Length < columns)
                return null;
            for (var column = 0; column < columns; column++)
            {
                if (!double.TryParse(words[column], CultureInfo.InvariantCulture, out var percent))
                    return null;
                parsed[column][i] = Math.Clamp(percent / 100, 0, 1);
            }
        }
        return parsed;
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
