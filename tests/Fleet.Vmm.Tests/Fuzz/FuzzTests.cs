using Xunit;

namespace Fleet.Vmm.Tests.Fuzz;

/// <summary>A quick part of <c>fleet bench fuzz</c>; a finding tells its seed.</summary>
public class FuzzTests
{
    private const int Cases = 3000;

    public static TheoryData<int> Indices => [.. Enumerable.Range(0, FuzzRun.Targets.Count)];

    [Theory]
    [MemberData(nameof(Indices))]
    public void Should_stand_whatever_comes(int index)
    {
        using var target = FuzzRun.Targets[index]();
        FuzzRun.Run(target, seed: 1, Cases);
    }
}
