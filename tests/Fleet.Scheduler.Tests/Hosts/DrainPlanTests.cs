using Fleet.Scheduler.Hosts;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Hosts;

public sealed class DrainPlanTests
{
    private static readonly TimeSpan Start = TimeSpan.FromHours(1);
    private static readonly Reason Full = new() { Code = "no_capacity", Message = "full" };

    private readonly DrainPlan _plan = new();
    private readonly List<Reservation> _held = [.. Enumerable.Range(0, 20).Select(i => new Reservation($"vm-{i:00}", 1, 1, 128, Vacated: false))];

    [Fact]
    public void Should_move_a_few_at_a_time()
    {
        var first = _plan.Next(_held, Start, forced: false);
        Assert.Equal(DrainPlan.MostAtOnce, first.Count);
        Assert.Empty(_plan.Next(_held, Start, forced: false));
        foreach (var gone in first.Take(3))
            _held.Remove(gone);
        Assert.Equal(3, _plan.Next(_held, Start, forced: false).Except(first).Count());
    }

    [Fact]
    public void Should_go_on_with_others_while_some_find_no_room_and_ask_those_again()
    {
        var stuck = _plan.Next(_held, Start, forced: false);
        foreach (var one in stuck)
            _plan.Answered(one.VmId, one.Epoch, Full, Start);
        Assert.Equal(stuck.Select(one => (one.VmId, Full)), _plan.Staying);
        var others = _plan.Next(_held, Start, forced: false);
        Assert.Empty(others.Intersect(stuck));
        _held.RemoveAll(one => !stuck.Contains(one));
        Assert.Empty(_plan.Next(_held, Start + DrainPlan.AskAgain - TimeSpan.FromTicks(1), forced: false));
        Assert.Equal(stuck, _plan.Next(_held, Start + DrainPlan.AskAgain, forced: false));
        _plan.Answered(stuck[0].VmId, 1, null, Start + DrainPlan.AskAgain);
        Assert.Equal(stuck.Count - 1, _plan.Staying.Count());
        _held.Clear();
        _plan.Next(_held, Start, forced: false);
        Assert.Empty(_plan.Staying);
    }

    [Fact]
    public void Should_ask_again_who_does_not_answer_and_tell_all_at_the_deadline()
    {
        var first = _plan.Next(_held, Start, forced: false);
        Assert.Equal(first, _plan.Next(_held, Start + DrainPlan.Patience, forced: false));
        _plan.Answered(first[0].VmId, 1, null, Start + DrainPlan.Patience);
        Assert.Equal(_held, _plan.Next(_held, Start + DrainPlan.Patience, forced: true).OrderBy(one => one.VmId, StringComparer.Ordinal));
        Assert.Empty(_plan.Next(_held, Start + DrainPlan.Patience, forced: true));
        Assert.Equal(_held.Count, _plan.Next(_held, Start + (2 * DrainPlan.Patience), forced: true).Count);
    }

    [Theory]
    [InlineData(0, 30)]
    [InlineData(600, 40)]
    [InlineData(16 * 1024, 303)]
    public void Should_count_more_time_for_more_memory(ulong memoryMib, int seconds) => Assert.Equal(seconds, (int)DrainPlan.TimeToTransfer(memoryMib).TotalSeconds);
}
