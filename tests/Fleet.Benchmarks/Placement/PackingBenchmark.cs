using Fleet.Scheduler.Placement;

namespace Fleet.Benchmarks.Placement;

/// <summary>
/// <c>fleet bench packing</c>: the same microVMs come and go on the same hosts, placed by Fleet's engine and by the rules of others. Once with
/// as many hosts as the volume bound says, until one finds no room; once with as many hosts as each rule needs.
/// </summary>
internal static class PackingBenchmark
{
    private const string EngineName = "fleet";

    /// <summary>Lowest score wins; what a rule knows of usage is here the reserved part. Random where the rule is.</summary>
    private static readonly (string Name, Func<Random, PackingPolicy> Make)[] Policies =
    [
        (EngineName, _ => new EnginePolicy(PlacementEngine.Sample)),
        ("fleet_all_scored", _ => new EnginePolicy(int.MaxValue)),
        ("first_fit", random => new ScoredPolicy((int host, in Resources _, in Resources _, in Resources _) => host, random)),
        ("best_fit", random => new ScoredPolicy((int _, in Resources _, in Resources after, in Resources capacity) => Cpu(after, capacity) + Memory(after, capacity), random)),
        ("worst_fit", random => new ScoredPolicy((int _, in Resources _, in Resources after, in Resources capacity) => -Cpu(after, capacity) - Memory(after, capacity), random)),
        // E2B: three at random, the one with the least of its processors promised; memory is not scored.
        ("best_of_3", random => new ScoredPolicy((int _, in Resources _, in Resources after, in Resources capacity) => -Cpu(after, capacity), random, 3)),
        // 0.6 for each free core and 0.3 for each free GiB, in the units of the trace's own ratio of both.
        ("pandastack", random => new ScoredPolicy((int _, in Resources free, in Resources _, in Resources capacity) =>
            -(0.6 * Cpu(free, capacity) * 64) - (0.3 * Memory(free, capacity) * 256), random)),
        // Mean use near 0.72 and both resources used alike, with some chance.
        ("ubicloud", random => new ScoredPolicy((int _, in Resources free, in Resources _, in Resources capacity) =>
        {
            double cpu = 1 - Cpu(free, capacity), memory = 1 - Memory(free, capacity);
            return Math.Abs(0.72 - ((cpu + memory) / 2)) + Math.Abs(cpu - memory) + (random.NextDouble() * 0.1);
        }, random)),
        // Kubernetes: the mean of the free (or used) shares in whole points of 100, and of equals any.
        ("kube_least_allocated", random => new ScoredPolicy((int _, in Resources _, in Resources after, in Resources capacity) =>
            random.NextDouble() - Math.Floor((Math.Floor(100 * Cpu(after, capacity)) + Math.Floor(100 * Memory(after, capacity))) / 2), random)),
        ("kube_most_allocated", random => new ScoredPolicy((int _, in Resources _, in Resources after, in Resources capacity) =>
            random.NextDouble() - Math.Floor((Math.Floor(100 * (1 - Cpu(after, capacity))) + Math.Floor(100 * (1 - Memory(after, capacity)))) / 2), random)),
    ];

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        var results = new List<Measurement>();
        foreach (var trace in PackingTrace.Load(options))
        {
            foreach (var shape in trace.Shapes)
            {
                var bound = trace.VolumeBound(shape);
                var hosts = (int)Math.Ceiling(bound);
                var where = $"{trace.Name}_{shape.Cpus}x{shape.MemoryMib}";
                results.Add(new($"{where}_volume_bound_hosts", bound, "hosts"));
                foreach (var (name, make) in Policies)
                {
                    var (carried, cpu, memory) = UntilRefused(trace, shape, hosts, make(new Random((int)options.Number("seed", 1))));
                    var used = HostsUsed(trace, shape, make(new Random((int)options.Number("seed", 1))));
                    results.Add(new($"{where}_{name}_carried", carried, "microVMs"));
                    results.Add(new($"{where}_{name}_stranded_cpu_pct", cpu, "%"));
                    results.Add(new($"{where}_{name}_stranded_memory_pct", memory, "%"));
                    results.Add(new($"{where}_{name}_hosts", used, "hosts", "volume bound", bound));
                }
            }
        }
        return results;
    }

    // Stranded is what is free when the first is refused.
    private static (int Carried, double Cpu, double Memory) UntilRefused(PackingTrace trace, Resources shape, int hosts, PackingPolicy policy)
    {
        for (var i = 0; i < hosts; i++)
            policy.Open(shape);
        var places = new Dictionary<int, int>();
        Resources used = default;
        var carried = 0;
        foreach (var (vm, comes) in trace.Events)
        {
            var needs = trace.Needs[vm];
            if (!comes)
            {
                if (places.Remove(vm, out var left))
                {
                    policy.End(left, needs);
                    used -= needs;
                }
                continue;
            }
            if (!needs.FitsIn(shape))
                continue;
            var place = policy.Place(needs);
            if (place < 0)
                break;
            places.Add(vm, place);
            used += needs;
            carried++;
        }
        return (carried, 100 * (1 - ((double)used.Cpus / shape.Cpus / hosts)), 100 * (1 - ((double)used.MemoryMib / shape.MemoryMib / hosts)));
    }

    private static int HostsUsed(PackingTrace trace, Resources shape, PackingPolicy policy)
    {
        var places = new Dictionary<int, int>();
        var hosts = 0;
        foreach (var (vm, comes) in trace.Events)
        {
            var needs = trace.Needs[vm];
            if (!comes)
            {
                if (places.Remove(vm, out var left))
                    policy.End(left, needs);
                continue;
            }
            if (!needs.FitsIn(shape))
                continue;
            var place = policy.Place(needs);
            if (place < 0)
            {
                policy.Open(shape);
                hosts++;
                place = policy.Place(needs);
            }
            places.Add(vm, place);
        }
        return hosts;
    }

    private static double Cpu(in Resources amount, in Resources of) => (double)amount.Cpus / of.Cpus;

    private static double Memory(in Resources amount, in Resources of) => (double)amount.MemoryMib / of.MemoryMib;
}
