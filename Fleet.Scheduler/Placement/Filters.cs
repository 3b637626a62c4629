namespace Fleet.Scheduler.Placement;

/// <summary>One reason for which hosts are out of question. What it says of a class holds for every host of it.</summary>
internal abstract class HostFilter
{
    /// <summary>All there are, in the order in which their reasons are told.</summary>
    public static readonly IReadOnlyList<HostFilter> All =
        [new ArchitectureFilter(), new DriverFilter(), new KernelFilter(), new CpuTemplateFilter(), new LabelFilter(), new ZoneFilter(), new GroupZoneFilter(), new SpreadFilter(), new GroupHostFilter(), new NeighbourFilter()];

    /// <summary>See <see cref="RejectionReason"/>.</summary>
    public abstract string Reason { get; }

    /// <summary>False: it has nothing to say to such a demand.</summary>
    public abstract bool Concerns(Demand demand);

    public virtual bool Allows(HostClass hosts, Demand demand, PlacementEngine engine) => true;

    public virtual bool Allows(PlacedHost host, Demand demand, PlacementEngine engine) => true;
}

internal sealed class DriverFilter : HostFilter
{
    public override string Reason => RejectionReason.Driver;

    public override bool Concerns(Demand demand) => true;

    public override bool Allows(HostClass hosts, Demand demand, PlacementEngine engine) => demand.DriverFits(hosts.Inventory);
}

internal sealed class ArchitectureFilter : HostFilter
{
    public override string Reason => RejectionReason.Architecture;

    public override bool Concerns(Demand demand) => demand.Architecture.Length > 0;

    public override bool Allows(HostClass hosts, Demand demand, PlacementEngine engine) => demand.ArchitectureFits(hosts.Inventory);
}

/// <summary>Asked of each host: while kernels are being upgraded classes would be twice as many.</summary>
internal sealed class KernelFilter : HostFilter
{
    public override string Reason => RejectionReason.Kernel;

    public override bool Concerns(Demand demand) => demand.MinKernel is not null;

    public override bool Allows(PlacedHost host, Demand demand, PlacementEngine engine) => demand.KernelFits(host.Inventory);
}

internal sealed class CpuTemplateFilter : HostFilter
{
    public override string Reason => RejectionReason.CpuTemplate;

    public override bool Concerns(Demand demand) => demand.CpuTemplate.Length > 0;

    public override bool Allows(HostClass hosts, Demand demand, PlacementEngine engine) => demand.CpuTemplateFits(hosts.Inventory);
}

internal sealed class LabelFilter : HostFilter
{
    public override string Reason => RejectionReason.Labels;

    public override bool Concerns(Demand demand) => demand.Rules is { Labels.Length: > 0 };

    public override bool Allows(PlacedHost host, Demand demand, PlacementEngine engine) => demand.Rules!.HasLabels(host.Inventory);
}

internal sealed class ZoneFilter : HostFilter
{
    public override string Reason => RejectionReason.Zone;

    public override bool Concerns(Demand demand) => demand.Rules is { Zones.Length: > 0 };

    public override bool Allows(HostClass hosts, Demand demand, PlacementEngine engine) => demand.Rules!.MayBeIn(hosts.Zone);
}

/// <summary>Hard rules about a group, within a zone. A host that has no zone keeps none of them.</summary>
internal sealed class GroupZoneFilter : HostFilter
{
    public override string Reason => RejectionReason.Group;

    public override bool Concerns(Demand demand) => Any(demand, RuleScope.Zone);

    public override bool Allows(HostClass hosts, Demand demand, PlacementEngine engine)
    {
        foreach (var rule in demand.Rules!.Groups)
        {
            if (!rule.Hard || rule.Scope != RuleScope.Zone)
                continue;
            if (hosts.Zone.Length == 0)
                return false;
            if (engine.Group(rule.Group) is { Hosts.Count: > 0 } group && group.Zones.ContainsKey(hosts.Zone) == rule.Apart)
                return false;
        }
        return true;
    }

    internal static bool Any(Demand demand, RuleScope scope)
    {
        if (demand.Rules is null)
            return false;
        foreach (var rule in demand.Rules.Groups)
        {
            if (rule.Hard && rule.Scope == scope)
                return true;
        }
        return false;
    }
}

internal sealed class SpreadFilter : HostFilter
{
    public override string Reason => RejectionReason.Spread;

    public override bool Concerns(Demand demand) => demand.Rules?.Spread is not null;

    public override bool Allows(HostClass hosts, Demand demand, PlacementEngine engine)
    {
        var spread = demand.Rules!.Spread!;
        if (hosts.Zone.Length == 0)
            return false;
        var group = engine.Group(spread.Group);
        if (group is null)
            return true;
        // Zones that the microVM may not be in don't hold it back, nor do those without an open host.
        var fewest = int.MaxValue;
        foreach (var (zone, open) in engine.OpenByZone)
        {
            if (open > 0 && demand.Rules.MayBeIn(zone))
                fewest = Math.Min(fewest, group.Zones.GetValueOrDefault(zone));
        }
        return group.Zones.GetValueOrDefault(hosts.Zone) + 1L - fewest <= spread.MostAhead;
    }
}

/// <summary>Hard rules about a group, on one host.</summary>
internal sealed class GroupHostFilter : HostFilter
{
    public override string Reason => RejectionReason.Group;

    public override bool Concerns(Demand demand) => GroupZoneFilter.Any(demand, RuleScope.Host);

    public override bool Allows(PlacedHost host, Demand demand, PlacementEngine engine)
    {
        foreach (var rule in demand.Rules!.Groups)
        {
            if (rule.Hard && rule.Scope == RuleScope.Host && engine.Group(rule.Group) is { Hosts.Count: > 0 } group
                && (rule.Apart ? host.Of(group) > rule.Most : host.Of(group) == 0))
                return false;
        }
        return true;
    }
}
