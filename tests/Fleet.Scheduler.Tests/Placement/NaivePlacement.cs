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
    private readonly Dictionary<Resources, int> _placed = [];
    private List<(Resources Size, double Share)> _sizes = [];
    private int _since;
    private int _until = 1;

    public Dictionary<string, NaiveHost> Hosts { get; } = [];

    private IEnumerable<NaiveHost> Open => Hosts.Values.Where(host => host.Closed is null);

    /// <summary>Somebody with that demand got a place. After 1, 2, 4 and so on of them the sizes that are most, by volume, are found anew.</summary>
    public void Placed(Demand demand)
    {
        _placed[demand.Needs] = _placed.GetValueOrDefault(demand.Needs) + 1;
        if (++_since < _until)
            return;
        (_since, _until) = (0, _until * 2);
        var scarce = Scarce(demand);
        double Volume(Resources size) => Math.Pow(scarce[0], 6) * size.Cpus / Open.Sum(host => host.Capacity.Cpus) + (Math.Pow(scarce[1], 6) * size.MemoryMib / Open.Sum(host => host.Capacity.MemoryMib));
        var most = _placed.Where(one => one.Key != default).Select(one => (one.Key, Volume: one.Value * Volume(one.Key)))
            .OrderByDescending(one => one.Volume).ThenBy(one => one.Key.Cpus).ThenBy(one => one.Key.MemoryMib).Take(DemandMix.Kinds).ToList();
        _sizes = [.. most.Select(one => (one.Key, one.Volume / most.Sum(other => other.Volume)))];
    }

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
        var scarce = Scarce(demand);
        double[] before = [(double)host.Free.Cpus / host.Capacity.Cpus, (double)host.Free.MemoryMib / host.Capacity.MemoryMib];
        double[] after = [before[0] - ((double)demand.Needs.Cpus / host.Capacity.Cpus), before[1] - ((double)demand.Needs.MemoryMib / host.Capacity.MemoryMib)];
        double Stranded(double[] free, int kind) => free[kind] - (scarce[kind] * Math.Min(free[0] / scarce[0], free[1] / scarce[1]));
        double Weighed(Func<int, double> of) => ((Math.Pow(scarce[0], 6) * of(0)) + (Math.Pow(scarce[1], 6) * of(1))) / (Math.Pow(scarce[0], 6) + Math.Pow(scarce[1], 6));
        // Hosts that are equal but for how it was reckoned are told apart by their names.
        var fit = Math.Round(Weighed(kind => Math.Log((after[kind] + 0.03) / 0.03) / Math.Log(1.03 / 0.03)) + (4 * Weighed(kind => Stranded(after, kind) - Stranded(before, kind))), 9);
        // Of each size what is gone of the room for it, the dearer the less there is.
        var room = _sizes.Sum(one => one.Share * (Fitting(host.Free, one.Size) - Fitting(host.Free - demand.Needs, one.Size)) * Math.Pow(Open.Count() / (Open.Sum(other => Fitting(other.Free, one.Size)) + 1.0), 2));
        fit += 4 * Math.Round(room / (room + 400), 12);
        var wishes = demand.Rules?.Groups.Where(rule => !rule.Hard).ToList() ?? [];
        fit += demand.Image.Length == 0 || host.Images.Contains(demand.Image) ? 0 : 0.5;
        return fit + (wishes.Count == 0 ? 0 : 16 * wishes.Average(rule =>
            Hosts.Values.All(other => other.Groups.GetValueOrDefault(rule.Group) == 0) ? 0
            : rule.Apart ? There(host, rule) / (There(host, rule) + 1.0)
            : There(host, rule) == 0 ? 1 : 0));
    }

    // Of CPU and memory: what is used in the fleet, the newcomer too, over the scarcer of both.
    private double[] Scarce(Demand demand)
    {
        double[] used =
        [
            (double)(Open.Sum(other => other.Capacity.Cpus - other.Free.Cpus) + demand.Needs.Cpus) / Open.Sum(other => other.Capacity.Cpus),
            (double)(Open.Sum(other => other.Capacity.MemoryMib - other.Free.MemoryMib) + demand.Needs.MemoryMib) / Open.Sum(other => other.Capacity.MemoryMib),
        ];
        return used.Max() <= 0 ? [1, 1] : [.. used.Select(share => Math.Max(0.01, share / used.Max()))];
    }

    private static long Fitting(Resources free, Resources size) =>
        Math.Min(size.Cpus > 0 ? free.Cpus / size.Cpus : long.MaxValue, size.MemoryMib > 0 ? free.MemoryMib / size.MemoryMib : long.MaxValue);

    private int There(NaiveHost host, GroupRule rule) => rule.Scope == RuleScope.Host ? host.Groups.GetValueOrDefault(rule.Group) : host.Zone.Length == 0 ? 0 : InZone(host.Zone, rule.Group);

    private int InZone(string zone, string group) => Hosts.Values.Where(other => other.Zone == zone).Sum(other => other.Groups.GetValueOrDefault(group));
}
