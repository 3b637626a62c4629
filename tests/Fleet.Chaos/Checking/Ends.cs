namespace Fleet.Chaos.Checking;

/// <summary>
/// Everything comes to rest once all is healed, with every host there; and nothing ends by itself, but a node of several that was downed by the
/// split-brain resolver, that was stopped for so long that it gave way, that was cut off from the database alone, or that was started while its database was away.
/// </summary>
internal static class Ends
{
    public const string NotAtRest = "not_at_rest";
    public const string Crashed = "crashed";

    /// <summary>As the program says it, of a node that stood still.</summary>
    private const string StoodStill = "This node stood still for";

    /// <summary>As Akka says it, of a node that the resolver takes out or that was told so by another.</summary>
    private static readonly string[] Downed = ["including myself", "marked as DOWN"];

    /// <summary>As the program says it, of a node that can't start: its supervisor tries again.</summary>
    private static readonly string[] Unable = ["fleet: The database", "could not join the cell"];

    /// <summary>As the program says it, of a node that did not reach the database where others did.</summary>
    private const string Alone = "The database is reached by";

    /// <summary>How soon after it goes on a stopped node ends, and that is seen.</summary>
    private const long SoonMs = 5_000;

    public static IEnumerable<Violation> Check(History history)
    {
        if (history.Unrest is { } unrest)
            yield return new(NotAtRest, "fleet", unrest);
        foreach (var crash in history.Crashes.Where(crash => !IsKnown(history, crash)))
            yield return new(Crashed, crash.Process, $"it ended by itself, as was seen at {crash.SeenMs} ms; the last it said: {crash.Log.Split('\n', StringSplitOptions.RemoveEmptyEntries).LastOrDefault() ?? "nothing"}");
    }

    private static bool IsKnown(History history, Crash crash)
    {
        if (!history.OfSeveral || !crash.IsScheduler)
            return false;
        return Downed.Concat(Unable).Any(word => crash.Log.Contains(word, StringComparison.Ordinal))
            || (crash.Log.Contains(Alone, StringComparison.Ordinal)
                && history.Outages.Any(outage => outage.FromDatabase && outage.Process == crash.Process && outage.FromMs <= crash.SeenMs && crash.SeenMs <= outage.ToMs + SoonMs))
            || (crash.Log.Contains(StoodStill, StringComparison.Ordinal)
                && history.Stalls.Any(stall => stall.Process == crash.Process && stall.ToMs <= crash.SeenMs && crash.SeenMs <= stall.ToMs + SoonMs));
    }
}
