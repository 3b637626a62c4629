using Fleet.Chaos.Checking;
using Fleet.Scheduler.Cell;
using Xunit;

namespace Fleet.Chaos.Tests.Checking;

public sealed class JournalClockTests
{
    [Fact]
    public void What_a_node_with_a_moved_clock_stored_gets_the_time_of_its_neighbours()
    {
        // Every third event is of a node whose clock is 20 minutes behind, for a while; every fifth has no time.
        var events = Enumerable.Range(0, 600).Select(at => Event(at, at is > 200 and < 400 && at % 3 == 0 ? True(at) - 1_200_000 : at % 5 == 2 ? -1_700_000_000_000 : True(at))).ToList();

        var straight = JournalClock.Straighten(events);

        Assert.All(straight, stored => Assert.InRange(stored.AtMs - True(stored.Order), -5_000, 5_000));
        Assert.All(events.Where(stored => stored.AtMs == True(stored.Order)), stored => Assert.Contains(stored, straight));

        static long True(long order) => 3_000_000 + (order * 60);
    }

    [Fact]
    public void At_either_end_where_little_is_stored_right_times_stay()
    {
        // A minute apart, as when all is at rest.
        var events = Enumerable.Range(0, 90).Select(at => Event(at, 3_000_000 + (at * 60_000L))).ToList();

        Assert.Equal(events, JournalClock.Straighten(events));
    }

    private static StoredEvent Event(long order, long atMs) => new(order, "vm/one", order + 1, new VmRunning(), atMs);
}
