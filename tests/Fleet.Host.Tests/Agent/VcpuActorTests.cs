using Akka.Actor;
using Akka.TestKit.Xunit2;
using Fleet.Host.Agent;
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
        var vcpu = Sys.ActorOf(Props.Create<VcpuActor>(3, pid, pid));
        vcpu.Tell(VcpuActor.GetUsage.Instance, TestActor);
        var usage = ExpectMsg<VcpuUsage>();
        Assert.Equal(3, usage.Index);
        Assert.True(usage.Run > TimeSpan.Zero);

        var ended = Watch(Sys.ActorOf(Props.Create<VcpuActor>(0, pid, int.MaxValue)));
        ended.Tell(VcpuActor.GetUsage.Instance, TestActor);
        ExpectMsg<Terminated>();
    }
}
