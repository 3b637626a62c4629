using System.Diagnostics;
using Fleet.Chaos.Checking;
using Fleet.Chaos.Harness;
using Fleet.Chaos.Load;
using Fleet.Chaos.Network;

namespace Fleet.Benchmarks.Chaos;

/// <summary>The whole control plane, several nodes that share a PostgreSQL database or one with its own file, is killed and started again with thousands of microVMs in its journal: how long until all its state is back.</summary>
internal static class RestartBenchmark
{
    private const int FilledAtOnce = 250;

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options) =>
        ChaosFleet.Missing is { } missing ? throw new BenchmarkException(missing) : MeasureAsync((int)options.Number("vms", 10_000), (int)options.Number("schedulers", 3)).GetAwaiter().GetResult();

    private static async Task<IReadOnlyList<Measurement>> MeasureAsync(int microVms, int schedulers)
    {
        // Each promises at most what its machine has, and all are on this one: 20 GiB each.
        const int Hosts = 16;
        await using var fleet = await ChaosFleet.StartAsync(new FleetOptions { Schedulers = schedulers, Hosts = Hosts, CpusPerHost = microVms / Hosts, MemoryMibPerHost = (microVms / Hosts * 32) + 1024 });
        var load = new ClientLoad(fleet.Api, new LoadOptions(1, microVms, null), 1);
        var clock = Stopwatch.StartNew();
        for (var made = 0; made < microVms;)
        {
            // Some at a time: how fast they can be placed is another question.
            var count = Math.Min(FilledAtOnce, microVms - made);
            await Task.WhenAll(Enumerable.Range(0, count).Select(_ => load.CreateAsync()));
            var all = made += count;
            await fleet.WaitAsync($"{all} microVMs to run", () => AllRunAsync(fleet, all), TimeSpan.FromMinutes(5));
        }

        var filled = clock.Elapsed;

        clock.Restart();
        var killed = Kernel.BootMs;
        fleet.Schedulers.ForEach(scheduler => scheduler.Kill());
        fleet.Schedulers.ForEach(scheduler => scheduler.Start());
        await fleet.WaitAsync("the API", fleet.AllHealthyAsync, TimeSpan.FromMinutes(5));
        var healthy = clock.Elapsed;
        await fleet.WaitAsync("the hosts to be connected", () => fleet.AreConnectedAsync(Hosts), TimeSpan.FromMinutes(5));
        var connected = clock.Elapsed;
        await fleet.WaitAsync("all microVMs", () => AllRunAsync(fleet, microVms), TimeSpan.FromMinutes(5));
        var back = clock.Elapsed;
        // A command has to go all the way to a host and back too.
        var vm = load.Log.First(request => request.Vm is not null).Vm!;
        await fleet.Api.SendAsync(0, HttpMethod.Post, $"/v1/vms/{vm}/stop", timeout: TimeSpan.FromMinutes(2));
        await fleet.Api.SendAsync(0, HttpMethod.Get, $"/v1/vms/{vm}/wait?state=stopped&timeout=100", timeout: TimeSpan.FromMinutes(2));
        var served = clock.Elapsed;
        var noticed = RunLog.ReadFolder(fleet.RunLogs).Where(run => run.Stood && run.PossibleToMs > killed && run.Vm != vm).Select(run => run.Vm).Distinct().Count();
        return
        [
            new("microvms", microVms, ""),
            new("schedulers", schedulers, ""),
            new("fill_s", filled.TotalSeconds, "s"),
            new("api_s", healthy.TotalSeconds, "s"),
            new("hosts_s", connected.TotalSeconds, "s"),
            new("all_back_s", back.TotalSeconds, "s", "bound", 20),
            new("first_stop_s", served.TotalSeconds, "s"),
            new("stood_still", noticed, "microVMs"),
        ];
    }

    private static async Task<bool> AllRunAsync(ChaosFleet fleet, int count) =>
        await fleet.Api.ListAsync(0, "/v1/vms") is { } vms && vms.Count == count && vms.All(vm => vm.GetProperty("state").GetString() == "running");
}
