using Fleet.Chaos.Faults;
using Fleet.Chaos.Harness;
using Xunit;
using Xunit.Abstractions;

namespace Fleet.Chaos.Tests.Harness;

/// <summary>The whole of it, for a short time; `fleet bench chaos` is the long one.</summary>
public sealed class ChaosRunTests(ITestOutputHelper output)
{
    [SkippableFact]
    [Trait("Kind", "Slow")]
    public async Task Should_keep_every_promise_of_a_fleet_that_is_broken_in_many_ways()
    {
        Skip.If(ChaosFleet.Missing is not null, ChaosFleet.Missing);
        var report = await ChaosRun.RunAsync(
            new ChaosOptions
            {
                // A fixed one, since a test that fails by chance tells nobody what was changed. It has each of the gravest faults.
                Seed = 5,
                Length = TimeSpan.FromSeconds(40),
                Pace = TimeSpan.FromSeconds(4),
                Fleet = new FleetOptions { Hosts = 3, Lease = TimeSpan.FromSeconds(6) },
            },
            output.WriteLine);
        Assert.Empty(report.Verdict.Violations);
        Assert.NotEmpty(report.Verdict.Recoveries);
        Assert.InRange(report.MicroVms, 20, 1_000);
        Assert.Contains(report.Faults.Keys, kind => kind is FaultKind.PowerOff or FaultKind.Hang or FaultKind.Cut or FaultKind.Kill);
        Assert.DoesNotContain(Directory.EnumerateFileSystemEntries("/run/netns"), left => left.Contains($"-{Environment.ProcessId}-", StringComparison.Ordinal));
    }
}
