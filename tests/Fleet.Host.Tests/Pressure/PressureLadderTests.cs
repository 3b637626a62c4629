using Fleet.Host.Pressure;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Pressure;

public sealed class PressureLadderTests
{
    private static readonly LadderTimes Times = new(TimeSpan.FromSeconds(10), TimeSpan.FromSeconds(60));
    private static readonly PressureRung[] Rungs = [PressureRung.Closed, PressureRung.Reclaim, PressureRung.Evict];

    private readonly PressureLadder _ladder = new(Rungs, Times);

    private bool Take(Tension tension, double seconds) => _ladder.Take(tension, TimeSpan.FromSeconds(seconds));

    [Fact]
    public void Should_go_up_one_rung_for_each_time_of_high_tension_and_down_in_reverse()
    {
        Assert.False(Take(Tension.High, 0));
        Assert.False(Take(Tension.High, 9));
        Assert.True(Take(Tension.High, 10));
        Assert.Equal(PressureRung.Closed, _ladder.Rung);
        Assert.False(Take(Tension.High, 19));
        Assert.True(Take(Tension.High, 20));
        Assert.Equal(PressureRung.Reclaim, _ladder.Rung);
        Assert.True(_ladder.Does(PressureRung.Closed) && _ladder.Does(PressureRung.Reclaim) && !_ladder.Does(PressureRung.Evict) && !_ladder.Does(PressureRung.Squeeze));
        Assert.True(Take(Tension.High, 99)); // however late
        Assert.False(Take(Tension.High, 999)); // the last
        Assert.Equal(PressureRung.Evict, _ladder.Rung);

        Assert.True(Take(Tension.Low, 1000)); // it asks for nothing of others any more
        Assert.False(Take(Tension.Low, 1059));
        Assert.True(Take(Tension.Low, 1060));
        Assert.Equal(PressureRung.Reclaim, _ladder.Rung);
        Assert.True(Take(Tension.Low, 1120));
        Assert.True(Take(Tension.Low, 1180));
        Assert.False(Take(Tension.Low, 9999));
        Assert.Equal(PressureRung.Calm, _ladder.Rung);
        Assert.False(_ladder.Does(PressureRung.Closed));
    }

    [Fact]
    public void Should_ask_for_the_last_rung_only_while_tension_is_high()
    {
        Take(Tension.High, 0);
        for (var i = 10; i < 30; i += 10)
            Take(Tension.High, i);
        Assert.Equal(PressureRung.Reclaim, _ladder.Asked);
        Assert.True(Take(Tension.High, 30));
        Assert.Equal(PressureRung.Evict, _ladder.Asked);
        Assert.True(Take(Tension.Between, 31)); // it says something else now
        Assert.False(Take(Tension.Low, 32));
        Assert.Equal((PressureRung.Evict, PressureRung.Reclaim), (_ladder.Rung, _ladder.Asked));
        Assert.True(Take(Tension.High, 33));
        Assert.Equal(PressureRung.Evict, _ladder.Asked);
        Take(Tension.Low, 34);
        Assert.True(Take(Tension.Low, 94));
        Assert.Equal((PressureRung.Reclaim, PressureRung.Reclaim), (_ladder.Rung, _ladder.Asked));
    }

    [Fact]
    public void Should_stay_while_tension_is_neither_or_changes()
    {
        Take(Tension.High, 0);
        Take(Tension.High, 10);
        for (var i = 11; i < 500; i++)
            Assert.False(Take(Tension.Between, i));
        for (var i = 500; i < 900; i += 5)
            Assert.False(Take(i % 2 == 0 ? Tension.High : Tension.Low, i));
        // A break begins the time anew.
        Take(Tension.Low, 900);
        Take(Tension.Between, 950);
        Assert.False(Take(Tension.Low, 961));
        Assert.Equal(PressureRung.Closed, _ladder.Rung);
    }

    [Fact]
    public void Should_never_change_faster_than_its_times_or_by_more_than_a_rung_whatever_comes()
    {
        for (var seed = 0; seed < 200; seed++)
        {
            var random = new Random(seed);
            var ladder = new PressureLadder(Rungs, Times);
            var done = new Stack<PressureRung>();
            var now = 0.0;
            double highSince = 0, lowSince = 0, lastChange = 0;
            var before = Tension.Between;
            // Long stretches and flicker, at ticks that come late at times.
            for (var i = 0; i < 500; i++)
            {
                now += random.NextDouble() * (random.Next(20) == 0 ? 40 : 4);
                var tension = random.Next(seed % 10 == 0 ? 2 : 30) == 0 ? (Tension)random.Next(3) : before;
                if (tension != before)
                    (highSince, lowSince) = (now, now);
                before = tension;
                var rung = ladder.Rung;
                ladder.Take(tension, TimeSpan.FromSeconds(now));
                if (ladder.Rung != rung)
                {
                    var up = tension == Tension.High;
                    Assert.NotEqual(Tension.Between, tension);
                    Assert.True(now - (up ? highSince : lowSince) >= (up ? 10 : 60) - 1e-6, $"seed {seed}, {now}");
                    Assert.True(lastChange == 0 || now - lastChange >= (up ? 10 : 60) - 1e-6, $"seed {seed}, {now}");
                    lastChange = now;
                    // What was done last is undone first.
                    if (up)
                        done.Push(ladder.Rung);
                    else
                        done.Pop();
                }
                Assert.Equal(done.TryPeek(out var top) ? top : PressureRung.Calm, ladder.Rung);
                Assert.Equal(done.Reverse(), Rungs.Where(ladder.Does));
            }
        }
    }
}
