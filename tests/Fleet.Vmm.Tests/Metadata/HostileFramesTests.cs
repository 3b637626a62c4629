using Fleet.Vmm.Tests.Fuzz;
using Xunit;

namespace Fleet.Vmm.Tests.Metadata;

public class HostileFramesTests
{
    [Fact]
    public void Should_stand_a_hundred_thousand_frames_and_hold_nothing_behind_them()
    {
        using var target = new MetadataTarget();
        FuzzRun.Run(target, seed: 100_000, cases: 100_000);
    }
}
