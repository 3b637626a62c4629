using Fleet.Scheduler.Cell;

namespace Fleet.Chaos.Checking;

/// <summary>
/// The journal is one story: no event is missing or written by two actors at once, epochs only rise, nothing is placed where no room was
/// reserved, and nothing ran that was not placed.
/// </summary>
internal static class Order
{
    public const string Torn = "journal_torn";
    public const string EpochReused = "epoch_reused";
    public const string PlacedWithoutRoom = "placed_without_room";
    public const string RanUnplaced = "ran_unplaced";

    public static IEnumerable<Violation> Check(History history, JournalIndex journal)
    {
        foreach (var (id, events) in journal.Vms.Concat(journal.Hosts))
        {
            for (var i = 0; i < events.Count; i++)
            {
                if (events[i].SequenceNumber == i + 1)
                    continue;
                yield return new(Torn, id, $"event {i + 1} has the number {events[i].SequenceNumber}");
                break;
            }
        }

        foreach (var (id, events) in journal.Vms)
        {
            var last = 0UL;
            foreach (var (host, epoch) in events.Select(stored => JournalIndex.PlaceOf(stored.Event)).OfType<(string, ulong)>())
            {
                if (epoch <= last)
                    yield return new(EpochReused, id, $"placed on {host} under epoch {epoch} after epoch {last}");
                last = Math.Max(last, epoch);
            }
        }

        var reserved = new HashSet<(string Host, string Vm, ulong Epoch)>();
        foreach (var stored in history.Journal)
        {
            switch (stored.Event)
            {
                case HostReserved room:
                    reserved.Add((JournalIndex.IdOf(stored), room.VmId, room.Epoch));
                    break;
                case var placed when JournalIndex.PlaceOf(placed) is var (host, epoch) && !reserved.Contains((host, JournalIndex.IdOf(stored), epoch)):
                    yield return new(PlacedWithoutRoom, JournalIndex.IdOf(stored), $"placed on {host} under epoch {epoch}, which had not reserved room for it");
                    break;
            }
        }

        foreach (var run in history.Runs.DistinctBy(run => (run.Vm, run.Epoch, run.Host)))
        {
            if (journal.Placements.GetValueOrDefault((run.Vm, run.Epoch)) is var host && host != run.Host)
                yield return new(RanUnplaced, run.Vm, $"it ran on {run.Host} under epoch {run.Epoch}, under which it was placed on {host ?? "no host"}");
        }
    }
}
