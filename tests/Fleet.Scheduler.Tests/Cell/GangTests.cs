using Akka.Actor;
using Akka.Cluster.Sharding;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Gangs;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>None of a gang is placed before all can be, and what it holds meanwhile goes back.</summary>
public sealed class GangTests : IAsyncLifetime
{
    private TestCell _cell = null!;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync();

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    [Fact]
    public async Task Should_wait_for_room_for_all_hold_none_meanwhile_and_run_when_there_is()
    {
        await using var agent = await JoinAsync("one");
        var members = await CreateAsync("train", 6);
        foreach (var id in members)
        {
            Assert.Equal(
                (GangRound.WaitingCode, "The gang train of 6 is placed when there is room for all at once: there is for 4 at most."),
                await ReasonAsync(id));
        }
        // Who needs no more than is left has it.
        var other = await _cell.CreateAsync(TestCell.Spec(memoryMib: 8192));
        await _cell.WaitAsync(other, VmState.Running);
        Assert.Equal((8192UL, 1U), ((await _cell.HostAsync("one")).ReservedMemoryMib, (await _cell.HostAsync("one")).Vms));
        await _cell.Cell.DeleteVmAsync(other, CancellationToken.None);
        await _cell.WaitAsync(other, VmState.Deleted);

        await using var second = await JoinAsync("two");
        foreach (var id in members)
            Assert.Equal(1U, (await _cell.WaitAsync(id, VmState.Running)).Epoch);
        Assert.Equal(6U, (await _cell.HostAsync("one")).Vms + (await _cell.HostAsync("two")).Vms);
    }

    [Fact]
    public async Task Should_wait_until_all_members_are_there_and_go_without_one_that_is_started_by_itself()
    {
        await using var agent = await JoinAsync("one");
        var members = await CreateAsync("pair", 2, create: 1);
        Assert.Equal("The gang pair of 2 is placed when all its members wait: 1 do. Delete them, if the others are gone.", (await ReasonAsync(members[0])).Message);
        await _cell.Cell.StopVmAsync(members[0], TimeSpan.Zero, CancellationToken.None);
        await _cell.WaitAsync(members[0], VmState.Stopped);
        await CreateAsync("pair", 2, create: 2, known: members);
        await Eventually.TrueAsync(async () => await _cell.GetAsync(members[1]) is { State: VmState.Unplaced, Reason.Code: GangRound.WaitingCode });
        await _cell.Cell.StartVmAsync(members[0], CancellationToken.None);
        await _cell.WaitAsync(members[0], VmState.Running);
        Assert.Equal(VmState.Unplaced, (await _cell.GetAsync(members[1])).State);
    }

    /// <summary>All of it fails where there is no room for all; that some are still to come is no reason to.</summary>
    [Fact]
    public async Task Should_fail_at_once_where_it_is_not_to_wait_for_room()
    {
        await using var agent = await JoinAsync("one");
        foreach (var id in await CreateAsync("train", 6, refuseWaiting: true))
        {
            var failed = await _cell.WaitAsync(id, VmState.Failed);
            Assert.Equal(("no_capacity", "The gang train of 6 is placed when there is room for all at once: there is for 4 at most."), (failed.Reason.Code, failed.Reason.Message));
        }
        Assert.Equal(0U, (await _cell.HostAsync("one")).Vms);
        var pair = await CreateAsync("pair", 2, create: 1, refuseWaiting: true);
        await _cell.WaitAsync(pair[0], VmState.Unplaced);
        await CreateAsync("pair", 2, known: pair, refuseWaiting: true);
        foreach (var id in pair)
            await _cell.WaitAsync(id, VmState.Running);
    }

