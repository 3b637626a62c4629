using System.Diagnostics;
using System.Globalization;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;

namespace Fleet.Benchmarks.Placement;

/// <summary>
/// <c>fleet bench placement</c>: a fleet is filled with 100 microVMs a host, and then each decision follows the end of another microVM. A
/// decision is the choice and its effect on the index. On one thread, as each node has one.
/// </summary>
internal static class PlacementBenchmark
{
    private const int PerHost = 100;
    private const int Warm = 20_000;
    private const int Decisions = 200_000;
    private const int Constrained = 50_000;

    /// <summary>Members of a service that is spread and kept apart.</summary>
    private const int GroupSize = 20;

    private static readonly string[] Zones = ["zone-a", "zone-b", "zone-c"];

    /// <summary>vCPUs and MiB, with how often of 100: small ones are most, as in the traces.</summary>
    private static readonly (uint Cpus, ulong MemoryMib, int Share)[] Sizes =
        [(1, 512, 30), (1, 2048, 25), (2, 4096, 20), (2, 8192, 10), (4, 8192, 8), (4, 16384, 4), (8, 32768, 2), (16, 65536, 1)];

    private static readonly HashSet<string> Nobody = [];

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        var results = new List<Measurement>();
        foreach (var hosts in (int[])[100, 1000, 10_000])
        {
            var before = GC.GetTotalMemory(forceFullCollection: true);
            var fleet = new Churn(hosts, (int)options.Number("seed", 1));
            fleet.Fill();
            fleet.Measure(Warm, constrained: false);
            var name = hosts.ToString(CultureInfo.InvariantCulture);
            var (perS, p50, p99) = fleet.Measure(Decisions, constrained: false);
            results.Add(new($"decisions_per_s_{name}", perS, "/s"));
            results.Add(new($"p50_us_{name}", p50, "us"));
            results.Add(new($"p99_us_{name}", p99, "us"));
            fleet.Measure(Warm, constrained: true);
            (perS, p50, p99) = fleet.Measure(Constrained, constrained: true);
            results.Add(new($"constrained_per_s_{name}", perS, "/s"));
            results.Add(new($"constrained_p99_us_{name}", p99, "us"));
            results.Add(new($"microvms_{name}", fleet.Carried, ""));
            fleet.Forget();
            results.Add(new(hosts == 10_000 ? "index_mb" : $"index_mb_{name}", (GC.GetTotalMemory(forceFullCollection: true) - before) / 1e6, "MB"));
            GC.KeepAlive(fleet);
        }
        // Each host with a label that no other has: 10,000 kinds of hosts to whoever asks for one, one kind to all others.
        var labelled = new Churn(10_000, (int)options.Number("seed", 1), ownLabels: true);
        labelled.Fill();
        labelled.Measure(Warm, constrained: false);
        var (labelledPerS, _, labelledP99) = labelled.Measure(Decisions, constrained: false);
        results.Add(new("own_labels_per_s_10000", labelledPerS, "/s"));
        results.Add(new("own_labels_p99_us_10000", labelledP99, "us"));
        return results;
    }

    private sealed class Churn
    {
        private readonly PlacementEngine _engine = new();
        private readonly Random _random;
        private readonly Demand[] _sizes;
        private readonly int _hosts;
        private List<(PlacedHost Host, Demand Demand, string? Group)> _placed = [];

        public Churn(int hosts, int seed, bool ownLabels = false)
        {
            _hosts = hosts;
            _random = new Random(seed);
            _sizes = [.. Sizes.SelectMany(size => Enumerable.Repeat(new Demand(size.Cpus, size.MemoryMib, "kvm", false, ""), size.Share))];
            for (var i = 0; i < hosts; i++)
            {
                var inventory = new Inventory
                {
                    AutoDriver = "kvm",
                    Drivers = { new DriverStatus { Name = "kvm", Usable = true, StockKernels = true }, new DriverStatus { Name = "qemu", Usable = true, StockKernels = true } },
                    Labels = { ["zone"] = Zones[i % 3], ["disk"] = i % 2 == 0 ? "nvme" : "ssd" },
                };
                if (ownLabels)
                    inventory.Labels.Add("name", $"host-{i:d5}");
                // Two generations of machines, about twice what 100 microVMs take of them on average.
                Resources capacity = i % 4 == 0 ? new(512, 1_536_000) : new(384, 1_024_000);
                _engine.Put($"host-{i:d5}", inventory, capacity, capacity, null);
            }
        }

        public int Carried => _placed.Count;

        public void Fill()
        {
            for (var i = 0; i < _hosts * PerHost; i++)
                Place(_sizes[_random.Next(_sizes.Length)], null);
        }

        public (double PerS, double P50, double P99) Measure(int decisions, bool constrained)
        {
            var micros = new double[decisions];
            var group = "";
            Demand[] apart = [];
            long spent = 0;
            for (var i = 0; i < decisions; i++)
            {
                End();
                if (constrained && i % GroupSize == 0)
                {
                    group = $"service-{_random.Next()}";
                    var rules = new PlacementRules { Spread = new(group, 1), Groups = [new(group, RuleScope.Host, Apart: true, Hard: true)] };
                    apart = [.. _sizes.Select(size => size with { Rules = rules })];
                }
                var demand = (constrained ? apart : _sizes)[_random.Next(_sizes.Length)];
                var began = Stopwatch.GetTimestamp();
                Place(demand, constrained ? group : null);
                var took = Stopwatch.GetTimestamp() - began;
                spent += took;
                micros[i] = took * 1e6 / Stopwatch.Frequency;
            }
            Array.Sort(micros);
            return (decisions * (double)Stopwatch.Frequency / spent, micros[decisions / 2], micros[decisions * 99 / 100]);
        }

        /// <summary>Drops what the benchmark remembers and the index does not.</summary>
        public void Forget() => _placed = [];

        private void Place(Demand demand, string? group)
        {
            var best = _engine.Choose(demand, Nobody);
            if (best.Length == 0)
                throw new BenchmarkException($"{demand.Cpus} vCPUs and {demand.MemoryMib} MiB found no host of {_hosts}, with {_placed.Count} microVMs placed");
            var host = best[0].Host;
            _engine.SetFree(host, host.Free - demand.Needs);
            if (group is not null)
                _engine.Count(host, group, 1);
            _placed.Add((host, demand, group));
        }

        private void End()
        {
            var at = _random.Next(_placed.Count);
            var (host, demand, group) = _placed[at];
            _placed[at] = _placed[^1];
            _placed.RemoveAt(_placed.Count - 1);
            _engine.SetFree(host, host.Free + demand.Needs);
            if (group is not null)
                _engine.Count(host, group, -1);
        }
    }
}
