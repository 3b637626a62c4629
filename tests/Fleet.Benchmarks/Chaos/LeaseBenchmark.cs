using System.Globalization;
using Fleet.Chaos.Harness;

namespace Fleet.Benchmarks.Chaos;

/// <summary>What the leases of many hosts cost the scheduler: one process that holds all their links, each a connection of its own.</summary>
internal static class LeaseBenchmark
{
    private static readonly TimeSpan Measured = TimeSpan.FromSeconds(30);

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options) =>
        ChaosFleet.Missing is { } missing ? throw new BenchmarkException(missing) : MeasureAsync((int)options.Number("hosts", 2_000)).GetAwaiter().GetResult();

    private static async Task<IReadOnlyList<Measurement>> MeasureAsync(int hosts)
    {
        await using var fleet = await ChaosFleet.StartAsync(new FleetOptions { Hosts = 0 });
        using var over = new CancellationTokenSource();
        var links = new List<SimulatedHost>();
        try
        {
            for (var at = 0; at < hosts; at++)
                links.Add(await SimulatedHost.OpenAsync(Name(at), HostSize.Roomy, fleet.LinkAddress, fleet.Credentials, fleet.ConnectAsync, null, over.Token));
            // Beats are spread by when each connected; what came with connecting is over after a while.
            await Task.Delay(TimeSpan.FromSeconds(15));
            var (before, leases) = (CpuSeconds(fleet), links.Sum(link => link.Leases));
            await Task.Delay(Measured);
            var (after, renewed) = (CpuSeconds(fleet), links.Sum(link => link.Leases) - leases);
            var (user, system) = (after.User - before.User, after.System - before.System);
            var cpu = user + system;
            return
            [
                new("hosts", hosts, ""),
                new("leases_per_s", renewed / Measured.TotalSeconds, "1/s"),
                new("cpu_percent_of_core", 100 * cpu / Measured.TotalSeconds, "%", "bound", 10),
                new("cpu_percent_in_kernel", 100 * system / Measured.TotalSeconds, "%"),
                new("cpu_us_per_lease", cpu * 1_000_000 / Math.Max(1, renewed), "us"),
                new("links_lost", links.Count(link => link.Ended), ""),
            ];
        }
        finally
        {
            await over.CancelAsync();
            foreach (var link in links)
                link.Dispose();
        }
    }

    private static string Name(int host) => string.Create(CultureInfo.InvariantCulture, $"host-{host}");

    /// <summary>CPU time of the scheduler, which the kernel counts in 100ths of a second.</summary>
    private static (double User, double System) CpuSeconds(ChaosFleet fleet)
    {
        var words = File.ReadAllText($"/proc/{fleet.Schedulers[0].Pid}/stat").Split(") ")[^1].Split(' ');
        return (long.Parse(words[11], CultureInfo.InvariantCulture) / 100.0, long.Parse(words[12], CultureInfo.InvariantCulture) / 100.0);
    }
}
