using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Placement;

/// <summary>
/// The single changes that would make a spec fit which fits nowhere: as much of a size as fits, one wish left out, or one host more. Each is found by asking
/// every host again, so it costs as much as so many decisions without an index.
/// </summary>
/// <param name="engine">Knows the hosts.</param>
/// <param name="hosts">All of them.</param>
/// <param name="demandOf">What a spec wants.</param>
internal sealed class PlacementWhatIf(PlacementEngine engine, IReadOnlyCollection<PlacedHost> hosts, Func<VmSpec, Demand> demandOf)
{
    /// <summary>Kinds of hosts that are named; a fleet with many has no use for more.</summary>
    private const int MostKinds = 4;

    /// <summary>The size that a gang fits with is found to this part of what is wanted: every step counts the room on all hosts, and placement waits meanwhile.</summary>
    private const int GangSteps = 64;

    /// <summary>Of a gang: whether there is room for all of it, with one more host like that, empty, where there is one. One by itself has room where a host would take it.</summary>
    public Func<Demand, PlacedHost?, bool>? AllHaveRoom { get; init; }

    public IReadOnlyList<PlacementChange> Changes(VmSpec spec) =>
        [.. new[] { Cpus(spec), Memory(spec), Disk(spec), Network(spec), Iops(spec) }.Concat(Without(spec)).OfType<PlacementChange>(), .. Kinds(demandOf(spec))];

    private PlacementChange? Cpus(VmSpec spec) =>
        Smaller("cpus", spec, spec.Cpus, 1, (other, size) => other.Cpus = (uint)size, host => host.Free.Cpus);

    private PlacementChange? Memory(VmSpec spec) =>
        Smaller("memory_mib", spec, spec.MemoryMib, VmLimits.MinMemoryMib, (other, size) => other.MemoryMib = (uint)size, host => host.Free.MemoryMib);

    private PlacementChange? Disk(VmSpec spec)
    {
        if (spec.DiskMib == 0)
            return null;
        var least = spec.Clone();
        least.DiskMib = 0;
        var volumes = demandOf(least).Needs.DiskMib;
        return Smaller("disk_mib", spec, (long)spec.DiskMib, 0, (other, size) => other.DiskMib = (ulong)size, host => host.Free.DiskMib - volumes);
    }

    private PlacementChange? Network(VmSpec spec)
    {
        if (spec.NetworkMbit == 0)
            return null;
        return Smaller("network_mbit", spec, spec.NetworkMbit, 0, (other, size) => other.NetworkMbit = (uint)size, host => host.Free.NetworkMbit);
    }

    private PlacementChange? Iops(VmSpec spec)
    {
        if (spec.Iops == 0)
            return null;
        return Smaller("iops", spec, (long)spec.Iops, 0, (other, size) => other.Iops = (ulong)size, host => host.Free.Iops);
    }

    private PlacementChange? Smaller(string field, VmSpec spec, long wanted, long least, Action<VmSpec, long> set, Func<PlacedHost, long> free)
    {
        Demand Of(long size)
        {
            var other = spec.Clone();
            set(other, size);
            return demandOf(other);
        }

        var smallest = Of(least);
        var fitting = hosts.Where(host => engine.Refuse(smallest, host) is null).Select(free).ToList();
        if (fitting.Count == 0)
            return null;
        // What fits the largest room may fit others too.
        var most = fitting.Max();
        if (AllHaveRoom is { } all)
        {
            if (!all(smallest, null))
                return null;
            // Of more there is room for no more of them. What is found fits; a little more may too.
            var step = Math.Max(1, wanted / GangSteps);
            var (fits, tooMuch) = (least, Math.Min(most, wanted) + 1);
            while (tooMuch - fits > step)
            {
                var size = fits + ((tooMuch - fits) / 2);
                if (all(Of(size), null))
                    fits = size;
                else
                    tooMuch = size;
            }
            most = fits;
        }
        return most >= wanted ? null : new(field, (ulong)most, fitting.Count(room => room >= most));
    }

    private IEnumerable<PlacementChange?> Without(VmSpec spec)
    {
        PlacementChange? Try(string field, Action<VmSpec> change)
        {
            var other = spec.Clone();
            change(other);
            var demand = demandOf(other);
            var fitting = hosts.Count(host => engine.Refuse(demand, host) is null);
            return fitting == 0 || AllHaveRoom?.Invoke(demand, null) == false ? null : new(field, null, fitting);
        }

        if (spec.Host.Length > 0)
            yield return Try("host", other => other.Host = "");
        if (spec.Driver is not (Demand.AutoDriver or Demand.SimulatedDriver or ""))
            yield return Try("driver", other => other.Driver = Demand.AutoDriver);
        if (spec.Architecture.Length > 0)
            yield return Try("architecture", other => other.Architecture = "");
        if (spec.MinKernel.Length > 0)
            yield return Try("min_kernel", other => other.MinKernel = "");
        if (spec.CpuTemplate.Length > 0)
            yield return Try("cpu_template", other => other.CpuTemplate = "");
        if (spec.RateLimits.Count > 0)
            yield return Try("rate_limits", other => other.RateLimits.Clear());
        if (spec.Zones.Count > 0)
            yield return Try("zones", other => other.Zones.Clear());
        foreach (var label in spec.HostLabels.Keys.Order(StringComparer.Ordinal))
            yield return Try($"host_labels.{label}", other => other.HostLabels.Remove(label));
        for (var i = 0; i < (spec.Placement?.Affinity.Count ?? 0); i++)
        {
            var at = i;
            if (!spec.Placement!.Affinity[at].Soft)
                yield return Try($"placement.affinity[{at}]", other => other.Placement.Affinity.RemoveAt(at));
        }
        for (var i = 0; i < (spec.Placement?.Spread.Count ?? 0); i++)
        {
            var at = i;
            if (!spec.Placement!.Spread[at].Soft)
                yield return Try($"placement.spread[{at}]", other => other.Placement.Spread.RemoveAt(at));
        }
    }

    private IEnumerable<PlacementChange> Kinds(Demand demand)
    {
        // A new host has another name than the one that is wanted.
        if (demand.Host.Length > 0)
            return [];
        return hosts
            .Where(host => demand.Rules?.HasLabels(host.Inventory) != false)
            .GroupBy(host => host.Class)
            .Select(kind => kind.Where(host => host.CouldHold(demand.Needs)).MinBy(host => host.Id, StringComparer.Ordinal))
            .OfType<PlacedHost>()
            .Where(host => Takes(host, demand) && AllHaveRoom?.Invoke(demand, host) != false)
            .OrderBy(host => host.Capacity.Cpus).ThenBy(host => host.Capacity.MemoryMib).ThenBy(host => host.Id, StringComparer.Ordinal)
            .Take(MostKinds)
            .Select(host => new PlacementChange(PlacementChange.AddHost, null, 1, host.Id));
    }

    private bool Takes(PlacedHost like, Demand demand)
    {
        var empty = new PlacedHost("") { Class = like.Class, Inventory = like.Inventory };
        return HostFilter.All.All(filter => !filter.Concerns(demand) || (filter.Allows(empty.Class, demand, engine) && filter.Allows(empty, demand, engine)));
    }
}
