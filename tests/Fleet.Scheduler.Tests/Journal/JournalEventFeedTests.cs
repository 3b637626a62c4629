using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Journal;

public sealed class JournalEventFeedTests
{
    [Fact]
    public async Task Should_hand_out_every_event_once_in_order_while_they_are_written()
    {
        await using var cell = await TestCell.StartAsync();
        await using var agent = new FakeAgent("rack1-7") { Inventory = FakeAgent.Simulated(1024, 1 << 20) };
        await agent.ConnectAsync(cell.System.HostLink);
        using var end = new CancellationTokenSource(Eventually.Bound);
        var seen = new List<JournalEvent>();
        var reading = ReadAsync(cell.System.Events, 0, seen, end.Token);

        var ids = (await Task.WhenAll(Enumerable.Range(0, 4).Select(async _ =>
        {
            var mine = new List<string>();
            for (var i = 0; i < 25; i++)
                mine.Add(await cell.CreateAsync());
            return mine;
        }))).SelectMany(mine => mine).ToList();
        foreach (var id in ids)
            await cell.WaitAsync(id, VmState.Running);

        // created, placed and running of each microVM, and what the host stored.
        var host = await cell.HostAsync("rack1-7");
        var expected = (3 * ids.Count) + (int)host.Version;
        await Eventually.TrueAsync(() => Count(seen) >= expected, () => $"{Count(seen)} of {expected} events came.");
        await end.CancelAsync();
        await reading;

        Assert.Equal(expected, seen.Count);
        Assert.Equal(seen.OrderBy(stored => stored.Offset), seen);
        foreach (var of in seen.GroupBy(stored => stored.PersistenceId))
            Assert.Equal(Enumerable.Range(1, of.Count()).Select(number => (long)number), of.Select(stored => stored.SequenceNr));

        // What the folds make of the feed is what the actors answer.
        foreach (var id in ids)
        {
            var folded = seen.Where(stored => stored.PersistenceId == $"vm/{id}").Aggregate((VmRecord?)null, (record, stored) => VmFold.Apply(record, stored.Event));
            Assert.Equal(await cell.GetAsync(id), folded);
        }
        // Of what is used nothing is stored.
        host.Usage = null;
        Assert.Equal(host, seen.Where(stored => stored.PersistenceId == "host/rack1-7").Aggregate((HostRecord?)null, (record, stored) => HostFold.Apply(record, stored.Event)));

        // A reader that comes later, or goes on from where it was, gets the rest.
        var middle = seen[seen.Count / 2].Offset;
        var rest = new List<JournalEvent>();
        using var endRest = new CancellationTokenSource(Eventually.Bound);
        var readingRest = ReadAsync(cell.System.Events, middle, rest, endRest.Token);
        await Eventually.TrueAsync(() => Count(rest) >= seen.Count(stored => stored.Offset > middle));
        await endRest.CancelAsync();
        await readingRest;
        Assert.Equal(seen.Where(stored => stored.Offset > middle), rest);
    }

    private static int Count(List<JournalEvent> seen)
    {
        lock (seen)
            return seen.Count;
    }

    private static async Task ReadAsync(IEventFeed feed, long after, List<JournalEvent> seen, CancellationToken end)
    {
        try
        {
            await foreach (var stored in feed.ReadAsync(after, end))
            {
                lock (seen)
                    seen.Add(stored);
            }
        }
        catch (OperationCanceledException) when (end.IsCancellationRequested)
        {
            // The test has seen enough.
        }
    }
}
