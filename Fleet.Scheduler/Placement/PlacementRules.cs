using System.Collections.Immutable;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Placement;

/// <summary>Within what a rule about a group holds.</summary>
public enum RuleScope
{
    Host,
    Zone,
}

/// <summary>Where a microVM is to be, by where the microVMs of a group are.</summary>
/// <param name="Group">The group; a microVM may be a member itself.</param>
/// <param name="Scope">What is shared or not shared with it.</param>
/// <param name="Apart">True: where none of the group is; false: where one is. Of a group that is nowhere yet, anywhere.</param>
/// <param name="Hard">It is refused rather than placed against the rule; else the rule is a wish.</param>
public sealed record GroupRule(string Group, RuleScope Scope, bool Apart, bool Hard)
{
    /// <summary>Of a hard rule that keeps it apart on one host: so many of the group may be there all the same.</summary>
    public int Most { get; init; }
}

/// <summary>Keeps a group even: no zone may have over <paramref name="MostAhead"/> more of it than the zone that has the fewest.</summary>
/// <param name="Group">The group.</param>
/// <param name="MostAhead">1 or more.</param>
public sealed record ZoneSpread(string Group, int MostAhead);

/// <summary>What a microVM wants of its place beyond room and driver.</summary>
public sealed record PlacementRules
{
    /// <summary>Labels that the host must have, with these values.</summary>
    public ImmutableArray<KeyValuePair<string, string>> Labels { get; init; } = [];

    /// <summary>The zones that it may be in; none: any.</summary>
    public ImmutableArray<string> Zones { get; init; } = [];

    /// <summary>Whether a host with this inventory has the labels.</summary>
    public bool HasLabels(Inventory inventory)
    {
        ArgumentNullException.ThrowIfNull(inventory);
        foreach (var (name, wanted) in Labels)
        {
            if (!inventory.Labels.TryGetValue(name, out var value) || value != wanted)
                return false;
        }
        return true;
    }

    /// <summary>Whether it may be in that zone; empty: in none.</summary>
    public bool MayBeIn(string zone) => Zones.IsEmpty || Zones.Contains(zone);

    /// <summary>The zone of a host with this inventory; empty: none.</summary>
    public static string ZoneOf(Inventory inventory)
    {
        ArgumentNullException.ThrowIfNull(inventory);
        return inventory.Labels.TryGetValue(VmLimits.ZoneLabel, out var zone) ? zone : "";
    }

    public ImmutableArray<GroupRule> Groups { get; init; } = [];

    public ImmutableArray<NeighbourRule> Neighbours { get; init; } = [];

    public ZoneSpread? Spread { get; init; }
}
