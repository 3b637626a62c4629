using System.Formats.Tar;
using System.Globalization;
using System.IO.Compression;

namespace Fleet.Scheduler.Simulation;

/// <summary>A day of one microVM's use, as shares of its limits.</summary>
/// <param name="Name">Its path in the archive, or a made-up one.</param>
/// <param name="Cpu"><see cref="UsageCurves.Samples"/> of them.</param>
/// <param name="Memory">As many; null: only CPU was recorded.</param>
public sealed record UsageCurve(string Name, double[] Cpu, double[]? Memory);

/// <summary>Recorded or made-up use of microVMs, a day of five-minute samples each.</summary>
public static class UsageCurves
{
    /// <summary>Of a day.</summary>
    public const int Samples = 288;

    private const int Most = 20_000;

    /// <summary>
    /// The curves of a <c>.tar.gz</c>, or of all in a folder: one file a microVM, a line for each five minutes with a percentage of CPU (PlanetLab) or of
    /// CPU and memory (GCD). Files that are shorter than a day are left out.
    /// </summary>
    /// <exception cref="TraceException">There are none, a line is no percentage, or there are too many.</exception>
    public static IEnumerable<UsageCurve> Read(string path)
    {
        string[] archives = Directory.Exists(path) ? [.. Directory.GetFiles(path, "*.tar.gz").Order(StringComparer.Ordinal)] : File.Exists(path) ? [path] : [];
        if (archives.Length == 0)
            throw new TraceException(TraceException.NotFound, $"'{path}' is neither a .tar.gz with curves nor a folder that has some.");
        var read = 0;
        foreach (var archive in archives)
        {
            using var tar = new TarReader(new GZipStream(File.OpenRead(archive), CompressionMode.Decompress));
            while (Next(tar, archive) is { } entry)
            {
                if (entry.DataStream is not { } data)
                    continue;
                if (++read > Most)
                    throw new TraceException(TraceException.TooLarge, $"'{path}' has more than {Most} curves.");
                using var file = new TraceFile($"{archive}:{entry.Name}", data);
                if (Parse(file, entry.Name) is { } curve)
                    yield return curve;
            }
        }
    }

    /// <summary>Made-up curves: a level, a day's rhythm, noise that lasts a while, and bursts of CPU.</summary>
    public static IReadOnlyList<UsageCurve> Generate(int count, int seed)
    {
        var random = new Random(seed);
        return [.. Enumerable.Range(0, count).Select(number => new UsageCurve($"generated/{number}", Curve(random, false), Curve(random, true)))];
    }

    private static double[] Curve(Random random, bool isMemory)
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

    private static TarEntry? Next(TarReader tar, string archive)
    {
        try
        {
            return tar.GetNextEntry();
        }
        catch (Exception broken) when (broken is IOException or InvalidDataException or FormatException)
        {
            throw new TraceException(TraceException.Malformed, $"'{archive}' is no .tar.gz: {broken.Message}");
        }
    }

    // Null: too few samples for a day.
    private static UsageCurve? Parse(TraceFile file, string name)
    {
        double[] cpu = new double[Samples];
        double[]? memory = null;
        for (var i = 0; i < Samples; i++)
        {
            if (file.Next() is not { } line)
                return null;
            var words = line.Split((char[])[' ', '\t', ','], StringSplitOptions.RemoveEmptyEntries);
            if (i == 0 && words.Length == 2)
                memory = new double[Samples];
            if (words.Length != (memory is null ? 1 : 2) || !Share(words[0], out cpu[i]) || (memory is not null && !Share(words[1], out memory[i])))
                throw file.Malformed(memory is null ? "not a percentage" : "not two percentages");
        }
        return new(name, cpu, memory);
    }

    private static bool Share(string word, out double share)
    {
        var isNumber = double.TryParse(word, CultureInfo.InvariantCulture, out var percent) && double.IsFinite(percent);
        share = Math.Clamp(percent / 100, 0, 1);
        return isNumber;
    }
}
