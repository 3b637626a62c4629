using Akka.Actor;
using Akka.TestKit.Xunit2;
using Fleet.Host.Agent;
using Fleet.Host.Pressure;
using Xunit;

namespace Fleet.Host.Tests.Agent;

public sealed class VcpuActorTests : TestKit
{
    [Theory]
    [InlineData("1000000 2000000 7\n", 1, 2)]
    [InlineData("0 0 0", 0, 0)]
    public void Should_read_run_and_wait_time(string text, int runMs, int waitMs) =>
        Assert.Equal((TimeSpan.FromMilliseconds(runMs), TimeSpan.FromMilliseconds(waitMs)), VcpuActor.Parse(text));

    [Theory]
    [InlineData("")]
    [InlineData("1")]
    [InlineData("a b c")]
    [InlineData("-1 0 0")]
    [InlineData("18446744073709551615 99999999999999999999 0")]
    public void Should_not_believe_anything_else(string text) => Assert.Null(VcpuActor.Parse(text));

    [Fact]
    public void Should_know_what_its_thread_used_and_stop_with_it()
    {
        var pid = Environment.ProcessId;
        var vcpu = Sys.ActorOf(Props.Create<VcpuActor>(3, pid, pid, null, TimeProvider.System));
        vcpu.Tell(VcpuActor.GetUsage.Instance, TestActor);
        var usage = ExpectMsg<VcpuUsage>();
        Assert.Equal(3, usage.Index);
        Assert.True(usage.Run > TimeSpan.Zero);

        Assert.Equal((1.0, null), (usage.Allowance, usage.Credits));

        var ended = Watch(Sys.ActorOf(Props.Create<VcpuActor>(0, pid, int.MaxValue, null, TimeProvider.System)));
        ended.Tell(VcpuActor.GetUsage.Instance, TestActor);
        ExpectMsg<Terminated>();
    }

    [Fact]
    public void Should_hold_back_by_its_credits_what_uses_more_than_its_baseline()
    {
        var clock = new ManualClock();
        var pid = Environment.ProcessId;
        var self = int.Parse(Path.GetFileName(File.ResolveLinkTarget("/proc/thread-self", false)!.FullName), System.Globalization.CultureInfo.InvariantCulture);
        var vcpu = Sys.ActorOf(Props.Create<VcpuActor>(0, pid, self, new CreditTerms(0.05, TimeSpan.FromSeconds(10)), clock));
        vcpu.Tell(VcpuActor.GetUsage.Instance, TestActor);
        var first = ExpectMsg<VcpuUsage>();
        Assert.Equal(1, first.Allowance);
        // This thread works for more than a second, in what is no time at all for the clock: that is above every baseline.
        var usage = first;
        while (usage.Run - first.Run < TimeSpan.FromSeconds(1.2))
        {
            Thread.SpinWait(100_000);
            clock.Advance(TimeSpan.FromTicks(1));
            vcpu.Tell(VcpuActor.GetUsage.Instance, TestActor);
            usage = ExpectMsg<VcpuUsage>();
        }
        Assert.Equal(0.05, usage.Allowance);
        Assert.InRange(usage.Credits!.Value.TotalSeconds, -10, 0);
        // A minute of its baseline is three seconds; it leaves nearly all of them.
        clock.Advance(TimeSpan.FromMinutes(1));
        vcpu.Tell(VcpuActor.GetUsage.Instance, TestActor);
        Assert.Equal(1, ExpectMsg<VcpuUsage>().Allowance);
    }
}
