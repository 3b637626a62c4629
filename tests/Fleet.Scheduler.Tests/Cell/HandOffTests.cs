using Akka.Actor;
using Akka.Cluster.Sharding;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>An actor whose shard moves answers what was asked before: a caller would wait for its whole patience otherwise.</summary>
public sealed class HandOffTests
{
    [Fact]
    public async Task Should_answer_what_was_asked_before_a_microVM_moves()
    {
        await using var cell = await TestCell.StartAsync();
        await using var agent = new FakeAgent("rack1-7");
        await agent.ConnectAsync(cell.System.HostLink);
        var id = await cell.CreateAsync();
        await cell.WaitAsync(id, VmState.Running);

        var actor = await FindAsync(cell, ShardRegions.Vms, id);
        var wait = actor.Ask<VmReply>(new AwaitVm { VmId = id, TimeoutMs = 600_000, States = { VmState.Deleted } });
        var stop = actor.Ask<VmReply>(new RequestStop { VmId = id });
        var read = actor.Ask<VmReply>(new ReadVm { VmId = id });
        actor.Tell(HandOff.Instance);
        Assert.Null((await stop.WaitAsync(Eventually.Bound)).Problem);
        Assert.Null((await read.WaitAsync(Eventually.Bound)).Problem);
        // Who waits is told that nothing came yet, and asks its successor, which goes on with the stop.
        Assert.Equal("timeout", (await wait.WaitAsync(Eventually.Bound)).Problem.Code);
        // A shard that was not told of the move may still speak to the one that left.
        await Eventually.TrueAsync(async () => (await cell.Cell.GetVmAsync(id, CancellationToken.None)).Vm?.State == VmState.Stopped);
    }

    [Fact]
    public async Task Should_answer_who_asked_a_host_for_room_before_it_moves()
    {
        await using var cell = await TestCell.StartAsync();
        await using var agent = new FakeAgent("rack1-7");
        await agent.ConnectAsync(cell.System.HostLink);
        await cell.HostAsync("rack1-7");
        var actor = await FindAsync(cell, ShardRegions.Hosts, "rack1-7");
        var asked = Enumerable.Range(0, 8).Select(_ => TestCell.NewVmId()).Select(id => actor.Ask<RoomAnswer>(new ReserveRoom { HostId = "rack1-7", VmId = id, Epoch = 1, Spec = TestCell.Spec() })).ToList();
        actor.Tell(HandOff.Instance);
        Assert.All(await Task.WhenAll(asked).WaitAsync(Eventually.Bound), answer => Assert.Null(answer.Rejection));
    }

    /// <summary>A host that is silent is given up no later for it that its actor moves meanwhile.</summary>
    [Fact]
    public async Task Should_hand_on_for_how_long_a_host_was_silent_and_nothing_of_one_that_was_heard()
    {
        await using var cell = await TestCell.StartAsync(options => options with { Lease = new LeaseTerms(TimeSpan.FromMinutes(10), TimeSpan.FromMinutes(20), TimeSpan.FromSeconds(10)) });
        await using var agent = new FakeAgent("rack1-7") { Fenced = true };
        await agent.ConnectAsync(cell.System.HostLink);
        var region = ClusterSharding.Get(cell.System.ActorSystem).ShardRegion(ShardRegions.Hosts);
        await agent.CutAsync();
        var silent = 0UL;
        await Eventually.TrueAsync(async () => (silent = (await ReadAsync())?.LeaseAgeMs ?? 0) > 1_000);
        (await FindAsync(cell, ShardRegions.Hosts, "rack1-7")).Tell(HandOff.Instance);
        LedgerRead? next = null;
        await Eventually.TrueAsync(async () => (next = await ReadAsync()) is { LeaseGranted: false });
        Assert.InRange(next!.Host.SilentMs, silent, next.LeaseAgeMs);

        // Heard again, it begins anew.
        await agent.ConnectAsync(cell.System.HostLink);
        await Eventually.TrueAsync(async () => await ReadAsync() is { LeaseGranted: true, Host.SilentMs: 0 });

        async Task<LedgerRead?> ReadAsync()
        {
            try
            {
                return await region.Ask<LedgerRead>(new ReadLedger { HostId = "rack1-7" }, TimeSpan.FromSeconds(1));
            }
            catch (AskTimeoutException)
            {
                // Asked of the one that was just leaving.
                return null;
            }
        }
    }

    private static async Task<IActorRef> FindAsync(TestCell cell, string region, string entity) =>
        await cell.System.ActorSystem.ActorSelection($"/system/sharding/{region}/*/{entity}").ResolveOne(Eventually.Bound);
}
