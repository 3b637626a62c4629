namespace Fleet.Scheduler.Placement;

/// <summary>Where a microVM is to be, by where one other is.</summary>
/// <param name="VmId">The other.</param>
/// <param name="Scope">What is shared or not shared with it.</param>
/// <param name="Apart">True: where it is not; false: where it is. Of one that is nowhere, anywhere.</param>
/// <param name="Hard">It is refused rather than placed against the rule; else the rule is a wish.</param>
public sealed record NeighbourRule(string VmId, RuleScope Scope, bool Apart, bool Hard)
{
    /// <summary>The host that carries the other; empty: none, or not known.</summary>
    public string Host { get; init; } = "";
}

/// <summary>Rules about single microVMs, of which somebody has found out where they are.</summary>
internal static class Neighbours
{
    /// <summary>The demand with the hosts of those that it names.</summary>
    public static Demand With(Demand demand, IReadOnlyDictionary<string, string> hosts) => demand.Rules is { Neighbours.Length: > 0 } rules
        ? demand with { Rules = rules with { Neighbours = [.. rules.Neighbours.Select(rule => rule with { Host = hosts.GetValueOrDefault(rule.VmId, "") })] } }
        : demand;

    /// <summary>The same with fewer and fewer of its wishes, which are rules in it: all of them, then all but the last, and none at the end.</summary>
    public static IEnumerable<Demand> Softly(Demand demand)
    {
        var rules = demand.Rules!;
        var hard = rules.Neighbours.Where(rule => rule.Hard).ToList();
        var soft = rules.Neighbours.Where(rule => !rule.Hard && rule.Host.Length > 0).Select(rule => rule with { Hard = true }).ToList();
        for (var kept = soft.Count; kept >= 0; kept--)
            yield return demand with { Rules = rules with { Neighbours = [.. hard, .. soft.Take(kept)] } };
    }

    /// <summary>Whether a rule forbids it to be on one host with one of these.</summary>
    public static bool IsApartFrom(Demand demand, Func<string, bool> isThere) =>
        demand.Rules is { } rules && rules.Neighbours.Any(rule => rule is { Hard: true, Apart: true, Scope: RuleScope.Host } && isThere(rule.VmId));
}

/// <summary>Hard rules about single microVMs. A host that has no zone keeps none about zones.</summary>
internal sealed class NeighbourFilter : HostFilter
{
    public override string Reason => RejectionReason.Group;

    public override bool Concerns(Demand demand) => demand.Rules is { Neighbours.Length: > 0 };

    public override bool Allows(HostClass hosts, Demand demand, PlacementEngine engine)
    {
        foreach (var rule in demand.Rules!.Neighbours)
        {
            if (!rule.Hard || rule.Scope != RuleScope.Zone)
                continue;
            if (hosts.Zone.Length == 0)
                return false;
            if (rule.Host.Length > 0 && (engine.Find(rule.Host)?.Class.Zone == hosts.Zone) == rule.Apart)
                return false;
        }
        return true;
    }

    public override bool Allows(PlacedHost host, Demand demand, PlacementEngine engine)
    {
        foreach (var rule in demand.Rules!.Neighbours)
        {
            if (rule is { Hard: true, Scope: RuleScope.Host, Host.Length: > 0 } && (host.Id == rule.Host) == rule.Apart)
                return false;
        }
        return true;
    }
}
