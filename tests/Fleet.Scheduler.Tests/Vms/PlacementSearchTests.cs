using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Vms;

public sealed class PlacementSearchTests
{
    [Fact]
    public void A_host_that_gives_no_answer_costs_little_and_the_next_gets_more_time()
    {
        var search = new PlacementSearch(Demand.Of(new VmSpec()), epoch: 1, avoided: []);
        search.Take(new PlacementAdvice([.. Enumerable.Range(0, 6).Select(at => $"host-{at}")], []));
        var patience = new List<double>();
        while (search.Next() is not null)
        {
            patience.Add(search.Patience.TotalSeconds);
            search.Silent();
        }

        Assert.Equal([1, 2, 4, 5, 5, 5], patience);
        Assert.False(search.IsLasting);
    }

    [Fact]
    public void Whoever_says_no_leaves_the_next_no_more_time()
    {
        var search = new PlacementSearch(Demand.Of(new VmSpec()), epoch: 1, avoided: []);
        search.Take(new PlacementAdvice(["host-0", "host-1"], []));
        _ = search.Next();
        search.Refused(new Rejection { Reason = RejectionReason.Memory, Hosts = 1 });
        _ = search.Next();

        Assert.Equal(TimeSpan.FromSeconds(1), search.Patience);
    }

    [Fact]
    public void Nobody_gives_way_while_the_index_has_hosts_that_were_not_asked()
    {
        var search = Ask(PlacementSearch.MostRefusals);
        Assert.False(search.MaySearchOn || search.MayPreempt);
        Assert.True(search.IsUndecided);

        search = Ask(3);
        Assert.True(search.MaySearchOn);
        search.Take(new PlacementAdvice([], []));
        Assert.True(!search.MaySearchOn && search.MayPreempt && !search.IsUndecided);
        search.Preempt([]);
        Assert.False(search.MayPreempt);
    }

    [Fact]
    public void A_host_that_gave_no_answer_may_have_room()
    {
        var search = new PlacementSearch(Demand.Of(new VmSpec()), epoch: 1, avoided: []);
        search.Take(new PlacementAdvice(["host-0"], []));
        _ = search.Next();
        search.Silent();
        search.Take(new PlacementAdvice([], []));
        Assert.True(search.IsUndecided && search.MayPreempt);
    }

    /// <summary>Twenty hosts that look alike, of which only the last would let others give way: the second search comes to it.</summary>
    [Fact]
    public void The_next_search_passes_over_hosts_that_nobody_gave_way_on()
    {
        var hosts = Enumerable.Range(0, 20).Select(at => $"host-{at:00}").ToList();
        IReadOnlyCollection<string> unyielding = [];
        var asked = new List<string>();
        for (var round = 0; round < 2; round++)
        {
            var search = Ask(0);
            search.Preempt(unyielding);
            do
            {
                search.Take(new PlacementAdvice([.. hosts.Where(host => !search.Asked.Contains(host)).Take(8)], []));
                while (search.Next() is { } host)
                {
                    asked.Add(host);
                    search.Refused(new Rejection { Reason = RejectionReason.Memory, Hosts = 1 });
                }
            }
            while (search.MaySearchOn);
            unyielding = search.Unyielding;
        }

        Assert.Equal(hosts, asked);
        Assert.Empty(unyielding);
    }

    /// <summary>Whoever is not to wait has an answer after so many, however many more there are.</summary>
    [Fact]
    public void It_is_decided_when_nobody_gave_way_on_hundreds_of_hosts()
    {
        var unyielding = Enumerable.Range(0, 250).Select(at => $"before-{at}").ToList();
        foreach (var (hosts, isUndecided) in new[] { (6, true), (7, false) })
        {
            var search = Ask(0);
            search.Preempt(unyielding);
            search.Take(new PlacementAdvice([.. Enumerable.Range(0, hosts).Select(at => $"host-{at}")], []));
            while (search.Next() is not null)
                search.Refused(new Rejection { Reason = RejectionReason.Cpus, Hosts = 1 });
            Assert.Equal(isUndecided, search.IsUndecided);
        }
    }

    [Fact]
    public void Nobody_gives_way_where_an_earlier_volume_of_its_is_left()
    {
        var search = Ask(0);
        search.LeftAt = ["left"];
        search.Preempt([]);
        Assert.Contains("left", search.Asked);
    }

    [Fact]
    public void Whoever_waits_long_asks_less_often_and_never_later_than_a_few_seconds()
    {
        Assert.Equal([250, 500, 1000, 5000, 5000], new[] { 0, 1, 2, 6, 1_000_000 }.Select(fruitless => PlacementSearch.WakePause(fruitless, 1).TotalMilliseconds));
        Assert.Equal(TimeSpan.Zero, PlacementSearch.WakePause(6, 0));
    }

    private static PlacementSearch Ask(int hosts)
    {
        var search = new PlacementSearch(Demand.Of(new VmSpec { Priority = "normal" }), epoch: 1, avoided: []);
        search.Take(new PlacementAdvice([.. Enumerable.Range(0, hosts).Select(at => $"host-{at}")], []));
        while (search.Next() is not null)
            search.Refused(new Rejection { Reason = RejectionReason.Memory, Hosts = 1 });
        return search;
    }
}
