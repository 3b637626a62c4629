using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>MicroVMs that say where they are to be by where others are: at their first place, after a restart of the cell, and after their host is lost.</summary>
public sealed class GroupPlacementTests : IAsyncLifetime
{
    private static readonly LeaseTerms Terms = new(TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(30), TimeSpan.FromMilliseconds(600));

    private TestCell _cell = null!;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync(options => options with { Lease = Terms });

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    [Fact]
    public async Task Should_spread_over_zones_what_is_created_together_and_keep_it_so_when_a_host_is_lost()
    {
        var agents = new Dictionary<string, FakeAgent>();
        foreach (var name in (string[])["a1", "a2", "b1", "b2", "c1", "c2"])
            agents[name] = await JoinAsync(name, zone: name[..1]);
        try
        {
            await KnownAsync(6);
            var ids = await Task.WhenAll(Enumerable.Range(0, 6).Select(_ => _cell.CreateAsync(Web(spread: new GroupSpread { Group = "web", Over = "zone", MostAhead = 1 }))));
            Assert.Equal("2,2,2", await ZonesAsync(ids));

            // The host of one of them is gone: its zone has another host, and stays as full as the others.
            var lost = agents[(await _cell.WaitAsync(ids[0], VmState.Running)).Host];
            lost.Beats = false;
            await lost.CutAsync();
            foreach (var id in ids)
                await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running } vm && vm.Host != lost.HostId);
            Assert.Equal("2,2,2", await ZonesAsync(ids));
        }
        finally
        {
            foreach (var agent in agents.Values)
                await agent.DisposeAsync();
        }
    }

    [Fact]
    public async Task Should_keep_a_group_on_hosts_of_its_own_over_a_restart_of_the_cell()
    {
        await using var first = await JoinAsync("first");
        await using var second = await JoinAsync("second");
        await KnownAsync(2);
        var apart = new Affinity { Group = "web", Within = "host", Apart = true };
        var ids = await Task.WhenAll(Enumerable.Range(0, 3).Select(_ => _cell.CreateAsync(Web(apart))));
        // Two run, each on a host of its own; the third says why it waits.
        await Eventually.TrueAsync(async () => (await RecordsAsync(ids)).Count(vm => vm.State == VmState.Running) == 2);
        var waits = (await RecordsAsync(ids)).Single(vm => vm.State != VmState.Running);
        waits = await _cell.WaitAsync(waits.Id, VmState.Unplaced);
        Assert.Contains("kept from it by its rules about groups", waits.Reason.Message, StringComparison.Ordinal);
        Assert.Equal(2, (await RecordsAsync(ids)).Where(vm => vm.State == VmState.Running).Select(vm => vm.Host).Distinct().Count());

        await first.CutAsync();
        await second.CutAsync();
        await _cell.CrashAndRestartAsync(change: options => options with { Lease = Terms });
        await first.ConnectAsync(_cell.System.HostLink);
        await second.ConnectAsync(_cell.System.HostLink);
        await KnownAsync(2);
        // Another tenant's group of that name is another group.
        var other = Web(apart);
        other.Tenant = "evil";
        await _cell.WaitAsync(await _cell.CreateAsync(other), VmState.Running);
        var beside = Web(new Affinity { Group = "web", Within = "host" });
        Assert.Contains((await _cell.WaitAsync(await _cell.CreateAsync(beside), VmState.Running)).Host, (string[])["first", "second"]);
        Assert.Equal(VmState.Unplaced, (await _cell.GetAsync(waits.Id)).State);

        // A host more, and it runs.
        await using var third = await JoinAsync("third");
        Assert.Equal("third", (await _cell.WaitAsync(waits.Id, VmState.Running)).Host);
    }

    /// <summary>The fuller host would be the better fit; the other one has the image, also after a reservation, which tells of none.</summary>
    [Fact]
    public async Task Should_go_where_the_image_is_however_its_name_is_written()
    {
        await using var full = await JoinAsync("full");
        await _cell.WaitAsync(await _cell.CreateAsync(TestCell.Spec(memoryMib: 512)), VmState.Running);
        await using var second = new FakeAgent("second");
        second.Inventory.Images.Add("docker.io/library/nginx:latest");
        await second.ConnectAsync(_cell.System.HostLink);
        await KnownAsync(2);
        for (var i = 0; i < 2; i++)
        {
            var spec = TestCell.Spec($"web-{i}");
            spec.Image = "nginx";
            Assert.Equal("second", (await _cell.WaitAsync(await _cell.CreateAsync(spec), VmState.Running)).Host);
        }
    }

    [Fact]
    public async Task Should_be_with_one_other_or_apart_from_it_wherever_that_goes()
    {
        await using var first = await JoinAsync("first");
        var other = await _cell.CreateAsync();
        await _cell.WaitAsync(other, VmState.Running);
        await using var second = await JoinAsync("second");
        await KnownAsync(2);
        var apart = TestCell.Spec("apart");
        apart.Placement = new PlacementWishes { Affinity = { new Affinity { Vm = other, Within = "host", Apart = true } } };
        var beside = TestCell.Spec("beside");
        beside.Placement = new PlacementWishes { Affinity = { new Affinity { Vm = other, Within = "host" } } };
        var (away, near) = (await _cell.CreateAsync(apart), await _cell.CreateAsync(beside));
        Assert.Equal("second", (await _cell.WaitAsync(away, VmState.Running)).Host);
        Assert.Equal("first", (await _cell.WaitAsync(near, VmState.Running)).Host);

        // It has gone elsewhere by the time that they are started again.
        foreach (var id in (string[])[other, away, near])
        {
            await _cell.Cell.StopVmAsync(id, TimeSpan.Zero, CancellationToken.None);
            await _cell.WaitAsync(id, VmState.Stopped);
        }
        await _cell.Cell.CordonHostAsync("first", true, CancellationToken.None);
        await _cell.Cell.StartVmAsync(other, CancellationToken.None);
        Assert.Equal("second", (await _cell.WaitAsync(other, VmState.Running)).Host);
        await _cell.Cell.StartVmAsync(near, CancellationToken.None);
        Assert.Equal("second", (await _cell.WaitAsync(near, VmState.Running)).Host);
        await _cell.Cell.StartVmAsync(away, CancellationToken.None);
        await _cell.WaitAsync(away, VmState.Unplaced);
        await _cell.Cell.CordonHostAsync("first", false, CancellationToken.None);
        Assert.Equal("first", (await _cell.WaitAsync(away, VmState.Running)).Host);
    }

    [Fact]
    public async Task Should_refuse_a_second_of_a_group_whatever_placement_thought()
    {
        await using var agent = await JoinAsync("only");
        var hosts = Akka.Cluster.Sharding.ClusterSharding.Get(_cell.System.ActorSystem).ShardRegion(ShardRegions.Hosts);
        var spec = Web(new Affinity { Group = "web", Within = "host", Apart = true });
        var answers = await Task.WhenAll(Enumerable.Range(0, 5).Select(_ => Akka.Actor.Futures.Ask<RoomAnswer>(
            hosts, new ReserveRoom { HostId = "only", VmId = TestCell.NewVmId(), Epoch = 1, Spec = spec }, Eventually.Bound)));
        Assert.Single(answers, answer => answer.Rejection is null);
        Assert.Equal(4, answers.Count(answer => answer.Rejection?.Reason == RejectionReason.Group));
    }

    private static VmSpec Web(Affinity? rule = null, GroupSpread? spread = null)
    {
        var spec = TestCell.Spec();
        spec.Tenant = "acme";
        spec.Placement = new PlacementWishes { Groups = { "web" } };
        if (rule is not null)
            spec.Placement.Affinity.Add(rule);
        if (spread is not null)
            spec.Placement.Spread.Add(spread);
        return spec;
    }

    private async Task<string> ZonesAsync(string[] ids)
    {
        foreach (var id in ids)
            await _cell.WaitAsync(id, VmState.Running);
        return string.Join(',', (await RecordsAsync(ids)).GroupBy(vm => vm.Host[..1]).OrderBy(zone => zone.Key, StringComparer.Ordinal).Select(zone => zone.Count()));
    }

    private Task<VmRecord[]> RecordsAsync(string[] ids) => Task.WhenAll(ids.Select(_cell.GetAsync));

    /// <summary>Waits until placement knows so many hosts that are connected.</summary>
    private Task KnownAsync(int hosts) => Eventually.TrueAsync(async () =>
        (await Akka.Actor.Futures.Ask<HostsJudged>(_cell.System.Placement, new JudgeHosts(null), Eventually.Bound)).Hosts.Count(host => host.View.Connected) == hosts);

    private async Task<FakeAgent> JoinAsync(string name, string? zone = null)
    {
        var agent = new FakeAgent(name) { Fenced = true };
        if (zone is not null)
            agent.Inventory.Labels["zone"] = zone;
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }
}
