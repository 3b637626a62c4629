using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Volumes;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>microVMs with volumes: they go where these are, wait where that can't be, and take no other in its place.</summary>
public sealed class VolumeTests : IAsyncLifetime
{
    private static readonly LeaseTerms Terms = new(TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(30), TimeSpan.FromMilliseconds(600));

    private TestCell _cell = null!;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync(options => options with { Lease = Terms });

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    [Fact]
    public async Task Should_go_where_its_volume_is_after_delete_and_create_and_a_restart_of_the_cell()
    {
        await using var first = await JoinAsync("first");
        var id = await _cell.CreateAsync(Spec("one"));
        await _cell.WaitAsync(id, VmState.Running);
        Assert.Equal(1ul, GrantOf(first, id).Generation);
        await using var second = await JoinAsync("second", cpus: 64);
        await _cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await _cell.WaitAsync(id, VmState.Deleted);

        await first.CutAsync();
        await second.CutAsync();
        await _cell.CrashAndRestartAsync(change: options => options with { Lease = Terms });
        await first.ConnectAsync(_cell.System.HostLink);
        await second.ConnectAsync(_cell.System.HostLink);
        var again = await _cell.CreateAsync(Spec("two"));
        Assert.Equal("first", (await _cell.WaitAsync(again, VmState.Running)).Host);
        Assert.Equal(2ul, GrantOf(first, again).Generation);
    }

    [Fact]
    public async Task Should_be_told_by_the_dry_run_as_the_search_would_tell_it()
    {
        await using var first = await JoinAsync("first");
        var one = await _cell.CreateAsync(Spec("one"));
        await _cell.WaitAsync(one, VmState.Running);
        await using var second = await JoinAsync("second");
        var elsewhere = Spec("two");
        elsewhere.Host = "second";
        var review = await _cell.Cell.ReviewPlacementAsync(elsewhere, CancellationToken.None);
        Assert.Equal(("volume_elsewhere", 0), (review.Reason?.Code, review.Fitting));
        foreach (var briefly in new[] { true, false })
        {
            review = await _cell.Cell.ReviewPlacementAsync(Spec("two"), CancellationToken.None, briefly);
            Assert.Equal("Another microVM has the volume data on host first. This one gets it when that one has ended.", review.Reason?.Message);
            Assert.Equal(("volume_in_use", "volume_in_use", 0), (review.Reason!.Code, Assert.Single(review.Rejections).Reason, review.Fitting));
        }
        var waits = await _cell.WaitAsync(await _cell.CreateAsync(Spec("two")), VmState.Unplaced);
        Assert.Equal(waits.Reason, review.Reason);
        await _cell.Cell.DeleteVmAsync(waits.Id, CancellationToken.None);
        await _cell.Cell.StopVmAsync(one, TimeSpan.Zero, CancellationToken.None);
        await _cell.WaitAsync(one, VmState.Stopped);
        Assert.True(await _cell.Cell.ReviewPlacementAsync(Spec("two"), CancellationToken.None) is { Reason: null, Fitting: 1 });
        // Its owner named no host, and can't leave it out.
        var large = Spec("three");
        large.MemoryMib = 20_000;
        review = await _cell.Cell.ReviewPlacementAsync(large, CancellationToken.None);
        Assert.Equal("volume_elsewhere", review.Reason?.Code);
        Assert.StartsWith("Its volume data is on host first, and only there it can run. ", review.Reason?.Message, StringComparison.Ordinal);
        Assert.DoesNotContain(review.Changes, change => change.Field == "host");
    }

