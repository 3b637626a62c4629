using System.Globalization;
using Fleet.Chaos.Checking;
using Fleet.Chaos.Harness;
using Fleet.Chaos.Load;
using Fleet.Chaos.Network;

namespace Fleet.Benchmarks.Chaos;

/// <summary>
/// What callers and microVMs notice of a scheduler node that is killed, and of all three stopped in order and started again, one after the other, under a
/// load of creates, stops and deletes. A pause is the time from one good answer about a microVM to the next, less the time between two questions.
/// </summary>
internal static class NodesBenchmark
{
    private const int Schedulers = 3;

    private const int Hosts = 3;

    private const int Probed = 30;

    /// <summary>Until a node's death has certainly been dealt with, and until one that was started has settled.</summary>
    private static readonly TimeSpan Aftermath = TimeSpan.FromSeconds(30);

    private static readonly TimeSpan Settle = TimeSpan.FromSeconds(10);

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options) =>
        ChaosFleet.Missing is { } missing ? throw new BenchmarkException(missing) : MeasureAsync(options.Number("rate", 5)).GetAwaiter().GetResult();

    private static async Task<IReadOnlyList<Measurement>> MeasureAsync(double requestsPerSecond)
    {
        await using var fleet = await ChaosFleet.StartAsync(new FleetOptions { Schedulers = Schedulers, Hosts = Hosts, CpusPerHost = 32, MemoryMibPerHost = 4096 });
        var kernel = ChaosFleet.HasKvm ? fleet.IdleGuest : null;
        var steady = new ClientLoad(fleet.Api, new LoadOptions(1, Probed, kernel), 1);
        var vms = await Task.WhenAll(Enumerable.Range(0, Probed).Select(_ => steady.CreateAsync()));
        await fleet.WaitAsync("the microVMs to run", async () => await fleet.Api.ListAsync(0, "/v1/vms") is { } all && all.Count(vm => vm.GetProperty("state").GetString() == "running") == Probed, TimeSpan.FromMinutes(1));

        using var over = new CancellationTokenSource();
        var load = new ClientLoad(fleet.Api, new LoadOptions(requestsPerSecond, Probed, kernel), 2);
        var probes = new Probes(fleet.Api, vms);
        var working = Task.WhenAll(load.RunAsync(over.Token), probes.RunAsync(over.Token));
        try
        {
            await Task.Delay(Settle);
            var homes = await HomesAsync(fleet, vms);
            // The oldest node, which also says where actors live.
            var killedAt = Kernel.BootMs;
            fleet.Schedulers[0].Kill();
            await Task.Delay(Aftermath);
            var killedTo = Kernel.BootMs;
            await RestartAsync(fleet, 0);

            var stoppedAt = Kernel.BootMs;
            for (var node = 0; node < Schedulers; node++)
            {
                if (!await fleet.Schedulers[node].EndAsync())
                    throw new BenchmarkException(string.Create(CultureInfo.InvariantCulture, $"scheduler-{node} did not end in order"));
                await RestartAsync(fleet, node);
            }
            var stoppedTo = Kernel.BootMs;
            await over.CancelAsync();
            await working;
            await load.FinishAsync(TimeSpan.FromSeconds(30));

            var killed = probes.Pauses(killedAt, killedTo);
            var stopped = probes.Pauses(stoppedAt, stoppedTo);
            var runs = RunLog.ReadFolder(fleet.RunLogs).Where(run => vms.Contains(run.Vm)).ToList();
            return
            [
                .. Answers("killed", probes.Between(killedAt, killedTo)),
                new("killed_others", homes.Count(home => home.Value != 0), "microVMs"),
                new("killed_others_pause_s", Longest(killed, vm => homes.GetValueOrDefault(vm, -1) > 0), "s", "bound", 1),
                new("killed_its_own", homes.Count(home => home.Value == 0), "microVMs"),
                new("killed_its_own_pause_s", Longest(killed, vm => homes.GetValueOrDefault(vm, -1) == 0), "s", "bound", 15),
                .. Answers("stopped", probes.Between(stoppedAt, stoppedTo)),
                new("stopped_pause_s", Longest(stopped, _ => true), "s", "bound", 1),
                new("microvms_ran_on", runs.Where(run => run.Epoch == 1 && !run.Stood && run.FromMs < killedAt && run.PossibleToMs >= stoppedTo).Select(run => run.Vm).Distinct().Count(), "microVMs", "of", kernel is null ? 0 : runs.Select(run => run.Vm).Distinct().Count()),
            ];
        }
        finally
        {
            await over.CancelAsync();
            await working;
        }
    }

    /// <summary>Which node each microVM's actor lives on; one that nobody claims is left out.</summary>
    private static async Task<IReadOnlyDictionary<string, int>> HomesAsync(ChaosFleet fleet, IReadOnlyCollection<string> vms)
    {
        var homes = new Dictionary<string, int>();
        for (var node = 0; node < Schedulers; node++)
        {
            var awake = await fleet.Api.CommandAsync(node, "cluster-sharding", "list-entities", "vm", "--most", "10000")
                ?? throw new BenchmarkException(string.Create(CultureInfo.InvariantCulture, $"scheduler-{node} does not say which actors it has"));
            foreach (var vm in awake.Select(row => row.GetProperty("entity").GetString()!).Where(vms.Contains))
                homes[vm] = node;
        }
        return homes;
    }

    private static async Task RestartAsync(ChaosFleet fleet, int node)
    {
        fleet.Schedulers[node].Start();
        await fleet.WaitAsync("all nodes to be healthy", fleet.AllHealthyAsync, TimeSpan.FromMinutes(1));
        await Task.Delay(Settle);
    }

    private static double Longest(IReadOnlyDictionary<string, long> pauses, Func<string, bool> which) =>
        Math.Max(0, pauses.Where(pause => which(pause.Key)).Select(pause => pause.Value).DefaultIfEmpty(0).Max() / 1000.0);

    private static IEnumerable<Measurement> Answers(string phase, IReadOnlyList<ProbeResult> results) =>
    [
        new($"{phase}_requests", results.Count, ""),
        new($"{phase}_retried", results.Count(result => result.Succeeded && result.Statuses.Count > 1), ""),
        new($"{phase}_told_to_retry", results.Count(result => result.ToldToRetry), ""),
        new($"{phase}_failed", results.Count(result => result is { Succeeded: false, ToldToRetry: false }), ""),
    ];
}
