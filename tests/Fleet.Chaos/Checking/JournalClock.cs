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
            // As many before as behind: at either end the middle would be of another time.
            var reach = Math.Min(Reach, Math.Min(i, events.Count - 1 - i));
            var near = events.Skip(i - reach).Take((2 * reach) + 1).Select(stored => stored.AtMs).Where(at => at > 0).Order().ToList();
            var middle = near.Count == 0 ? events[i].AtMs : near[near.Count / 2];
            straight.Add(Math.Abs(events[i].AtMs - middle) > OffMs ? events[i] with { AtMs = middle } : events[i]);
        }

        return straight;
    }
}
