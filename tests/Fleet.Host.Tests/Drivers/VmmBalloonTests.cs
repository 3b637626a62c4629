using System.Text.Json.Nodes;
using Fleet.Host.Drivers;
using Fleet.Host.Pressure;
using Fleet.Tests;

namespace Fleet.Host.Tests.Drivers;

public sealed class VmmBalloonTests
{
    private static BalloonReading Read(string answer) => VmmBalloon.Read((JsonObject)JsonNode.Parse(answer)!);

    [Fact]
    public void Should_read_what_the_guest_told_and_what_it_did_not()
    {
        Assert.Equal(
            new BalloonReading(100, 90, 512, 6),
            Read("""{"target_pages": 25600, "target_mib": 100, "actual_mib": 90, "available_memory": 537395200, "swap_in": 1, "oom_kill": 2, "alloc_stall": 3, "major_faults": 50}"""));
        Assert.Equal(new BalloonReading(0, 0, null, 0), Read("""{"target_mib": 0}"""));
    }

    [Theory]
    [InlineData("{}")]
    [InlineData("""{"target_mib": "many"}""")]
    [InlineData("""{"target_mib": -1}""")]
    public void Should_not_believe_anything_else(string answer) =>
        Assert.ThrowsAny<Exception>(() => Read(answer));

    /// <summary>With the real fleet-vmm, and a guest that has no driver: it is asked, and hands nothing over.</summary>
    [SkippableFact]
    public async Task Should_ask_a_guest_for_memory_by_its_VMM_and_take_the_question_back()
    {
        var driver = new KvmDriver(new(Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm"), DriverOptions.DefaultQemu, new Scratch.NoImage()));
        var status = await driver.ProbeAsync(default);
        Skip.IfNot(status.Usable, "kvm: " + status.Detail);
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Spinning());
        await using var vmm = await driver.LaunchAsync(launch, default);
        Assert.Equal(new BalloonReading(0, 0, null, 0), await vmm.ReadBalloonAsync(default));
        await vmm.SetBalloonAsync(16, TimeSpan.FromSeconds(2), default);
        Assert.Equal(new BalloonReading(16, 0, null, 0), await vmm.ReadBalloonAsync(default));
        await Assert.ThrowsAsync<VmmRefusedException>(() => vmm.SetBalloonAsync(65, TimeSpan.FromSeconds(2), default));
        await vmm.SetBalloonAsync(0, KvmVmm.TellsInCalm, default);
        Assert.Equal(new BalloonReading(0, 0, null, 0), await vmm.ReadBalloonAsync(default));
        await vmm.StopAsync(TimeSpan.Zero);
    }
}
