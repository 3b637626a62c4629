namespace Fleet.Chaos.Checking;

/// <summary>
/// Times of stored events, where the wall clock of the node that stored them had been moved. The journal has one order for all nodes, and most of them have the
/// right time: an event that is far from the middle of its neighbours was stored when they were.
/// </summary>
internal static class JournalClock
{
    /// <summary>How many neighbours on each side: some seconds of a loaded cell, and more than one node stores in a row.</summary>
    private const int Reach = 50;

    /// <summary>Clocks are moved by more than this, but for one jump in 720.</summary>
    private const long OffMs = 5_000;

    /// <param name="events">In the journal's order. Before the boot: it has no time of its own.</param>
    public static IReadOnlyList<StoredEvent> Straighten(IReadOnlyList<StoredEvent> events)
    {
        var straight = new List<StoredEvent>(events.Count);
        for (var i = 0; i < events.Count; i++)
        {
            var from = Math.Max(0, i - Reach);
            var near = events.Skip(from).Take(i + Reach + 1 - from).Select(stored => stored.AtMs).Where(at => at > 0).Order().ToList();
            var middle = near.Count == 0 ? events[i].AtMs : near[near.Count / 2];
            straight.Add(Math.Abs(events[i].AtMs - middle) > OffMs ? events[i] with { AtMs = middle } : events[i]);
        }

        return straight;
    }
}
