using Fleet.Vmm.Tests.Fuzz;
using Xunit;

namespace Fleet.Vmm.Tests.Metadata;

public class HostileFramesTests
{
    [Fact]
    public void Should_stand_a_hundred_thousand_frames_and_hold_no_more_for_it()
    {
        using var target = new MetadataTarget();
        FuzzRun.Run(target, seed: 1000, cases: 10_000);
        var before = GC.GetTotalMemory(forceFullCollection: true);
        FuzzRun.Run(target, seed: 100_000, cases: 100_000);
        Assert.InRange(GC.GetTotalMemory(forceFullCollection: true) - before, long.MinValue, 1 << 20);
    }
}
