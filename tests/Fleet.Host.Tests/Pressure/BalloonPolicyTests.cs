using Fleet.Host.Pressure;

namespace Fleet.Host.Tests.Pressure;

public sealed class BalloonPolicyTests
{
    private const uint Memory = 1024;
    private const uint Reserve = 128;

    private readonly BalloonPolicy _policy = new(Memory);
    private TimeSpan _now;

    private uint Next(BalloonReading reading, bool isShort = true)
    {
        _now += BalloonPolicy.Every;
        return _policy.Next(reading, isShort, _now);
    }

    private static BalloonReading Reading(uint target, ulong? available, uint? actual = null, ulong troubles = 0) => new(target, actual ?? target, available, troubles);

    [Fact]
    public void Should_take_what_is_spare_in_steps_and_half_of_the_memory_at_most()
    {
        Assert.Equal(64U, Next(Reading(0, 900)));
        Assert.Equal(128U, Next(Reading(64, 836)));
        Assert.Equal(128U, Next(Reading(128, 836, actual: 100))); // it has not handed over yet
        Assert.Equal(138U, Next(Reading(128, Reserve + 20)));
        Assert.Equal(128U, Next(Reading(128, Reserve)));
        Assert.Equal(512U, Next(Reading(500, 500)));
        Assert.Equal(512U, Next(Reading(512, 500)));
    }

    [Fact]
    public void Should_give_back_what_the_guest_needs_at_once()
    {
        Assert.Equal(300U, Next(Reading(400, Reserve - 100)));
        Assert.Equal(0U, Next(Reading(50, 10)));
    }

    [Fact]
    public void Should_give_back_half_and_rest_when_the_guest_is_in_want()
    {
        Assert.Equal(264U, Next(Reading(200, 900, troubles: 7))); // of before it was asked
        Assert.Equal(132U, Next(Reading(264, 900, troubles: 8)));
        for (var rested = TimeSpan.Zero; rested < BalloonPolicy.Rest - BalloonPolicy.Every; rested += BalloonPolicy.Every)
            Assert.Equal(132U, Next(Reading(132, 900, troubles: 8)));
        Assert.Equal(196U, Next(Reading(132, 900, troubles: 8)));
    }

    [Fact]
    public void Should_take_nothing_from_a_guest_of_which_nothing_is_known()
    {
        Assert.Equal(0U, Next(Reading(0, null)));
        Assert.Equal(200U, Next(Reading(200, null))); // of an agent before
    }

    [Fact]
    public void Should_give_all_back_in_calm()
    {
        var target = 500U;
        for (var i = 0; i < 3; i++)
            target = Next(Reading(target, 900), isShort: false);
        Assert.Equal(116U, target);
        target = Next(Reading(target, null), isShort: false);
        Assert.Equal(0U, target);
        Assert.Equal(0U, Next(Reading(0, 900), isShort: false));
    }

    /// <summary>Whatever guests say, and however their needs change: never above half, and a guest that answers keeps its reserve but for what came since.</summary>
    [Fact]
    public void Should_leave_every_guest_its_own_need()
    {
        for (var seed = 0; seed < 200; seed++)
        {
            var random = new Random(seed);
            var memory = (uint)random.Next(1, 40_000);
            var policy = new BalloonPolicy(memory);
            var reserve = Math.Max(64, memory / 8);
            var (target, need) = (0U, (double)random.Next((int)memory + 1));
            for (var i = 0; i < 500; i++)
            {
                var jump = random.Next(20) == 0;
                need = Math.Clamp(jump ? random.Next((int)memory + 1) : need, 0, memory);
                // What the balloon holds the guest has not.
                var available = (ulong)Math.Max(0, memory - need - target);
                var isShort = random.Next(4) > 0;
                var next = policy.Next(new BalloonReading(target, target, available, 0), isShort, TimeSpan.FromSeconds(i * 5));
                Assert.True(next <= memory, $"seed {seed}");
                if (next > target)
                {
                    Assert.True(isShort && next <= memory / 2 && next - target <= memory / 16, $"seed {seed}");
                    Assert.True(memory - need - next >= reserve, $"seed {seed}: {memory} - {need} - {next}");
                }
                if (available < reserve)
                    Assert.True(next == target - Math.Min(target, reserve - available) || !isShort, $"seed {seed}");
                target = next;
            }
            var absurd = policy.Next(new BalloonReading(uint.MaxValue, uint.MaxValue, ulong.MaxValue, ulong.MaxValue), true, TimeSpan.FromDays(1));
            Assert.InRange(absurd, 0U, memory);
        }
    }
}