    [Fact]
    public async Task Should_wait_for_the_host_of_its_volume_and_make_no_second_one_elsewhere()
    {
        var first = await JoinAsync("first");
        var id = await _cell.CreateAsync(Spec("one"));
        await _cell.WaitAsync(id, VmState.Running);
        await using var second = await JoinAsync("second");
        first.Beats = false;
        await first.CutAsync();
        // Its host is given up, and its microVM placed again, but nowhere else.
        await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Unplaced, Reason.Code: "volume_elsewhere" });
        Assert.Contains("first", (await _cell.GetAsync(id)).Reason.Message, StringComparison.Ordinal);
        var other = await _cell.CreateAsync(Spec("other"));
        Assert.Equal("volume_elsewhere", (await _cell.WaitAsync(other, VmState.Unplaced)).Reason.Code);
        Assert.Equal(0, second.VmCount);

        await _cell.Cell.DeleteVmAsync(other, CancellationToken.None);
        first.Beats = true;
        await first.ConnectAsync(_cell.System.HostLink);
        var back = await _cell.WaitAsync(id, VmState.Running);
        Assert.Equal(("first", 2ul), (back.Host, back.Epoch));
        Assert.Equal(2ul, GrantOf(first, id).Generation);
        await first.DisposeAsync();
    }

    [Fact]
    public async Task Should_give_a_volume_to_one_microVM_at_a_time()
    {
        await using var first = await JoinAsync("first");
        await using var second = await JoinAsync("second");
        // All at once, when it is nowhere yet.
        var ids = (await Task.WhenAll(Enumerable.Range(0, 4).Select(i => _cell.CreateAsync(Spec($"vm{i}"))))).ToList();
        await Eventually.TrueAsync(async () =>
        {
            var vms = await Task.WhenAll(ids.Select(_cell.GetAsync));
            return vms.Count(vm => vm.State == VmState.Running) == 1 && vms.Count(vm => vm is { State: VmState.Unplaced, Reason.Code: "volume_in_use" }) == 3;
        });
        var hosts = new HashSet<string>();
        while (ids.Count > 0)
        {
            VmRecord running = null!;
            await Eventually.TrueAsync(async () =>
            {
                var vms = (await Task.WhenAll(ids.Select(_cell.GetAsync))).Where(vm => vm.State == VmState.Running).ToList();
                Assert.True(vms.Count <= 1);
                running = vms.SingleOrDefault() ?? running;
                return vms.Count == 1;
            });
            hosts.Add(running.Host);
            await _cell.Cell.DeleteVmAsync(running.Id, CancellationToken.None);
            await _cell.WaitAsync(running.Id, VmState.Deleted);
            ids.Remove(running.Id);
        }
        Assert.Single(hosts);
    }

    [Fact]
    public async Task Should_not_remove_what_a_microVM_has_and_remove_the_rest_when_its_host_is_there()
    {
        await using var first = await JoinAsync("first");
        var id = await _cell.CreateAsync(Spec("one"));
        await _cell.WaitAsync(id, VmState.Running);
        var remove = new RemoveVolume { Tenant = "acme", Name = "data" };
        Assert.Equal("volume_in_use", (await Assert.ThrowsAsync<CellException>(() => _cell.Cell.ChangeVolumeAsync(remove, CancellationToken.None))).Code);
        Assert.Equal(VolumeState.Ready, Assert.Single(await _cell.Cell.ListVolumesAsync("acme", CancellationToken.None)).State);
        await _cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await _cell.WaitAsync(id, VmState.Deleted);

        await _cell.Cell.ChangeVolumeAsync(new CopyVolume { Tenant = "acme", Name = "data", CopyTo = "clone" }, CancellationToken.None);
        await Eventually.TrueAsync(() => Task.FromResult(first.Received.Any(message => message.Volume is { Name: "data", CopyTo: "clone" })));
        Done(first);
        await Eventually.TrueAsync(async () => (await _cell.Cell.ListVolumesAsync("acme", CancellationToken.None)).Any(volume => volume is { Name: "clone", State: VolumeState.Ready }));

        await first.CutAsync();
        Assert.Equal(VolumeState.Removing, (await _cell.Cell.ChangeVolumeAsync(remove, CancellationToken.None)).State);
        // Asked for again and again, over a restart of the cell, until the host is there.
        await _cell.CrashAndRestartAsync(change: options => options with { Lease = Terms });
        await first.ConnectAsync(_cell.System.HostLink);
        await Eventually.TrueAsync(() => Task.FromResult(first.Received.Any(message => message.Volume is { Name: "data", CopyTo: "" })));
        Done(first);
        await Eventually.TrueAsync(async () => (await _cell.Cell.ListVolumesAsync(null, CancellationToken.None)).Select(volume => volume.Name).SequenceEqual(["clone"]));
    }

    /// <summary>Waiting would change nothing: its owner hears what to do.</summary>
    [Fact]
    public async Task Should_fail_at_once_what_would_write_to_a_snapshot()
    {
        await using var first = await JoinAsync("first");
        var id = await _cell.CreateAsync(Spec("one"));
        await _cell.WaitAsync(id, VmState.Running);
        await _cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await _cell.WaitAsync(id, VmState.Deleted);
        await _cell.Cell.ChangeVolumeAsync(new CopyVolume { Tenant = "acme", Name = "data", CopyTo = "snap", Snapshot = true }, CancellationToken.None);
        var spec = Spec("two");
        spec.Volumes[0].Name = "snap";
        var refused = await _cell.WaitAsync(await _cell.CreateAsync(spec), VmState.Failed);
        Assert.Equal("volume_is_snapshot", refused.Reason.Code);
        Assert.Equal(refused.Reason, (await _cell.Cell.ReviewPlacementAsync(spec, CancellationToken.None)).Reason);
    }

    /// <summary>Its host was removed, and so the volume went without it; when it joins again, that volume is no one's, and is not taken for the new one of its name.</summary>
    [Fact]
    public async Task Should_have_a_host_that_joins_again_remove_what_was_removed_without_it()
    {
        await using var first = await JoinAsync("first");
        var id = await _cell.CreateAsync(Spec("one"));
        await _cell.WaitAsync(id, VmState.Running);
        var old = GrantOf(first, id).Id;
        Assert.Equal(32, old.Length);
        await _cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await _cell.WaitAsync(id, VmState.Deleted);
        await first.CutAsync();
        await Eventually.TrueAsync(async () => (await _cell.Cell.RemoveHostAsync("first", false, CancellationToken.None)).Problem is null);
        await _cell.Cell.ChangeVolumeAsync(new RemoveVolume { Tenant = "acme", Name = "data" }, CancellationToken.None);
        Assert.Empty(await _cell.Cell.ListVolumesAsync("acme", CancellationToken.None));

        // The name is free at once.
        await using var second = await JoinAsync("second", cpus: 16);
        id = await _cell.CreateAsync(Spec("two"));
        await _cell.WaitAsync(id, VmState.Running);
        Assert.Equal(1ul, GrantOf(second, id).Generation);
        Assert.NotEqual(old, GrantOf(second, id).Id);

        await second.CutAsync();
        await _cell.CrashAndRestartAsync(change: options => options with { Lease = Terms });
        await second.ConnectAsync(_cell.System.HostLink);
        await first.EnrolAsync(_cell.Cell);
        first.Inventory.Volumes.Add(new HeldVolume { Tenant = "acme", Name = "data", SizeMib = 64 });
        await first.ConnectAsync(_cell.System.HostLink);
        var left = new VolumeOrder { Tenant = "acme", Name = "data", Id = old, Made = true };
        await Eventually.TrueAsync(() => Task.FromResult(first.Received.Any(message => left.Equals(message.Volume))));
        Assert.Equal("second", Assert.Single(await _cell.Cell.ListVolumesAsync("acme", CancellationToken.None)).Host);

        // And it has no new one of the name before it has said that the old one is gone: others have, though it is the better fit.
        await RemoveAsync(id, second);
        id = await _cell.CreateAsync(Spec("another"));
        await _cell.WaitAsync(id, VmState.Running);
        await RemoveAsync(id, second);
        // Nobody gives way there for one that would not get its volume.
        var lows = new List<string>();
        foreach (var host in new[] { "first", "second" })
            lows.Add(await _cell.CreateAsync(new VmSpec(TestCell.Spec($"low-{host}")) { Host = host, MemoryMib = 16_384, Priority = "low" }));
        foreach (var low in lows)
            await _cell.WaitAsync(low, VmState.Running);
        id = await _cell.CreateAsync(new VmSpec(Spec("high")) { Priority = "high" });
        Assert.Equal("second", (await _cell.WaitAsync(id, VmState.Running)).Host);
        Assert.Equal(["low-first"], (await Task.WhenAll(lows.Select(_cell.GetAsync))).Where(low => low is { State: VmState.Running, Preemptions: 0 }).Select(low => low.Spec.Name));
        foreach (var low in lows)
        {
            await _cell.Cell.DeleteVmAsync(low, CancellationToken.None);
            await _cell.WaitAsync(low, VmState.Deleted);
        }
        await RemoveAsync(id, second);
        var spec = Spec("three");
        spec.Host = "first";
        id = await _cell.CreateAsync(spec);
        Assert.Equal("volume_in_use", (await _cell.WaitAsync(id, VmState.Unplaced)).Reason.Code);
        Done(first);
        await _cell.WaitAsync(id, VmState.Running);
        Assert.NotEqual(old, GrantOf(first, id).Id);
    }

    // The microVM, and the volume that it has there.
    private async Task RemoveAsync(string id, FakeAgent agent)
    {
        var volume = GrantOf(agent, id).Id;
        await _cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await _cell.WaitAsync(id, VmState.Deleted);
        await _cell.Cell.ChangeVolumeAsync(new RemoveVolume { Tenant = "acme", Name = "data" }, CancellationToken.None);
        await Eventually.TrueAsync(() => Task.FromResult(agent.Received.Any(message => message.Volume?.Id == volume)));
        Done(agent);
        await Eventually.TrueAsync(async () => (await _cell.Cell.ListVolumesAsync("acme", CancellationToken.None)).Count == 0);
    }

    private async Task<FakeAgent> JoinAsync(string name, uint cpus = 8)
    {
        var agent = new FakeAgent(name) { Fenced = true, Inventory = FakeAgent.Simulated(cpus, 16_384) };
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }

    /// <summary>It has carried out what it was told last about volumes.</summary>
    private static void Done(FakeAgent agent) =>
        agent.Send(new HostMessage { VolumeDone = new VolumeOrderDone { Order = agent.Received.Last(message => message.Volume is not null).Volume } });

    private static VolumeGrant GrantOf(FakeAgent agent, string vmId) =>
        Assert.Single(agent.Received.Last(message => message.Launch?.VmId == vmId).Launch.Volumes);

    private static VmSpec Spec(string name)
    {
        var spec = TestCell.Spec(name);
        spec.Tenant = "acme";
        spec.Volumes.Add(new VolumeMount { Name = "data", Path = "/data", SizeMib = 64 });
        return spec;
    }
}
