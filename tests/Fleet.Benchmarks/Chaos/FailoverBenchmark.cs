using Fleet.Chaos.Checking;
using Fleet.Chaos.Faults;
using Fleet.Chaos.Harness;
using Fleet.Chaos.Load;
using Fleet.Chaos.Network;

namespace Fleet.Benchmarks.Chaos;

/// <summary>A host dies with a hundred microVMs, three others are left: how long until all run again, at the default lease and at the shortest; of several schedulers at the default, which is their shortest.</summary>
internal static class FailoverBenchmark
{
    private const int MicroVms = 100;

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        if (ChaosFleet.Missing is { } missing)
            throw new BenchmarkException(missing);
        var schedulers = (int)options.Number("schedulers", 1);
        int[] leases = schedulers > 1 ? [20] : [20, 6];
        return [.. leases.SelectMany(lease => MeasureAsync(TimeSpan.FromSeconds(lease), schedulers).GetAwaiter().GetResult())];
    }

    private static async Task<IReadOnlyList<Measurement>> MeasureAsync(TimeSpan lease, int schedulers)
    {
        await using var fleet = await ChaosFleet.StartAsync(new FleetOptions
        {
            Schedulers = schedulers, Lease = lease, Hosts = 4, HostsAtStart = 1, CpusPerHost = 32, MemoryMibPerHost = 4096,
        });
        var load = new ClientLoad(fleet.Api, new LoadOptions(1, MicroVms, ChaosFleet.HasKvm ? fleet.IdleGuest : null), 1);
        await Task.WhenAll(Enumerable.Range(0, MicroVms).Select(_ => load.CreateAsync()));
        await RunningAsync(fleet, 1);
        fleet.Hosts.ForEach(host => host.Start());
        await fleet.WaitAsync("all hosts to be connected", () => fleet.AreConnectedAsync(4), TimeSpan.FromMinutes(1));

        var died = Kernel.BootMs;
        var injector = new Injector(fleet, _ => { });
        // The plug stays pulled until everything runs elsewhere.
        var off = injector.CarryOutAsync(new Fault(default, FaultKind.PowerOff, Role.Host, 0, lease + TimeSpan.FromSeconds(15), 0));
        await RunningAsync(fleet, 2);
        var runs = RunLog.ReadFolder(fleet.RunLogs);
        await off;
        var took = runs.Where(run => run.Epoch == 2).GroupBy(run => run.Vm).Select(run => run.Min(one => one.FromMs) - died).Order().ToList();
        var overlaps = Copies.Check(new History { Runs = runs, Strikes = injector.Strikes }, []).Count();
        var name = $"lease_{lease.TotalSeconds:0}_s";
        var bound = (lease + Recovery.Allowance).TotalSeconds;
        return
        [
            new($"{name}_placed_again", took.Count, "microVMs", "lost", MicroVms),
            new($"{name}_p50_s", took[took.Count / 2] / 1000.0, "s"),
            new($"{name}_last_s", took[^1] / 1000.0, "s", "lease + 5 s", bound),
            new($"{name}_ran_twice", overlaps, ""),
        ];
    }

    private static Task RunningAsync(ChaosFleet fleet, ulong epoch) => fleet.WaitAsync(
        $"{MicroVms} microVMs to run under epoch {epoch}",
        async () => await fleet.Api.ListAsync(0, "/v1/vms") is { } vms
            && vms.Count(vm => vm.GetProperty("state").GetString() == "running" && vm.GetProperty("epoch").GetUInt64() == epoch) == MicroVms,
        TimeSpan.FromMinutes(2));
}
