using System.Diagnostics;
using Fleet.Vmm.Tests.Fuzz;

namespace Fleet.Benchmarks.Fuzz;

/// <summary>
/// <c>fleet bench fuzz</c>: what a hostile guest or client can send, to every device and parser in turn. It ends at the first
/// finding, with its seed.
/// </summary>
internal static class FuzzBenchmark
{
    private const ulong DefaultCases = 5_000_000;

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        var seed = options.Number("seed", (ulong)Stopwatch.GetTimestamp());
        var cases = (long)options.Number("cases", DefaultCases);
        Console.Error.WriteLine($"seed {seed}");
        var before = Descriptors();
        var results = new List<Measurement>();
        foreach (var make in FuzzRun.Targets)
        {
            var began = Stopwatch.GetTimestamp();
            using var target = make();
            try
            {
                FuzzRun.Run(target, seed, cases / FuzzRun.Targets.Count);
            }
            catch (FuzzFindingException finding)
            {
                throw new BenchmarkException(finding.ToString());
            }

            var rate = cases / FuzzRun.Targets.Count / Stopwatch.GetElapsedTime(began).TotalSeconds;
            results.Add(new($"cases_per_s {target.Name}", rate, "/s"));
        }

        var left = Descriptors().Except(before).ToArray();
        if (left.Length > 0)
            throw new BenchmarkException($"descriptors were left open: {string.Join(", ", left)}");
        GC.Collect();
        var resident = Environment.WorkingSet >> 20;
        return [new("cases", cases, ""), new("findings", 0, ""), new("resident_mib", resident, "MiB"), .. results];
    }

    // Of what the cases use; the runtime opens its own assemblies and pipes when it pleases.
    private static string[] Descriptors() =>
    [
        .. Directory.GetFiles("/proc/self/fd")
            .Select(path => $"{Path.GetFileName(path)}: {new FileInfo(path).LinkTarget}")
            .Where(line => !line.EndsWith(".dll", StringComparison.Ordinal) && !line.Contains("pipe:", StringComparison.Ordinal) && !line.Contains("[eventpoll]", StringComparison.Ordinal)),
    ];
}
