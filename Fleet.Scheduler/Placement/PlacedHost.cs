using System.Runtime.InteropServices;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Placement;

/// <summary>A host as the engine knows it. It knows its place in the grid of its class, so that it is found there at once.</summary>
public sealed class PlacedHost
{
    // Its place in the grid of its class: see FillGrid.
    internal int Row;
    internal int Column;
    internal int Slot;

    private Dictionary<PlacedGroup, int>? _groups;

    internal PlacedHost(string id) => Id = id;

    public string Id { get; }

    public Resources Capacity { get; internal set; }

    public Resources Free { get; internal set; }

    /// <summary>What is promised of what it is limited in.</summary>
    internal Resources Used => new(
        Capacity.Cpus - Free.Cpus,
        Capacity.MemoryMib - Free.MemoryMib,
        Capacity.DiskMib == 0 ? 0 : Capacity.DiskMib - Free.DiskMib,
        Capacity.NetworkMbit == 0 ? 0 : Capacity.NetworkMbit - Free.NetworkMbit,
        Capacity.Iops == 0 ? 0 : Capacity.Iops - Free.Iops);

    /// <summary>Whether it would have room if it were empty.</summary>
    internal bool CouldHold(in Resources needs) => needs.FitsIn(Whole);

    /// <summary>What would be free if it were empty. Of what it is not limited in the capacity is 0, and more than anybody needs is free.</summary>
    internal Resources Whole => new(
        Math.Max(Capacity.Cpus, Free.Cpus),
        Math.Max(Capacity.MemoryMib, Free.MemoryMib),
        Math.Max(Capacity.DiskMib, Free.DiskMib),
        Math.Max(Capacity.NetworkMbit, Free.NetworkMbit),
        Math.Max(Capacity.Iops, Free.Iops));

    /// <summary>Why it takes nothing at all now: a <see cref="RejectionReason"/>; null: it does.</summary>
    public string? Closed { get; internal set; }

    internal HostClass Class { get; set; } = null!;

    /// <summary>Its drivers and labels.</summary>
    internal Inventory Inventory { get; set; } = null!;

    /// <summary>The images that are there.</summary>
    internal PlacedImage[] Images { get; set; } = [];

    /// <summary>How many of the group it has.</summary>
    internal int Of(PlacedGroup group) => _groups is null ? 0 : _groups.GetValueOrDefault(group);

    internal IReadOnlyCollection<KeyValuePair<PlacedGroup, int>> Groups => _groups is null ? [] : _groups;

    /// <summary>Returns what it then has of the group; below 0 is 0.</summary>
    internal int Add(PlacedGroup group, int by)
    {
        _groups ??= [];
        ref var count = ref CollectionsMarshal.GetValueRefOrAddDefault(_groups, group, out _);
        count = Math.Max(0, count + by);
        var left = count;
        if (left == 0)
            _groups.Remove(group);
        return left;
    }
}

/// <summary>Where the members of one group are. Only groups that some microVM is in or names exist.</summary>
internal sealed class PlacedGroup(string name)
{
    public string Name { get; } = name;

    public HashSet<PlacedHost> Hosts { get; } = [];

    /// <summary>Members by zone; hosts without one are in none.</summary>
    public Dictionary<string, int> Zones { get; } = new(StringComparer.Ordinal);
}

/// <summary>Where one image is. Only those that some host has exist.</summary>
internal sealed class PlacedImage(string name)
{
    public string Name { get; } = name;

    public HashSet<PlacedHost> Hosts { get; } = [];
}
