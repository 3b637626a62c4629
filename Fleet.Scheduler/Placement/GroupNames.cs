using System.Collections.Immutable;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Placement;

/// <summary>What a spec says of groups, as the engine takes it. A group is its tenant's own, so its name has the tenant's before it.</summary>
internal static class GroupNames
{
    /// <summary>A tenant's name has no slash: no two tenants share a group, whatever they call it.</summary>
    public static string Of(string tenant, string group) => $"{tenant}/{group}";

    /// <summary>The groups that it is a member of.</summary>
    public static ImmutableArray<string> MemberOf(VmSpec spec) =>
        spec.Placement is { Groups.Count: > 0 } wishes ? [.. wishes.Groups.Select(group => Of(spec.Tenant, group))] : [];

    /// <summary>What it wants of its place beyond room and driver; null: nothing.</summary>
    public static PlacementRules? RulesOf(VmSpec spec)
    {
        var wishes = spec.Placement;
        if (spec.HostLabels.Count == 0 && spec.Zones.Count == 0 && wishes is null or { Affinity.Count: 0, Spread.Count: 0 })
            return null;
        var rules = new PlacementRules { Labels = [.. spec.HostLabels], Zones = [.. spec.Zones] };
        if (wishes is null)
            return rules;
        var even = wishes.Spread.FirstOrDefault(spread => spread is { Over: PlacementWishRules.Zone, Soft: false });
        return rules with
        {
            Groups =
            [
                .. wishes.Affinity.Where(rule => rule.Vm.Length == 0).Select(rule => new GroupRule(Of(spec.Tenant, rule.Group), ScopeOf(rule.Within), rule.Apart, !rule.Soft)),
                .. wishes.Spread.Where(spread => spread != even).Select(spread =>
                    new GroupRule(Of(spec.Tenant, spread.Group), ScopeOf(spread.Over), Apart: true, !spread.Soft) { Most = spread.Soft ? 0 : (int)spread.MostAhead - 1 }),
            ],
            Neighbours = [.. wishes.Affinity.Where(rule => rule.Vm.Length > 0).Select(rule => new NeighbourRule(rule.Vm, ScopeOf(rule.Within), rule.Apart, !rule.Soft))],
            Spread = even is null ? null : new ZoneSpread(Of(spec.Tenant, even.Group), (int)even.MostAhead),
        };
    }

    private static RuleScope ScopeOf(string scope) => scope == PlacementWishRules.Zone ? RuleScope.Zone : RuleScope.Host;
}
