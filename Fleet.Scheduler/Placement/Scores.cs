namespace Fleet.Scheduler.Placement;

/// <summary>One thing by which hosts that would do are told apart: the less the better, at most 1.</summary>
internal abstract class HostScore
{
    public static readonly IReadOnlyList<HostScore> All = [new BestFit(), new Balance(), new Room(), new Wishes(), new ImageThere()];

    public abstract string Name { get; }

    /// <summary>What of the sum is its.</summary>
    public abstract double Weight { get; }

    public abstract bool Concerns(Demand demand);

    public abstract double Of(PlacedHost host, Demand demand, PlacementEngine engine);
}

/// <summary>
/// The host that is fullest afterwards, so that large rooms stay whole. By the logarithm of what stays free: a host that is nearly
/// used up in one resource is fuller than one that is half used up in two, and what the rest of it is good for matters little. The scarcer
/// a resource is in the fleet, the more it counts.
/// </summary>
internal sealed class BestFit : HostScore
{
    // Of a resource. Below it one rest is as good as the other; 0.01 packs about as well.
    private const double Rest = 0.03;

    private static readonly double Whole = Math.Log((1 + Rest) / Rest);

    public override string Name => "fit";

    public override double Weight => 1;

    public override bool Concerns(Demand demand) => true;

    public override double Of(PlacedHost host, Demand demand, PlacementEngine engine)
    {
        ref readonly var scarcity = ref engine.Scarcity;
        double sum = 0, weights = 0;
        for (var kind = 0; kind < scarcity.Kinds; kind++)
        {
            if (host.Capacity[kind] <= 0)
                continue;
            var weight = scarcity.Weight(kind);
            sum += weight * Emptiness((double)Math.Max(0, host.Free[kind] - demand.Needs[kind]) / host.Capacity[kind]);
            weights += weight;
        }
        return weights > 0 ? sum / weights : 0;
    }

    /// <summary>Of a share that is free. 0: nothing is; 1: all is.</summary>
    public static double Emptiness(double free) => Math.Log((free + Rest) / Rest) / Whole;
}

/// <summary>
/// What the microVM would strand: what is left of a host in another mix than the fleet's microVMs take can't all be used, and memory without
/// CPU is lost as soon as memory is what the fleet is short of. Below 0: it makes use of what others left.
/// </summary>
internal sealed class Balance : HostScore
{
    public override string Name => "balance";

    /// <summary>What it is worth to keep hosts usable; with much more, empty hosts are opened too soon. Chosen as docs/benchmarks.md says, "packing".</summary>
    public const double OfAll = 4;

    public override double Weight => OfAll;

    public override bool Concerns(Demand demand) => true;

    public override double Of(PlacedHost host, Demand demand, PlacementEngine engine)
    {
        ref readonly var scarcity = ref engine.Scarcity;
        double before = double.MaxValue, after = double.MaxValue;
        for (var kind = 0; kind < scarcity.Kinds; kind++)
        {
            if (host.Capacity[kind] <= 0)
                continue;
            before = Math.Min(before, Math.Max(0, host.Free[kind]) / (host.Capacity[kind] * scarcity.Used(kind)));
            after = Math.Min(after, Math.Max(0, host.Free[kind] - demand.Needs[kind]) / (host.Capacity[kind] * scarcity.Used(kind)));
        }
        double sum = 0, weights = 0;
        for (var kind = 0; kind < scarcity.Kinds; kind++)
        {
            if (host.Capacity[kind] <= 0)
                continue;
            var weight = scarcity.Weight(kind);
            // Of what is used up in step with the others nothing is stranded.
            sum += weight * (((before - after) * scarcity.Used(kind)) - ((double)Math.Min(demand.Needs[kind], host.Free[kind]) / host.Capacity[kind]));
            weights += weight;
        }
        return weights > 0 ? sum / weights : 0;
    }
}

/// <summary>
/// What its place takes from others to come: of each size of microVM that is placed much, how many fewer the host has room for, the more the fewer the fleet has room for.
/// </summary>
internal sealed class Room : HostScore
{
    public const double OfAll = 4;

    // Far below it a cost counts a hundredth of itself. However little room is left, wishes come first.
    private const double Half = 400;

    public override string Name => "room";

    public override double Weight => OfAll;

    public override bool Concerns(Demand demand) => true;

    public override double Of(PlacedHost host, Demand demand, PlacementEngine engine) => Bounded(engine.Mix.Cost(
        host.Free.Cpus, host.Free.MemoryMib, host.Free.Cpus - demand.Needs.Cpus, host.Free.MemoryMib - demand.Needs.MemoryMib));

    /// <summary>Of what <see cref="DemandMix.Cost"/> says, from 0 to 1.</summary>
    public static double Bounded(double cost) => cost / (cost + Half);
}

/// <summary>The share of its soft rules about groups that a host would break. A wish outweighs a better fit.</summary>
internal sealed class Wishes : HostScore
{
    public override string Name => "wishes";

    public override double Weight => 16;

    public override bool Concerns(Demand demand) => Any(demand);

    public static bool Any(Demand demand)
    {
        if (demand.Rules is null)
            return false;
        foreach (var rule in demand.Rules.Groups)
        {
            if (!rule.Hard)
                return true;
        }
        return false;
    }

    public override double Of(PlacedHost host, Demand demand, PlacementEngine engine)
    {
        double broken = 0, all = 0;
        foreach (var rule in demand.Rules!.Groups)
        {
            if (rule.Hard)
                continue;
            all++;
            if (engine.Group(rule.Group) is not { Hosts.Count: > 0 } group)
                continue;
            var there = rule.Scope == RuleScope.Host ? host.Of(group) : group.Zones.GetValueOrDefault(host.Class.Zone);
            // Of two that both have some of what it would rather avoid, the one that has fewer.
            if (rule.Apart)
                broken += (double)there / (there + 1);
            else if (there == 0)
                broken++;
        }
        return broken / all;
    }
}

/// <summary>Whether a host must fetch the image first. It outweighs what two hosts of which one is fuller differ by, and no wish.</summary>
internal sealed class ImageThere : HostScore
{
    public override string Name => "image";

    public override double Weight => 0.5;

    public override bool Concerns(Demand demand) => demand.Image.Length > 0;

    public override double Of(PlacedHost host, Demand demand, PlacementEngine engine) => engine.Image(demand.Image)?.Hosts.Contains(host) == true ? 0 : 1;
}
