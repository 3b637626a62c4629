using Fleet.Scheduler.Placement;

namespace Fleet.Scheduler.Simulation;

/// <summary>Fleet's engine and the rules of others as they are published, by name. Lowest score wins; what a rule knows of usage is here the reserved part. Random where the rule is.</summary>
public static class PlacementPolicies
{
    /// <summary>The engine as it runs.</summary>
    public const string Engine = "fleet";

    private static readonly (string Name, Func<Random, PlacementPolicy> Make)[] All =
    [
        (Engine, _ => new EnginePolicy(PlacementEngine.Sample)),
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

    public static IReadOnlyList<string> Names { get; } = [.. All.Select(policy => policy.Name)];

    /// <summary>A policy without hosts; null: there is none of that name.</summary>
    public static PlacementPolicy? Make(string name, int seed) => All.FirstOrDefault(policy => policy.Name == name).Make?.Invoke(new Random(seed));

    private static double Cpu(in Resources amount, in Resources of) => (double)amount.Cpus / of.Cpus;

    private static double Memory(in Resources amount, in Resources of) => (double)amount.MemoryMib / of.MemoryMib;
}
