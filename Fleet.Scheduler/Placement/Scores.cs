namespace Fleet.Scheduler.Placement;

/// <summary>One thing by which hosts that would do are told apart: 0 is best, 1 is worst.</summary>
internal abstract class HostScore
{
    public static readonly IReadOnlyList<HostScore> All = [new BestFit(), new Wishes()];

    public abstract string Name { get; }

    /// <summary>What of the sum is its.</summary>
    public abstract double Weight { get; }

    public abstract bool Concerns(Demand demand);

    public abstract double Of(PlacedHost host, Demand demand, PlacementEngine engine);
}

/// <summary>
/// The host that is fullest afterwards, so that large rooms stay whole. By the logarithm of what stays free: a host that is nearly
/// used up in one resource is fuller than one that is half used up in two, and what the rest of it is good for matters little.
/// </summary>
internal sealed class BestFit : HostScore
{
    // Of a resource. Below it one rest is as good as the other; of 0.1 to 0.005, and of roots and sums, this packed the Protean samples best.
    private const double Rest = 0.02;

    private static readonly double Whole = Math.Log((1 + Rest) / Rest);

    public override string Name => "fit";

    public override double Weight => 1;

    public override bool Concerns(Demand demand) => true;

    public override double Of(PlacedHost host, Demand demand, PlacementEngine engine) => Emptiness(host.Free - demand.Needs, host.Capacity);

    /// <summary>0: nothing is free; 1: all is. Of resources that the host has.</summary>
    public static double Emptiness(in Resources free, in Resources capacity)
    {
        // A product has the logarithm of all at the price of one.
        double product = 1;
        var kinds = 0;
        Take(free.Cpus, capacity.Cpus, ref product, ref kinds);
        Take(free.MemoryMib, capacity.MemoryMib, ref product, ref kinds);
        Take(free.DiskMib, capacity.DiskMib, ref product, ref kinds);
        Take(free.NetworkMbps, capacity.NetworkMbps, ref product, ref kinds);
        Take(free.Iops, capacity.Iops, ref product, ref kinds);
        return kinds == 0 ? 0 : Math.Log(product) / (Whole * kinds);
    }

    private static void Take(long free, long capacity, ref double product, ref int kinds)
    {
        if (capacity <= 0)
            return;
        product *= ((double)Math.Max(0, free) / capacity + Rest) / Rest;
        kinds++;
    }
}

/// <summary>The share of its soft rules about groups that a host would break. A wish outweighs a better fit.</summary>
internal sealed class Wishes : HostScore
{
    public override string Name => "wishes";

    public override double Weight => 2;

    public override bool Concerns(Demand demand)
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
