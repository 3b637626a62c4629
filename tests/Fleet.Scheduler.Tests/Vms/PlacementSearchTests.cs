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
}
