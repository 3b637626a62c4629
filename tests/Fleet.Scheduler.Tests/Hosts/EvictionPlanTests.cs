using Fleet.Scheduler.Hosts;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Scheduler.Tests.Hosts;

public sealed class EvictionPlanTests
{
    private readonly EvictionPlan _plan = new();

    private static Reservation Held(int number, ulong memoryMib = 100, bool vacated = false, string priority = PriorityClass.Normal) =>
        new($"vm-{number}", 1, 1, memoryMib, vacated) { Rank = PriorityClass.Rank(priority) };

    private string? Next(double seconds, params Reservation[] held) => _plan.Next(held, forMemory: true, TimeSpan.FromSeconds(seconds))?.VmId;

    private void Answer(string vmId, bool goes, double seconds) => _plan.Answered(vmId, 1, goes, TimeSpan.FromSeconds(seconds));

    [Fact]
    public void Should_ask_the_largest_first_one_at_a_time_with_a_pause()
    {
        Reservation[] all = [Held(1), Held(2, 300), Held(3, 200), Held(4, 900, vacated: true)];
        Assert.Equal("vm-2", Next(0, all));
        Assert.Null(Next(1, all));
        Answer("vm-2", goes: true, 2);
        Assert.Null(Next(14, all));
        Assert.Null(Next(16, [Held(1), Held(2, 300, vacated: true), Held(3, 200)])); // it has gone
        Assert.Null(Next(45, [Held(1), Held(3, 200)]));
        Assert.Equal("vm-3", Next(46, [Held(1), Held(3, 200)]));
    }

    /// <summary>Sizes and ids are such that by either of them alone the order is another.</summary>
    [Fact]
    public void Should_ask_the_lowest_class_first_whatever_the_sizes_and_of_a_class_the_largest()
    {
        Reservation[] all =
        [
            Held(1, 200, priority: PriorityClass.Low),
            Held(2, 800, priority: PriorityClass.High),
            Held(3, 100, priority: PriorityClass.Low),
            Held(4, 400, priority: PriorityClass.Normal),
            Held(5, 300, priority: PriorityClass.Normal),
            Held(6, 900, priority: PriorityClass.High),
        ];
        var asked = new List<string?>();
        for (var left = all.ToList(); left.Count > 0; left.RemoveAll(one => one.VmId == asked[^1]))
        {
            var now = asked.Count * 100;
            // That the one before has gone is seen at the first look, and its pause is over at the second.
            Next(now, [.. left]);
            asked.Add(Next(now + 31, [.. left]));
            Answer(asked[^1]!, goes: true, now + 32);
        }
        Assert.Equal(["vm-1", "vm-3", "vm-4", "vm-5", "vm-6", "vm-2"], asked);
    }

    [Theory]
    [InlineData(true, "vm-1")]
    [InlineData(false, "vm-2")]
    public void Should_ask_the_one_that_has_most_of_what_is_short(bool forMemory, string vmId)
    {
        Reservation[] all = [new("vm-1", 1, 1, 900, false), new("vm-2", 1, 8, 100, false)];
        Assert.Equal(vmId, _plan.Next(all, forMemory, TimeSpan.Zero)?.VmId);
    }

    [Fact]
    public void Should_ask_last_who_was_sent_about_often_enough() =>
        Assert.Equal("vm-2", Next(0, Held(1, 900, priority: PriorityClass.Low) with { Settled = true }, Held(2, 100, priority: PriorityClass.High)));

    /// <summary>And the lowest again as soon as it may be asked again.</summary>
    [Fact]
    public void Should_ask_a_higher_class_only_when_the_lower_ones_stay()
    {
        Reservation[] all = [Held(1, 100, priority: PriorityClass.Low), Held(2, 500, priority: PriorityClass.Normal), Held(3, 900, priority: PriorityClass.High)];
        Assert.Equal("vm-1", Next(0, all));
        Answer("vm-1", goes: false, 1);
        Assert.Equal("vm-2", Next(1, all));
        Answer("vm-2", goes: false, 50);
        Assert.Equal("vm-3", Next(50, all));
        Answer("vm-3", goes: false, 61);
        Assert.Equal("vm-1", Next(61, all));
    }

    [Fact]
    public void Should_ask_the_next_when_one_stays_and_it_again_later()
    {
        Reservation[] all = [Held(1), Held(2, 300)];
        Assert.Equal("vm-2", Next(0, all));
        Answer("vm-2", goes: false, 1);
        Assert.Equal("vm-1", Next(1, all));
        Answer("vm-1", goes: false, 2);
        Assert.Null(Next(60, all));
        Assert.Equal("vm-2", Next(61, all));
    }

    [Fact]
    public void Should_ask_again_who_gave_no_answer_or_does_not_end_and_nobody_else()
    {
        Reservation[] all = [Held(1), Held(2, 300)];
        Assert.Equal("vm-2", Next(0, all));
        Assert.Null(Next(14, all));
        Assert.Equal("vm-2", Next(15, all));
        Answer("vm-2", goes: true, 16);
        Answer("vm-2", goes: false, 17); // a late answer to the first question
        Answer("vm-1", goes: false, 17); // nobody asked
        Assert.Equal("vm-2", Next(30, all));
    }

    /// <summary>It was being suspended, and so about to go; that failed, and it runs on.</summary>
    [Fact]
    public void Should_ask_another_when_one_that_went_stays_after_all()
    {
        Reservation[] all = [Held(1), Held(2, 300)];
        Assert.Equal("vm-2", Next(0, all));
        Answer("vm-2", goes: true, 1);
        Assert.Equal("vm-2", Next(15, all));
        Answer("vm-2", goes: false, 16);
        Assert.Equal("vm-1", Next(16, all));
    }

    /// <summary>Whatever comes and goes: never two at once, never sooner than the pause after one went.</summary>
    [Fact]
    public void Should_never_evict_faster_than_its_pause()
    {
        for (var seed = 0; seed < 100; seed++)
        {
            var random = new Random(seed);
            var plan = new EvictionPlan();
            var held = Enumerable.Range(0, 20).Select(number => Held(number, (ulong)random.Next(1, 5) * 100)).ToList();
            string? open = null;
            double went = -1000;
            for (var now = 0.0; now < 2000; now += random.NextDouble() * 4)
            {
                var next = plan.Next(held, forMemory: true, TimeSpan.FromSeconds(now));
                if (next is not null)
                {
                    Assert.True(open is null || open == next.VmId, $"seed {seed}");
                    Assert.True(open is not null || now - went >= 30 - 1e-6, $"seed {seed}: {now} after {went}");
                    open = next.VmId;
                }
                if (open is null || random.Next(3) > 0)
                    continue;
                var goes = random.Next(2) == 0;
                plan.Answered(open, 1, goes, TimeSpan.FromSeconds(now));
                if (!goes)
                {
                    open = null;
                    continue;
                }
                held.RemoveAll(one => one.VmId == open);
                open = null;
                went = now;
                // It is seen to be gone at the next look.
                Assert.Null(plan.Next(held, forMemory: true, TimeSpan.FromSeconds(now)));
            }
            Assert.True(held.Count < 20);
        }
    }
}
