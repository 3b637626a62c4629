using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Vms;

public sealed partial class VmLifeTests
{
    /// <summary>However a long run ends, and not only when it gives way again; what it gave way in just now counts.</summary>
    [Fact]
    public void Should_count_anew_how_often_it_gave_way_after_a_long_run()
    {
        var (soon, late) = (Start.AddMinutes(1), Start + RestartRules.LongRun);
        VmLife Leaves(VmLife life, DateTimeOffset at, bool preempted, bool pressed) => Apply(life, life.Move("a", 1, "", 0, 1000, at, out _, preempted, pressed));
        var life = RunningOn("a");
        life.Record!.Preemptions = 2;
        foreach (var (preempted, pressed, at, count) in new[] { (true, false, soon, 3U), (false, true, soon, 3U), (false, false, soon, 2U), (true, false, late, 1U), (false, true, late, 1U), (false, false, late, 0U) })
        {
            Assert.Equal(count >= PreemptionRules.Most, PreemptionRules.IsSettled(life.Record, at, preempted || pressed));
            var left = Leaves(life, at, preempted, pressed);
            Assert.Equal(count, left.Record!.Preemptions);
            Assert.Equal(count, Apply(left, left.Lost("a", 1, late)).Record!.Preemptions);
            // Its deadline is over while it goes: that is the same leaving.
            var forced = left.Move("a", 1, "", 0, 0, late, out _);
            Assert.Equal(count, Apply(left, forced).Record!.Preemptions);
            if (!preempted && !pressed)
                continue;
            // So it is when the host that it was to go to is lost.
            var going = Apply(life, life.Move("a", 1, "b", 2, 1000, at, out _, preempted, pressed));
            Assert.Equal(count, Apply(going, going.Lost("b", 2, late)).Record!.Preemptions);
        }
        Assert.Equal((2U, 0U), (Apply(life, life.Lost("a", 1, soon)).Record!.Preemptions, Apply(life, life.Lost("a", 1, late)).Record!.Preemptions));
        Assert.Equal(0U, Apply(life, life.Report("a", ReportOf(1, HostVmState.Ended, 2), late, out _)).Record!.Preemptions);
        var saved = Apply(life, life.Suspend(soon));
        Assert.Equal(0U, Apply(saved, saved.Report("a", ReportOf(1, HostVmState.Suspended, 3), late, out _)).Record!.Preemptions);
    }
}
