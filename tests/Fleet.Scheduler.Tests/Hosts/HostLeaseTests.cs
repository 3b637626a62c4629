using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Tests.Api;
using Fleet.Scheduler.Tests.Cell;
using Xunit;

namespace Fleet.Scheduler.Tests.Hosts;

public sealed class HostLeaseTests
{
    [Theory]
    [InlineData(20_000, 2_000, false, null)]
    [InlineData(6_000, 560, false, null)]
    [InlineData(16_000, 2_000, false, null)]
    [InlineData(19_999, 2_000, true, "A lease of 19.999 s is shorter than the 20 s in which the nodes of a cell take over from one that dies: every guest of its hosts would stand still meanwhile.")]
    [InlineData(5_999, 2_000, false, "A lease of 5.999 s is shorter than three heartbeats of 2 s: one that is late would stop every guest.")]
    [InlineData(20_000, 699, true, "A margin of 0.699 s is less than the 0.7 s that clocks and processors may be off by: a microVM could run twice.")]
    public void Should_take_only_terms_that_can_be_kept(int lifetime, int margin, bool severalNodes, string? problem) =>
        Assert.Equal(problem, new LeaseTerms(TimeSpan.FromMilliseconds(lifetime), TimeSpan.FromMinutes(1), TimeSpan.FromMilliseconds(margin)).FirstProblem(TimeSpan.FromSeconds(2), severalNodes));

    /// <summary>The default is meant for the default heartbeat.</summary>
    [Fact]
    public void Should_take_its_own_default() => Assert.Null(LeaseTerms.Default.FirstProblem(new CellOptions { DataDirectory = "" }.Heartbeat, severalNodes: true));

    [Fact]
    public void Should_count_anew_from_each_grant_and_from_its_begin()
    {
        var clock = new ManualClock();
        using var pulse = new Pulse(clock);
        var lease = new HostLease(LeaseTerms.Default, clock, pulse);
        Assert.Equal(TimeSpan.FromSeconds(22), lease.UntilGivenUp);
        clock.Advance(TimeSpan.FromSeconds(21));
        lease.Grant();
        Assert.Equal(TimeSpan.FromSeconds(22), lease.UntilGivenUp);
        clock.Advance(TimeSpan.FromSeconds(23));
        Assert.Equal(TimeSpan.FromSeconds(-1), lease.UntilGivenUp);
    }

    /// <summary>Who granted before, under other settings, gave a deadline that hosts keep.</summary>
    [Fact]
    public void Should_wait_for_the_longer_lease_of_whoever_granted_before()
    {
        var clock = new ManualClock();
        using var pulse = new Pulse(clock);
        var lease = new HostLease(LeaseTerms.Default with { Lifetime = TimeSpan.FromSeconds(6) }, clock, pulse);
        lease.GrantedBefore(TimeSpan.FromSeconds(60), TimeSpan.Zero);
        lease.Grant();
        Assert.Equal(TimeSpan.FromSeconds(62.6), lease.UntilGivenUp);
        // A third one that comes after this one has to wait as long.
        Assert.Equal(TimeSpan.FromSeconds(60), lease.Outstanding);
        clock.Advance(TimeSpan.FromSeconds(63));
        lease.Grant();
        Assert.Equal(TimeSpan.FromSeconds(8), lease.UntilGivenUp);
        Assert.Equal(TimeSpan.FromSeconds(6), lease.Outstanding);
    }

    /// <summary>One that moved in the middle of a host's silence goes on counting where the one before it ended.</summary>
    [Fact]
    public void Should_count_the_silence_that_was_handed_to_it_until_it_grants()
    {
        var clock = new ManualClock();
        using var pulse = new Pulse(clock);
        var lease = new HostLease(LeaseTerms.Default, clock, pulse);
        lease.GrantedBefore(TimeSpan.FromSeconds(20), TimeSpan.FromSeconds(15));
        clock.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal(TimeSpan.FromSeconds(16), lease.Age);
        // 1 % more than the 22 s of one that granted itself: a former one's clock was another.
        Assert.Equal(TimeSpan.FromSeconds(6.2), lease.UntilGivenUp);
        lease.Grant();
        Assert.Equal(TimeSpan.Zero, lease.Age);
        Assert.Equal(TimeSpan.FromSeconds(22), lease.UntilGivenUp);
    }

    [Fact]
    public void Should_not_count_the_time_in_which_the_control_plane_stood_still()
    {
        var clock = new JumpingClock();
        using var pulse = new Pulse(clock);
        var lease = new HostLease(LeaseTerms.Default, clock, pulse);
        clock.Jump(TimeSpan.FromSeconds(30));
        Assert.InRange(lease.UntilGivenUp, TimeSpan.FromSeconds(15), TimeSpan.FromSeconds(23));
    }
}
