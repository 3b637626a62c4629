using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Placement;

/// <summary>What placement would do with a spec now, and why. Nothing is reserved by it, and the host's own ledger has the last word.</summary>
/// <param name="Candidates">The hosts that would be asked, best first.</param>
/// <param name="Fitting">How many hosts would do, as far as placement knows.</param>
/// <param name="Rejections">Why the others would not, by reason.</param>
/// <param name="Reason">Why it would be unplaced; null: it would not.</param>
/// <param name="Changes">Each by itself would make it fit; none where it fits.</param>
public sealed record PlacementReview(
    IReadOnlyList<ReviewedHost> Candidates, int Fitting, IReadOnlyList<Rejection> Rejections, Reason? Reason, IReadOnlyList<PlacementChange> Changes)
{
    /// <summary>No host has room, but the candidates would have if microVMs of lower classes gave way.</summary>
    public bool Preempts { get; init; }

    /// <summary>The node is new and may not have heard of every host: that there is none for the spec means little.</summary>
    public bool IsEarly { get; init; }
}

/// <summary>A host that would do.</summary>
/// <param name="Host">Its name.</param>
/// <param name="Cost">What speaks against it, by part, the less the better.</param>
public sealed record ReviewedHost(string Host, IReadOnlyList<KeyValuePair<string, double>> Cost);

/// <summary>One change that would make a spec fit.</summary>
/// <param name="Field">What of the spec, as the API writes it; <see cref="AddHost"/>: of the fleet.</param>
/// <param name="Value">The most that fits, where the field is a size; null: the spec without the field.</param>
/// <param name="Fitting">How many hosts would do then.</param>
/// <param name="Like">With <see cref="AddHost"/>: one more of its size, drivers and labels, empty; else empty.</param>
public sealed record PlacementChange(string Field, ulong? Value, int Fitting, string Like = "")
{
    public const string AddHost = "hosts";
}
