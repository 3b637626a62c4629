using System.Diagnostics;
using System.Globalization;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

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

    /// <summary>That there are, where hosts have some.</summary>
    private const int Images = 2000;

    private static readonly string[] Zones = ["zone-a", "zone-b", "zone-c"];

    /// <summary>vCPUs and MiB, with how often of 100: small ones are most, as in the traces.</summary>
    private static readonly (uint Cpus, ulong MemoryMib, int Share)[] Sizes =
        [(1, 512, 30), (1, 2048, 25), (2, 4096, 20), (2, 8192, 10), (4, 8192, 8), (4, 16384, 4), (8, 32768, 2), (16, 65536, 1)];

    private static readonly HashSet<string> Nobody = [];

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        if (options.Number("preempt", 0) > 0)
            return [.. Preempt(10_000)];
        if (options.Number("update", 0) > 0)
            return [.. HostUpdates.Run(10_000, (int)options.Number("seed", 1))];
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
        // Each host with 64 of 2,000 images.
        var imaged = new Churn(10_000, (int)options.Number("seed", 1), images: 64);
        imaged.Fill();
        imaged.Measure(Warm, constrained: false);
        var (imagedPerS, _, imagedP99) = imaged.Measure(Decisions, constrained: false);
        results.Add(new("images_per_s_10000", imagedPerS, "/s"));
        results.Add(new("images_p99_us_10000", imagedP99, "us"));
        // Every microVM asks for disk, network and disk operations too.
        var asked = new Churn(10_000, (int)options.Number("seed", 1), asked: true);
        asked.Fill();
        asked.Measure(Warm, constrained: false);
        var (askedPerS, _, askedP99) = asked.Measure(Decisions, constrained: false);
        results.Add(new("five_resources_per_s_10000", askedPerS, "/s"));
        results.Add(new("five_resources_p99_us_10000", askedP99, "us"));
        results.AddRange(Preempt(10_000));
        results.AddRange(HostUpdates.Run(10_000, (int)options.Number("seed", 1)));
        return results;
    }

    /// <summary>
    /// Every host is full of microVMs of lower classes, and a storm of higher ones comes: which host it would be (that is what is timed), and the word of that host. Once where
    /// all have enough of the lowest class, and once where one of 200 has, and all others one small microVM of it beside those of the next class, which are not enough either.
    /// </summary>
    private static IEnumerable<Measurement> Preempt(int hosts)
    {
        const int Storm = 4000;
        var demand = new Demand(4, 8192, "kvm", false, "") { Rank = PriorityClass.Rank(PriorityClass.High) };
        foreach (var (name, few) in ((string, bool)[])[("preempt", false), ("preempt_few", true)])
        {
            var index = new HostIndex();
            for (var i = 0; i < hosts; i++)
                index.Update(Full(i, gone: 0), TimeSpan.Zero);
            var gone = new Dictionary<string, int>(StringComparer.Ordinal);
            var micros = new double[Storm];
            for (var i = 0; i < Storm; i++)
            {
                var began = Stopwatch.GetTimestamp();
                var found = index.Find(demand, Nobody, "vm", "", TimeSpan.Zero, preempt: true).Hosts;
                micros[i] = (Stopwatch.GetTimestamp() - began) * 1e6 / Stopwatch.Frequency;
                if (found.Count == 0)
                    throw new BenchmarkException($"nobody gives way, after {i} have");
                var taken = gone[found[0]] = gone.GetValueOrDefault(found[0]) + 1;
                index.Update(Full(int.Parse(found[0].AsSpan(5), CultureInfo.InvariantCulture), taken), TimeSpan.Zero);
            }
            yield return new($"{name}_per_s_10000", Storm * 1e6 / micros.Sum(), "/s");
            Array.Sort(micros);
            yield return new($"{name}_p50_us_10000", micros[Storm / 2], "us");
            yield return new($"{name}_p99_us_10000", micros[Storm * 99 / 100], "us");
            // So much gives nobody. The first such question is the compiler's.
            index.Find(demand with { Cpus = 2048, Needs = new(2048, 8192) }, Nobody, "vm", "", TimeSpan.Zero, preempt: true);
            var asked = Stopwatch.GetTimestamp();
            index.Find(demand with { Cpus = 4096, Needs = new(4096, 8192) }, Nobody, "vm", "", TimeSpan.Zero, preempt: true);
            yield return new($"{name}_none_us_10000", (Stopwatch.GetTimestamp() - asked) * 1e6 / Stopwatch.Frequency, "us");

            HostView Full(int host, int gone) => few && host % 200 != 199 ? Carrying(host, gone, (0, 1, 1, 2048), (1, 1, 2, 2048)) : Carrying(host, gone, (0, 90, 360, 900_000));
        }

        static HostView Carrying(int host, int gone, params (uint Rank, int Vms, int Cpus, int MemoryMib)[] lower) => new()
        {
            HostId = $"host-{host:d5}",
            Connected = true,
            Version = (ulong)gone + 1,
            CpuRatio = 1,
            MemoryRatio = 1,
            ReservedCpus = 384,
            ReservedMemoryMib = 1_024_000,
            Inventory = new Inventory
            {
                Cpus = 384, MemoryMib = 1_024_000, AutoDriver = "kvm", Drivers = { new DriverStatus { Name = "kvm", Usable = true, StockKernels = true } },
            },
            Preemptible = { lower.Select(one => new ClassRoom { Rank = one.Rank, Vms = (uint)(one.Vms - gone), Cpus = (ulong)(one.Cpus - (4 * gone)), MemoryMib = (ulong)(one.MemoryMib - (8192 * gone)) }) },
        };
    }

    private sealed class Churn
    {
        private readonly PlacementEngine _engine = new();
        private readonly Random _random;
        private readonly Demand[] _sizes;
        private readonly int _hosts;
        private readonly bool _images;
        private List<(PlacedHost Host, Demand Demand, string? Group)> _placed = [];

        public Churn(int hosts, int seed, bool ownLabels = false, int images = 0, bool asked = false)
        {
            _hosts = hosts;
            _images = images > 0;
            _random = new Random(seed);
            _sizes = [.. Sizes.SelectMany(size => Enumerable.Repeat(new Demand(size.Cpus, size.MemoryMib, "kvm", false, ""), size.Share))
                .Select(size => asked ? size with { Needs = size.Needs with { DiskMib = 4096 * size.Cpus, NetworkMbit = 20 * size.Cpus, Iops = 500 * size.Cpus } } : size)];
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
                // As agents tell: disk and link always, disk operations where somebody said so.
                Resources capacity = i % 4 == 0 ? new(512, 1_536_000, 7_000_000, 50_000, asked ? 1_000_000 : 0) : new(384, 1_024_000, 5_000_000, 25_000, asked ? 1_000_000 : 0);
                var host = _engine.Put($"host-{i:d5}", inventory, capacity, asked ? capacity : capacity with { Iops = Resources.Unlimited }, null);
                if (images > 0)
                    _engine.SetImages(host, [.. Enumerable.Range(0, images).Select(_ => _random.Next(Images)).Distinct().Select(image => $"image-{image}")]);
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
                if (_images)
                    demand = demand with { Image = $"image-{_random.Next(Images)}" };
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
            _engine.Placed(demand);
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
