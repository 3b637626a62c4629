using Akka.Actor;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Scheduler.Vms;
using Xunit;

namespace Fleet.Scheduler.Tests.Placement;

/// <summary>A node that has just started knows of no host, or of some: that is no reason to give a microVM up.</summary>
public sealed class EarlyIndexTests
{
    private static readonly Demand Small = Demand.Of(TestCell.Spec());

    [Fact]
    public void Should_not_take_an_index_that_is_early_for_a_lasting_reason()
    {
        Assert.False(Search(isEarly: true).IsLasting);
        Assert.True(Search(isEarly: false).IsLasting);

        static PlacementSearch Search(bool isEarly)
        {
            var search = new PlacementSearch(Small, 2, ["box"]);
            search.Take(new PlacementAdvice([], []) { IsEarly = isEarly });
            Assert.Null(search.Next());
            search.Explain();
            return search;
        }
    }

    [Fact]
    public async Task Should_be_early_until_it_knows_the_hosts_in_question_or_has_listened_for_long()
    {
        var clock = new JumpingClock();
        await using var cell = await TestCell.StartAsync(options => options with { Clock = clock, HostAnnounce = TimeSpan.FromMinutes(1) });
        await using var agent = new FakeAgent("box");
        await agent.ConnectAsync(cell.System.HostLink);
        await Eventually.TrueAsync(async () => !(await AskAsync("box")).IsEarly);
        Assert.True((await AskAsync("box", "other")).IsEarly);
        clock.Jump(TimeSpan.FromMinutes(4));
        Assert.False((await AskAsync("box", "other")).IsEarly);

        async Task<PlacementAdvice> AskAsync(params string[] failed) =>
            (await cell.System.Placement.Ask<HostsFound>(new FindHosts(Small, failed.ToHashSet(), 0), Eventually.Bound)).Advice;
    }
}