    /// <summary>There is room for all by their sizes, and by its rules for one.</summary>
    [Fact]
    public async Task Should_fail_where_it_is_not_to_wait_and_its_rules_keep_it_out()
    {
        await using var agent = new FakeAgent("one") { Inventory = FakeAgent.Simulated(cpus: 8, memoryMib: 8192) };
        agent.Inventory.Labels[VmLimits.ZoneLabel] = "east";
        await agent.ConnectAsync(_cell.System.HostLink);
        var placement = new PlacementWishes { Groups = { "apart" }, Affinity = { new Affinity { Group = "apart", Within = "zone", Apart = true } } };
        foreach (var id in await CreateAsync("pair", 2, refuseWaiting: true, placement: placement))
        {
            var failed = await _cell.WaitAsync(id, VmState.Failed);
            Assert.Equal("no_capacity", failed.Reason.Code);
            Assert.Contains("there is for 1 at most.", failed.Reason.Message, StringComparison.Ordinal);
        }
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("one")).Vms == 0);
    }

    [Fact]
    public async Task Should_place_a_lost_member_again_by_itself()
    {
        await using var agent = await JoinAsync("one");
        var members = await CreateAsync("pair", 2);
        foreach (var id in members)
            await _cell.WaitAsync(id, VmState.Running);
        await using var two = await JoinAsync("two");
        agent.Report(members[1], HostVmState.Failed, new Reason { Code = "lease_over", Message = "It is over." });
        await Eventually.TrueAsync(async () => await _cell.GetAsync(members[1]) is { State: VmState.Running, Epoch: 2 });
        Assert.Equal(1U, (await _cell.GetAsync(members[0])).Epoch);
    }

    /// <summary>Two that have room each by itself and none together: one is placed, the other waits, and nothing is held for it.</summary>
    [Fact]
    public async Task Should_not_lock_each_other_out()
    {
        await using var one = await JoinAsync("one");
        await using var two = await JoinAsync("two");
        var gangs = await Task.WhenAll(CreateAsync("left", 5), CreateAsync("right", 5));
        await Eventually.TrueAsync(async () => (await RunningAsync(gangs[0])) + (await RunningAsync(gangs[1])) == 5);
        var (placed, waiting) = await RunningAsync(gangs[0]) == 5 ? (gangs[0], gangs[1]) : (gangs[1], gangs[0]);
        Assert.Equal(5, await RunningAsync(placed));
        await Eventually.TrueAsync(async () => (await HeldAsync()) == 5);
        foreach (var id in waiting)
            Assert.Equal(GangRound.WaitingCode, (await ReasonAsync(id)).Code);
        foreach (var id in placed)
            await _cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        foreach (var id in waiting)
            await _cell.WaitAsync(id, VmState.Running);
    }

    /// <summary>A kill at any moment: all of them run in the end, each once, and no room is held twice.</summary>
    [Theory]
    [InlineData(0)]
    [InlineData(10)]
    [InlineData(25)]
    [InlineData(60)]
    [InlineData(150)]
    public async Task Should_go_on_after_a_kill_at_any_step(int ms)
    {
        await using var one = await JoinAsync("one");
        await using var two = await JoinAsync("two");
        var members = await CreateAsync("train", 8);
        var since = global::System.Diagnostics.Stopwatch.StartNew();
        await Eventually.TrueAsync(() => since.ElapsedMilliseconds >= ms);
        await one.CutAsync();
        await two.CutAsync();
        await _cell.CrashAndRestartAsync();
        await one.ConnectAsync(_cell.System.HostLink);
        await two.ConnectAsync(_cell.System.HostLink);
        foreach (var id in members)
        {
            Assert.Equal(1U, (await _cell.WaitAsync(id, VmState.Running)).Epoch);
            Assert.Equal(1, (one.Find(id)?.Starts ?? 0) + (two.Find(id)?.Starts ?? 0));
        }
        await Eventually.TrueAsync(async () => (await HeldAsync()) == 8);
    }

    /// <summary>Whoever asks under the epoch of a gang: what one holds another neither gets nor gives back, and no gang takes it from a guest.</summary>
    [Fact]
    public async Task Should_hold_room_for_one_round_or_one_that_left_and_not_take_it_from_who_launched()
    {
        await using var cell = await TestCell.StartAsync(options => options with { ReservationAudit = TimeSpan.FromHours(1) });
        await using var agent = new FakeAgent("one");
        await agent.ConnectAsync(cell.System.HostLink);
        await cell.HostAsync("one");
        var host = await cell.System.ActorSystem.ActorSelection($"/system/sharding/{ShardRegions.Hosts}/*/one").ResolveOne(Eventually.Bound);
        var id = TestCell.NewVmId();
        Assert.Null(await ReserveAsync(7));
        Assert.Null(await ReserveAsync(7));
        Assert.Equal(RejectionReason.Stale, await ReserveAsync(8));
        Assert.Equal(RejectionReason.Stale, await ReserveAsync(0));
        GiveBack(8);
        Assert.Null(await ReserveAsync(7));
        GiveBack(7);
        Assert.Null(await ReserveAsync(0));
        GiveBack(7);
        Assert.Equal(RejectionReason.Stale, await ReserveAsync(7));
        // Of what an older version has stored: nobody knows whose it is, but a guest is in it.
        host.Tell(new CommandHost { HostId = "one", VmId = id, Epoch = GangRound.Epoch, Launch = new LaunchVm { VmId = id, Epoch = GangRound.Epoch, Spec = TestCell.Spec() } });
        GiveBack(0);
        Assert.Null(await ReserveAsync(0));
        Assert.Equal(1U, (await cell.HostAsync("one")).Vms);

        async Task<string?> ReserveAsync(ulong round) =>
            (await host.Ask<RoomAnswer>(new ReserveRoom { HostId = "one", VmId = id, Epoch = GangRound.Epoch, Spec = TestCell.Spec(), Round = round }, Eventually.Bound)).Rejection?.Reason;

        void GiveBack(ulong round) => host.Tell(new PlacementVerdict { HostId = "one", VmId = id, Epoch = GangRound.Epoch, Round = round });
    }

    [Fact]
    public async Task Should_look_for_room_less_and_less_often_while_there_is_none()
    {
        var members = await CreateAsync("pair", 2);
        var specs = await Task.WhenAll(members.Select(async id => (await _cell.WaitAsync(id, VmState.Unplaced)).Spec));
        var full = new Full();
        var system = _cell.System.ActorSystem;
        var options = TestCell.Options(_cell.Folder) with { PlacementRetry = TimeSpan.FromHours(1), CommandRetryMost = TimeSpan.FromHours(1) };
        var placement = system.ActorOf(Props.Create(() => new FullPlacement(full)));
        var gang = system.ActorOf(Props.Create(() => new GangActor("other", options, placement, ActorRefs.Nobody, new LateRegion())));
        for (var index = 0; index < members.Length; index++)
            gang.Tell(new JoinGang { GangId = "other", VmId = members[index], Spec = specs[index] });
        await Eventually.TrueAsync(() => full.Counted == 1);
        // Each change of capacity had it counted within 250 ms, 11 times in this time at least.
        var since = global::System.Diagnostics.Stopwatch.StartNew();
        await Eventually.TrueAsync(() =>
        {
            system.EventStream.Publish(CapacityChanged.Instance);
            return since.Elapsed > TimeSpan.FromSeconds(3);
        });
        Assert.InRange(full.Counted, 2, 10);
    }

    /// <summary>The third failed, and the word that there is no room for all was lost to the two others.</summary>
    [Fact]
    public async Task Should_fail_those_that_are_not_to_wait_when_one_that_had_come_is_gone()
    {
        var members = await CreateAsync("three", 3, create: 2, refuseWaiting: true);
        var specs = await Task.WhenAll(members[..2].Select(async id => (await _cell.WaitAsync(id, VmState.Unplaced)).Spec));
        var third = specs[1].Clone();
        third.Gang.Index = 2;
        var system = _cell.System.ActorSystem;
        var vms = new LateRegion();
        vms.Started(ClusterSharding.Get(system).ShardRegion(ShardRegions.Vms));
        var placement = system.ActorOf(Props.Create(() => new FullPlacement(new Full())));
        var gang = system.ActorOf(Props.Create(() => new GangActor("three", TestCell.Options(_cell.Folder), placement, ActorRefs.Nobody, vms)));
        foreach (var (id, spec) in members.Zip([.. specs, third]))
            gang.Tell(new JoinGang { GangId = "three", VmId = id, Spec = spec });
        foreach (var id in members[..2])
            Assert.Equal("no_capacity", (await _cell.WaitAsync(id, VmState.Failed)).Reason.Code);
    }

    private sealed class Full
    {
        public volatile int Counted;
    }

    private sealed class FullPlacement(Full full) : UntypedActor
    {
        protected override void OnReceive(object message)
        {
            if (message is not CountRoom count)
                return;
            full.Counted++;
            Sender.Tell(new RoomCounted(0, "No host is there.", count.Asked));
        }
    }

    private async Task<long> HeldAsync() => (await _cell.HostAsync("one")).Vms + (await _cell.HostAsync("two")).Vms;

    private async Task<int> RunningAsync(string[] ids)
    {
        var states = await Task.WhenAll(ids.Select(async id => (await _cell.GetAsync(id)).State));
        return states.Count(state => state == VmState.Running);
    }

    private async Task<(string Code, string Message)> ReasonAsync(string id)
    {
        var reason = (await _cell.WaitAsync(id, VmState.Unplaced)).Reason;
        return (reason.Code, reason.Message);
    }

    private async Task<string[]> CreateAsync(string name, int size, int? create = null, string[]? known = null, bool refuseWaiting = false, PlacementWishes? placement = null)
    {
        var ids = known ?? [.. Enumerable.Range(0, size).Select(_ => TestCell.NewVmId())];
        await Task.WhenAll(Enumerable.Range(0, create ?? size).Select(async index =>
        {
            var spec = TestCell.Spec($"{name}-{index}", memoryMib: 2048);
            (spec.RefuseWaiting, spec.Placement) = (refuseWaiting, placement);
            spec.Gang = new Gang { Id = index == 0 ? "" : ids[0], Name = name, Size = (uint)size, Index = (uint)index };
            Assert.Null((await _cell.Cell.CreateVmAsync(ids[index], spec, CancellationToken.None)).Problem);
        }));
        return ids;
    }

    private async Task<FakeAgent> JoinAsync(string name)
    {
        var agent = new FakeAgent(name) { Inventory = FakeAgent.Simulated(cpus: 8, memoryMib: 8192) };
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }
}
