using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Simulation;

namespace Fleet.Benchmarks.Placement;

/// <summary>
/// <c>fleet bench packing</c>: the same microVMs come and go on the same hosts, placed by Fleet's engine and by the rules of others. Once with
/// as many hosts as the volume bound says, until one finds no room; once with as many hosts as each rule needs.
/// </summary>
internal static class PackingBenchmark
{
    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        var results = new List<Measurement>();
        var seed = (int)options.Number("seed", 1);
        var policies = options.Number("ours", 0) == 0 ? PlacementPolicies.Names : [.. PlacementPolicies.Names.Where(name => name.StartsWith(PlacementPolicies.Engine, StringComparison.Ordinal))];
        foreach (var trace in Load(options, seed))
        {
            foreach (var shape in trace.Shapes)
            {
                var bound = trace.VolumeBound(shape);
                var hosts = (int)Math.Ceiling(bound);
                var where = $"{trace.Name}_{shape.Cpus}x{shape.MemoryMib}";
                results.Add(new($"{where}_volume_bound_hosts", bound, "hosts"));
                foreach (var name in policies)
                {
                    var (carried, cpu, memory) = UntilRefused(trace, shape, hosts, PlacementPolicies.Make(name, seed)!);
                    var used = HostsUsed(trace, shape, PlacementPolicies.Make(name, seed)!);
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
    private static (int Carried, double Cpu, double Memory) UntilRefused(ArrivalTrace trace, Resources shape, int hosts, PlacementPolicy policy)
    {
        for (var i = 0; i < hosts; i++)
            policy.Open(shape);
        var places = new Dictionary<int, int>();
        Resources used = default;
        var carried = 0;
        foreach (var (_, vm, comes) in trace.Events)
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

    private static int HostsUsed(ArrivalTrace trace, Resources shape, PlacementPolicy policy)
    {
        var places = new Dictionary<int, int>();
        var hosts = 0;
        foreach (var (_, vm, comes) in trace.Events)
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

    // The Protean samples of a folder, or one of our own making where none is given.
    private static List<ArrivalTrace> Load(BenchmarkOptions options, int seed)
    {
        if (options.Traces is null)
            return [ArrivalTrace.Generate((int)Math.Min(1_000_000, options.Number("microvms", 20_000)), seed)];
        var folder = Path.Combine(options.Traces, "protean");
        if (!Directory.Exists(folder))
            throw new BenchmarkException($"'{folder}' is not there. --traces wants a folder with the Protean samples in protean/*.csv.gz.");
        try
        {
            var samples = Directory.GetFiles(folder, "*.csv.gz").Order(StringComparer.Ordinal).Select(file => ArrivalTrace.Read(file, seed)).ToList();
            return samples.Count > 0 ? samples : throw new BenchmarkException($"'{folder}' has no *.csv.gz.");
        }
        catch (TraceException broken)
        {
            throw new BenchmarkException(broken.Message);
        }
    }
}
