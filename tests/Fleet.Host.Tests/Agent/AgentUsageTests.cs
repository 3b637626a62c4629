using Fleet.Host.Usage;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>What an agent tells of the use of its machine.</summary>
public sealed class AgentUsageTests : AgentTest
{
    [Fact]
    public async Task Should_tell_every_ten_seconds_what_its_microVMs_used()
    {
        var clock = new ManualClock();
        await using var agent = await StartAsync(clock: clock);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch(new SimulatedGuest { StepMs = 1000, CpuPercent = { 30 }, MemoryPercent = { 50 } }));
        await stream.ExpectReportAsync(Id, HostVmState.Running);

        VmUse? use = null;
        ulong last = 0;
        for (var i = 0; i < 20 && use is null; i++)
        {
            for (var ticks = 0; ticks < 5; ticks++)
            {
                clock.Advance(UsageTable.SampleEvery / 5);
                // The answer to this tells that the tick was seen before the clock goes on.
                var epoch = (ulong)(100 + (i * 5) + ticks);
                await stream.SendAsync(Stop(epoch));
                await stream.ExpectAsync(message =>
                {
                    if (message.Usage is { } sample)
                    {
                        Assert.True(sample.Sequence > last && sample.AgeMs <= 2000);
                        last = sample.Sequence;
                        // The test's clock may go on by a step between a reading and the look at the time: such a sample is off by that, the next is not.
                        use ??= sample.Vms.SingleOrDefault(one => one.CpuMillis is >= 299 and <= 301);
                    }
                    return message.Report?.Epoch == epoch;
                });
            }
        }
        Assert.NotNull(use);
        Assert.Equal((Id, 1UL, 32UL * 1024), (use.VmId, use.Epoch, use.MemoryKib));
        Assert.True(last >= 2);
    }
}
