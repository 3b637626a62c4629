using System.ComponentModel;
using System.ComponentModel.DataAnnotations;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Api;

/// <summary>Where a microVM is to be by where others are. Groups are the tenant's own.</summary>
internal sealed record PlacementBody
{
    [Description("Groups that it is a member of"), MaxLength(VmLimits.MaxGroups)]
    public IReadOnlyList<string>? Groups { get; init; }

    [Description("To be with groups, or apart from them"), MaxLength(VmLimits.MaxAffinities)]
    public IReadOnlyList<AffinityBody>? Affinity { get; init; }

    [Description("To keep groups even; at most one that is hard over zones"), MaxLength(VmLimits.MaxSpreads)]
    public IReadOnlyList<SpreadBody>? Spread { get; init; }
}

/// <summary>To be where one of a group, or one microVM, is, or where it is not. What is nowhere yet is no hindrance.</summary>
internal sealed record AffinityBody
{
    [Description("The group; either this or vm"), MaxLength(VmLimits.MaxLabelKeyLength)]
    public string? Group { get; init; }

    [Description("One microVM of the same tenant, by id or name; it is kept by its id")]
    public string? Vm { get; init; }

    [Description("What is shared with it, or not"), AllowedValues(PlacementWishRules.Host, PlacementWishRules.Zone), DefaultValue(PlacementWishRules.Host)]
    public string? Within { get; init; }

    [Description("True: where none of the group is; false: where one is"), DefaultValue(false)]
    public bool? Apart { get; init; }

    [Description("True: it waits rather than go against the rule; false: the rule is a wish"), DefaultValue(true)]
    public bool? Hard { get; init; }
}

/// <summary>To keep a group even over zones or hosts.</summary>
internal sealed record SpreadBody
{
    [Required, MaxLength(VmLimits.MaxLabelKeyLength)]
    public string? Group { get; init; }

    [Description("zone: no zone has over most_ahead more of it than another; host: no host has over most_ahead of it"), AllowedValues(PlacementWishRules.Zone, PlacementWishRules.Host), DefaultValue(PlacementWishRules.Zone)]
    public string? Over { get; init; }

    [Range(1, VmLimits.MaxSpreadAhead), DefaultValue(1L)]
    public long? MostAhead { get; init; }

    [Description("True: it waits rather than go against the rule; false: the one that has fewest is preferred"), DefaultValue(true)]
    public bool? Hard { get; init; }
}

/// <summary>What placement would do with a microVM.</summary>
/// <param name="Fits">Whether it would be placed now.</param>
/// <param name="Preempts">Only because microVMs of lower classes would give way.</param>
/// <param name="FittingHosts">Hosts that would do; null for a tenant.</param>
/// <param name="Candidates">The hosts that would be asked, best first; none for a tenant.</param>
/// <param name="Reason">Why it would be unplaced; null: it would not.</param>
/// <param name="Rejections">Why the other hosts would not do, by reason; for a tenant only when none does.</param>
/// <param name="WouldFitIf">Changes of which each by itself would make it fit.</param>
internal sealed record PlacementReviewBody(
    bool Fits,
    bool Preempts,
    int? FittingHosts,
    IReadOnlyList<PlacementCandidateBody> Candidates,
    ReasonBody? Reason,
    IReadOnlyList<PlacementRejectionBody> Rejections,
    IReadOnlyList<PlacementChangeBody> WouldFitIf);

/// <summary>A host that would do.</summary>
/// <param name="Host">Its id.</param>
/// <param name="Cost">What speaks against it: the sum of the scores, the less the better.</param>
/// <param name="Scores">By part.</param>
internal sealed record PlacementCandidateBody(string Host, double Cost, IReadOnlyList<PlacementScoreBody> Scores);

internal sealed record PlacementScoreBody(string Name, double Cost);

/// <summary>Hosts that would not do.</summary>
/// <param name="Reason">Why.</param>
/// <param name="Hosts">How many.</param>
/// <param name="Wanted">Where it is about an amount: what is wanted.</param>
/// <param name="MostFree">... and the most that one of them has free.</param>
internal sealed record PlacementRejectionBody(string Reason, uint Hosts, ulong? Wanted, ulong? MostFree);

/// <summary>A change that by itself would make it fit.</summary>
/// <param name="Field">What of the body, or <c>hosts</c>: one host more.</param>
/// <param name="Value">The most of that size that fits; null: without that field.</param>
/// <param name="LikeHost">One more of that host's size, drivers and labels, empty.</param>
/// <param name="FittingHosts">Hosts that would do then; null for a tenant.</param>
internal sealed record PlacementChangeBody(string Field, ulong? Value, string? LikeHost, int? FittingHosts);
