using Fleet.Scheduler.Membership;
using Fleet.Scheduler.Tests.Api;
using Xunit;

namespace Fleet.Scheduler.Tests.Membership;

public sealed class StallWatchTests
{
    [Theory]
    [InlineData(3_900, false)]
    [InlineData(4_200, true)]
    public void Should_tell_of_a_wait_that_took_too_long(int milliseconds, bool told)
    {
        var clock = new ManualClock();
        var waits = 0;
        TimeSpan? stalled = null;
        StallWatch.Watch(
            clock,
            took => stalled = took,
            tick =>
            {
                clock.Advance(++waits == 3 ? TimeSpan.FromMilliseconds(milliseconds) : tick);
                return waits == 5;
            });
        Assert.Equal(told ? TimeSpan.FromMilliseconds(milliseconds) : null, stalled);
        Assert.Equal(told ? 3 : 5, waits);
    }

    [Fact]
    public void Should_end_when_told_to()
    {
        using var watch = new StallWatch(TimeProvider.System, _ => { });
    }
}
