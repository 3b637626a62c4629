using System.Runtime.InteropServices;

namespace Fleet.Scheduler.Placement;

/// <summary>A host as the engine knows it. It is its own node in the tree of its class, so that a change of its room allocates nothing.</summary>
public sealed class PlacedHost
{
    // Of the tree: see FillTree.
    internal PlacedHost? Left;
    internal PlacedHost? Right;
    internal uint Priority;
    internal double Fill;
    internal Resources MostBelow;

    private Dictionary<PlacedGroup, int>? _groups;

    internal PlacedHost(string id) => Id = id;

    public string Id { get; }

    public Resources Capacity { get; internal set; }

    public Resources Free { get; internal set; }

    /// <summary>Why it takes nothing at all now: a <see cref="RejectionReason"/>; null: it does.</summary>
    public string? Closed { get; internal set; }

    internal HostClass Class { get; set; } = null!;

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
