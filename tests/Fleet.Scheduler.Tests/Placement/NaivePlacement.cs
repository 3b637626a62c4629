using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Tests.Placement;

internal sealed class NaiveHost(string id)
{
    public string Id => id;

    public Inventory Inventory { get; set; } = new();

    public Resources Capacity { get; set; }

    public Resources Free { get; set; }

    public string? Closed { get; set; }

    public Dictionary<string, int> Groups { get; } = [];

    public string[] Images { get; set; } = [];

    public string Zone => Inventory.Labels.GetValueOrDefault("zone", "");
}

/// <summary>Placement as its rules are written down, host by host: what the engine must agree with.</summary>
internal sealed class NaivePlacement
{
    public Dictionary<string, NaiveHost> Hosts { get; } = [];

    public void Count(NaiveHost host, string group, int by) => host.Groups[group] = Math.Max(0, host.Groups.GetValueOrDefault(group) + by);

    /// <summary>All that would do, best first.</summary>
    public IReadOnlyList<string> Choose(Demand demand) =>
        [.. Hosts.Values.Where(host => Fits(host, demand)).OrderBy(host => Cost(host, demand)).ThenBy(host => host.Id, StringComparer.Ordinal).Select(host => host.Id)];

    private bool Fits(NaiveHost host, Demand demand)
    {
        if (host.Closed is not null || !demand.DriverFits(host.Inventory) || !demand.Needs.FitsIn(host.Free))
            return false;
        if (demand.Rules is not { } rules)
            return true;
        return rules.Labels.All(label => host.Inventory.Labels.GetValueOrDefault(label.Key) == label.Value)
            && (rules.Zones.IsEmpty || rules.Zones.Contains(host.Zone))
            && rules.Groups.Where(rule => rule.Hard).All(rule => Keeps(host, rule))
            && (rules.Spread is null || Even(host, rules));
    }

    private bool Keeps(NaiveHost host, GroupRule rule)
    {
        if (rule.Scope == RuleScope.Zone && host.Zone.Length == 0)
            return false;
        return Hosts.Values.All(other => other.Groups.GetValueOrDefault(rule.Group) == 0) || (rule.Apart ? There(host, rule) <= rule.Most : There(host, rule) > 0);
    }

    private bool Even(NaiveHost host, PlacementRules rules)
    {
        if (host.Zone.Length == 0)
            return false;
        var zones = Hosts.Values.Where(other => other.Closed is null && other.Zone.Length > 0 && (rules.Zones.IsEmpty || rules.Zones.Contains(other.Zone)));
        return InZone(host.Zone, rules.Spread!.Group) + 1 - zones.Min(other => InZone(other.Zone, rules.Spread.Group)) <= rules.Spread.MostAhead;
    }

    private double Cost(NaiveHost host, Demand demand)
    {
        // Of CPU and memory: what is used in the fleet, the newcomer too, over the scarcer of both.
        var open = Hosts.Values.Where(other => other.Closed is null).ToList();
        double[] used =
        [
            (double)(open.Sum(other => other.Capacity.Cpus - other.Free.Cpus) + demand.Needs.Cpus) / open.Sum(other => other.Capacity.Cpus),
            (double)(open.Sum(other => other.Capacity.MemoryMib - other.Free.MemoryMib) + demand.Needs.MemoryMib) / open.Sum(other => other.Capacity.MemoryMib),
        ];
        double[] scarce = used.Max() <= 0 ? [1, 1] : [.. used.Select(share => Math.Max(0.01, share / used.Max()))];
        double[] before = [(double)host.Free.Cpus / host.Capacity.Cpus, (double)host.Free.MemoryMib / host.Capacity.MemoryMib];
        double[] after = [before[0] - ((double)demand.Needs.Cpus / host.Capacity.Cpus), before[1] - ((double)demand.Needs.MemoryMib / host.Capacity.MemoryMib)];
        double Stranded(double[] free, int kind) => free[kind] - (scarce[kind] * Math.Min(free[0] / scarce[0], free[1] / scarce[1]));
        double Weighed(Func<int, double> of) => ((Math.Pow(scarce[0], 3) * of(0)) + (Math.Pow(scarce[1], 3) * of(1))) / (Math.Pow(scarce[0], 3) + Math.Pow(scarce[1], 3));
        // Hosts that are equal but for how it was reckoned are told apart by their names.
        var fit = Math.Round(Weighed(kind => Math.Log((after[kind] + 0.03) / 0.03) / Math.Log(1.03 / 0.03)) + (2.4 * Weighed(kind => Stranded(after, kind) - Stranded(before, kind))), 9);
        var wishes = demand.Rules?.Groups.Where(rule => !rule.Hard).ToList() ?? [];
        fit += demand.Image.Length == 0 || host.Images.Contains(demand.Image) ? 0 : 0.5;
        return fit + (wishes.Count == 0 ? 0 : 8 * wishes.Average(rule =>
            Hosts.Values.All(other => other.Groups.GetValueOrDefault(rule.Group) == 0) ? 0
            : rule.Apart ? There(host, rule) / (There(host, rule) + 1.0)
            : There(host, rule) == 0 ? 1 : 0));
    }

    private int There(NaiveHost host, GroupRule rule) => rule.Scope == RuleScope.Host ? host.Groups.GetValueOrDefault(rule.Group) : host.Zone.Length == 0 ? 0 : InZone(host.Zone, rule.Group);

    private int InZone(string zone, string group) => Hosts.Values.Where(other => other.Zone == zone).Sum(other => other.Groups.GetValueOrDefault(group));
}
