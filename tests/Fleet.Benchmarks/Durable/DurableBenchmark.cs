using Fleet.Benchmarks.Chaos;
using Fleet.Benchmarks.Start;
using Fleet.Chaos.Harness;

namespace Fleet.Benchmarks.Durable;

/// <summary>
/// Creates through the HTTP API, each until a host is told to launch it: the reservation is on the disk by then. One scheduler, its journal in
/// SQLite or PostgreSQL, and thousands of simulated hosts with a connection each; load, hosts, scheduler and database share the machine. Then a small
/// cell of the same kind is asked for more than it has room for.
/// </summary>
internal static class DurableBenchmark
{
    /// <summary>In turn: the first is short of CPUs before it is short of memory, the second the other way round.</summary>
    private static readonly HostSize[] SmallHosts = [new(4, 65_536), new(4, 768)];

    private const int SmallHostCount = 50;

    /// <summary>That race for the last places.</summary>
    private const int Racers = 64;

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        if (ChaosFleet.Missing is { } missing)
            throw new BenchmarkException(missing);
        var (hosts, seconds, window) = ((int)options.Number("hosts", 5_000), (int)options.Number("seconds", 60), (int)options.Number("window", 400));
        // --postgres 0 leaves that half out.
        string[] journals = options.Number("postgres", 1) == 0 ? ["sqlite"] : ["sqlite", "postgres"];
        return [.. journals.SelectMany(journal => MeasureAsync(journal, hosts, seconds, window).GetAwaiter().GetResult().Concat(FillAsync(journal).GetAwaiter().GetResult()))];
    }

    private static async Task<IReadOnlyList<Measurement>> MeasureAsync(string journal, int hosts, int seconds, int window)
    {
        await using var cell = await DurableCell.StartAsync(journal);
        using var load = new Creates(cell, window);
        await load.UntilHealthyAsync();
        await cell.OpenHostsAsync([.. Enumerable.Repeat(HostSize.Roomy, hosts)]);
        // Code that is hot is compiled anew in the first seconds.
        await load.RunAsync(TimeSpan.FromSeconds(10), null);
        var (schedulerMs, loadMs) = (ProcessFigures.CpuMs(cell.Scheduler.Pid), ProcessFigures.CpuMs(Environment.ProcessId));
        var full = await load.RunAsync(TimeSpan.FromSeconds(seconds), null);
        (schedulerMs, loadMs) = (ProcessFigures.CpuMs(cell.Scheduler.Pid) - schedulerMs, ProcessFigures.CpuMs(Environment.ProcessId) - loadMs);
        var half = await load.RunAsync(TimeSpan.FromSeconds(Math.Min(seconds, 30)), full.PerSecond / 2);
        var linksLost = cell.LinksLost;
        var ledgers = await LedgerCheck.ReadAsync(load.Api, cell);
        var lost = await load.LostByKillAsync();
        return
        [
            new($"{journal}_per_s", full.PerSecond, "/s", "bound", 4_000),
            // All that the process does meanwhile, heartbeats of its hosts too.
            new($"{journal}_scheduler_cpu_us", 1000 * schedulerMs / full.Milliseconds.Count, "us"),
            new($"{journal}_load_cpu_us", 1000 * loadMs / full.Milliseconds.Count, "us"),
            new($"{journal}_p50_full_ms", full.Percentile(0.5), "ms"),
            new($"{journal}_p50_ms", half.Percentile(0.5), "ms"),
            new($"{journal}_p99_ms", half.Percentile(0.99), "ms", "bound", 250),
            new($"{journal}_refused", load.Refused, ""),
            new($"{journal}_never_launched", load.Open, ""),
            new($"{journal}_double_allocations", cell.Launches.Doubles, ""),
            new($"{journal}_over_promised", ledgers.OverPromised, "hosts"),
            new($"{journal}_ledgers_off", ledgers.LedgersOff, "hosts"),
            new($"{journal}_links_lost", linksLost, ""),
            new($"{journal}_lost_by_kill", lost, ""),
        ];
    }

    private static async Task<IReadOnlyList<Measurement>> FillAsync(string journal)
    {
        await using var cell = await DurableCell.StartAsync(journal);
        using var load = new Creates(cell, Racers);
        await load.UntilHealthyAsync();
        await cell.OpenHostsAsync([.. Enumerable.Range(0, SmallHostCount).Select(at => SmallHosts[at % SmallHosts.Length])]);
        var slots = cell.Sizes.Values.Sum(LedgerCheck.Slots);
        var asked = slots * 3 / 2;
        var race = await load.RaceAsync(asked, Racers);
        var ledgers = await LedgerCheck.ReadAsync(load.Api, cell);
        return
        [
            new($"{journal}_full_launched", cell.Launches.Count, "", "slots", slots),
            new($"{journal}_full_refused", race.Refused, "", "too many", asked - slots),
            // Told at the create's own answer; the others were acknowledged, found the place taken and failed.
            new($"{journal}_full_refused_at_once", race.AtOnce, ""),
            new($"{journal}_full_neither", race.Neither, ""),
            new($"{journal}_full_double_allocations", cell.Launches.Doubles, ""),
            new($"{journal}_full_over_promised", ledgers.OverPromised, "hosts"),
            new($"{journal}_full_ledgers_off", ledgers.LedgersOff, "hosts"),
        ];
    }
}
