using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using Fleet.Chaos.Harness;

namespace Fleet.Benchmarks.Chaos;

/// <summary>A chaos run as a benchmark: how much was broken, what of it was seen outside, how long recovery took.</summary>
internal static class ChaosBenchmark
{
    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        if (ChaosFleet.Missing is { } missing)
            throw new BenchmarkException(missing);
        var schedulers = (int)options.Number("schedulers", 1);
        var chaos = new ChaosOptions
        {
            Seed = options.Number("seed", (ulong)Stopwatch.GetTimestamp() % 1_000_000),
            Length = TimeSpan.FromMinutes(options.Number("minutes", 10)),
            Pace = TimeSpan.FromSeconds(options.Number("pace", 6)),
            Fleet = new FleetOptions { Schedulers = schedulers, Hosts = (int)options.Number("hosts", 4), Lease = TimeSpan.FromSeconds(options.Number("lease", schedulers == 1 ? 6UL : 20UL)), MemoryMibPerHost = (int)options.Number("memory", 640) },
        };
        var clock = Stopwatch.StartNew();
        using var interrupted = new CancellationTokenSource();
        using var interrupt = PosixSignalRegistration.Create(PosixSignal.SIGINT, End);
        using var terminate = PosixSignalRegistration.Create(PosixSignal.SIGTERM, End);
        ChaosReport report;
        try
        {
            report = ChaosRun.RunAsync(chaos, Tell, interrupted.Token).GetAwaiter().GetResult();
        }
        catch (OperationCanceledException) when (interrupted.IsCancellationRequested)
        {
            throw new BenchmarkException("interrupted; nothing was checked");
        }
        foreach (var violation in report.Verdict.Violations)
            Tell($"VIOLATION {violation}");
        foreach (var possible in report.Verdict.Possible)
            Tell($"possible  {possible}");
        return
        [
            new("seed", report.Seed, ""),
            new("faults", report.FaultCount, ""),
            .. report.Faults.OrderBy(kind => kind.Key).Select(kind => new Measurement($"faults_{Snake(kind.Key.ToString())}", kind.Value, "")),
            new("microvms", report.MicroVms, ""),
            new("requests", report.Unanswered + report.Answers.Values.Sum(), ""),
            new("requests_unanswered", report.Unanswered, ""),
            .. report.Answers.OrderBy(answer => answer.Key).Select(answer => new Measurement($"requests_{answer.Key}", answer.Value, "")),
            new("crashes", report.Crashes.Count, ""),
            new("violations", report.Verdict.Violations.Count, ""),
            new("possible_overlaps", report.Verdict.Possible.Count, ""),
            new("recoveries", report.Verdict.Recoveries.Count, ""),
            new("recoveries_without_excuse", report.Verdict.Unexcused, ""),
            new("recoveries_excused", report.Verdict.Excused, ""),
            new("recoveries_late_excused", report.Verdict.LateExcused, ""),
            new("waited_for_room", report.Verdict.WaitedForRoom, ""),
            new("recovery_p50_s", report.RecoverySeconds(0.5), "s"),
            new("recovery_p99_s", report.RecoverySeconds(0.99), "s"),
            new("recovery_max_s", report.RecoverySeconds(1), "s"),
        ];

        // Its processes, namespaces and file systems go with it.
        void End(PosixSignalContext signal)
        {
            signal.Cancel = true;
            interrupted.Cancel();
        }

        // Standard output is the report's.
        void Tell(string line) => Console.Error.WriteLine(string.Create(CultureInfo.InvariantCulture, $"{clock.Elapsed.TotalSeconds,7:0.0}  {line}"));
    }

    private static string Snake(string name) => string.Concat(name.Select((letter, at) => char.IsUpper(letter) ? $"{(at > 0 ? "_" : "")}{char.ToLowerInvariant(letter)}" : $"{letter}"));
}
