using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>Disk, network and disk operations, and what a host must be: from the agent's word to the refusal and back.</summary>
public sealed class ResourceTests : IAsyncLifetime
{
    private TestCell _cell = null!;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync(options => options with { NetworkRatio = 2 });

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    [Fact]
    public async Task Should_promise_no_more_than_a_host_has_and_give_it_back_also_after_a_restart()
    {
        await using var agent = await JoinAsync("only", inventory => (inventory.DiskMib, inventory.NetworkMbit, inventory.Iops) = (1000, 100, 50));
        var first = await _cell.CreateAsync(Spec("first", spec => (spec.DiskMib, spec.NetworkMbit, spec.Iops) = (600, 150, 30)));
        await _cell.WaitAsync(first, VmState.Running);
        Assert.Equal(new OtherResources { DiskMib = 600, NetworkMbit = 150, Iops = 30 }, (await _cell.HostAsync("only")).ReservedOther);
        Assert.Equal(new OtherResources { DiskMib = 1000, NetworkMbit = 200, Iops = 50 }, (await _cell.HostAsync("only")).Usage.CapOther);

        async Task<string> RefusedAsync(Action<VmSpec> change) =>
            (await _cell.WaitAsync(await _cell.CreateAsync(Spec($"other-{Guid.NewGuid():n}"[..20], change)), VmState.Unplaced)).Reason.Message;
        Assert.EndsWith("1 host short of disk (wanted 401 MiB, most free 400 MiB).", await RefusedAsync(spec => spec.DiskMib = 401), StringComparison.Ordinal);
        Assert.EndsWith("1 host short of network (wanted 51 Mbit/s, most free 50 Mbit/s).", await RefusedAsync(spec => spec.NetworkMbit = 51), StringComparison.Ordinal);
        Assert.EndsWith("1 host short of disk operations (wanted 21/s, most free 20/s).", await RefusedAsync(spec => spec.Iops = 21), StringComparison.Ordinal);
        await agent.CutAsync();
        await _cell.CrashAndRestartAsync(change: options => options with { NetworkRatio = 2 });
        await agent.ConnectAsync(_cell.System.HostLink);
        Assert.Equal(new OtherResources { DiskMib = 600, NetworkMbit = 150, Iops = 30 }, (await _cell.HostAsync("only")).ReservedOther);

        // When it ends those that wait get their room.
        agent.Report(first, HostVmState.Ended, new Reason { Code = "command_exited", Message = "Over." });
        await Eventually.TrueAsync(async () => await _cell.HostAsync("only") is { Vms: 3, ReservedOther: { DiskMib: 401, NetworkMbit: 51, Iops: 21 } });
    }

    [Fact]
    public async Task Should_count_volumes_as_long_as_they_are_there()
    {
        await using var agent = await JoinAsync("only", inventory => inventory.DiskMib = 1000);
        VmSpec WithVolume(string name, string volume, ulong sizeMib) => Spec(name, spec => spec.Volumes.Add(new VolumeMount { Name = volume, Path = "/data", SizeMib = sizeMib }));
        var id = await _cell.CreateAsync(WithVolume("one", "data", 700));
        await _cell.WaitAsync(id, VmState.Running);
        Assert.Equal(700UL, (await _cell.HostAsync("only")).Usage.VolumesMib);
        agent.Send(new HostMessage { Volumes = new VolumesHeld { Volumes = { new HeldVolume { Name = "data", SizeMib = 700 } } } });
        await _cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await _cell.WaitAsync(id, VmState.Deleted);
        Assert.Equal(700UL, (await _cell.HostAsync("only")).Usage.VolumesMib);

        var second = await _cell.CreateAsync(WithVolume("second", "more", 400));
        Assert.Contains("short of disk (wanted 400 MiB, most free 300 MiB)", (await _cell.WaitAsync(second, VmState.Unplaced)).Reason.Message, StringComparison.Ordinal);
        foreach (var briefly in new[] { true, false })
        {
            Assert.Equal("no_capacity", (await _cell.Cell.ReviewPlacementAsync(WithVolume("it", "more", 400), CancellationToken.None, briefly)).Reason?.Code);
            Assert.Null((await _cell.Cell.ReviewPlacementAsync(WithVolume("it", "data", 5000), CancellationToken.None, briefly)).Reason);
        }
        // The one that is there needs no room once more, whatever size is asked for.
        var again = await _cell.CreateAsync(WithVolume("again", "data", 5000));
        await _cell.WaitAsync(again, VmState.Running);
        Assert.Equal(700UL, (await _cell.HostAsync("only")).Usage.VolumesMib);
        await _cell.Cell.DeleteVmAsync(again, CancellationToken.None);
        await _cell.WaitAsync(again, VmState.Deleted);
        agent.Send(new HostMessage { Volumes = new VolumesHeld() });
        await _cell.WaitAsync(second, VmState.Running);
    }

    [Fact]
    public async Task Should_go_only_where_architecture_kernel_and_CPU_template_are_and_limit_no_older_agent()
    {
        await using var plain = await JoinAsync("plain", _ => { });
        await using var arm = await JoinAsync("arm", inventory => (inventory.Architecture, inventory.Kernel) = ("aarch64", "6.12.0"));
        await using var rich = await JoinAsync("rich", inventory =>
        {
            inventory.AutoDriver = "kvm";
            inventory.Drivers.Single(driver => driver.Name == "kvm").StockKernels = true;
            inventory.CpuTemplates.Add("t2");
        });
        async Task<string> HostOfAsync(string name, Action<VmSpec> change) => (await _cell.WaitAsync(await _cell.CreateAsync(Spec(name, change)), VmState.Running, VmState.Unplaced)) is { State: VmState.Running } vm ? vm.Host : "";
        Assert.Equal("arm", await HostOfAsync("a", spec => spec.Architecture = "aarch64"));
        Assert.Equal("arm", await HostOfAsync("b", spec => spec.MinKernel = "6.2"));
        Assert.Equal("rich", await HostOfAsync("c", spec => (spec.Driver, spec.CpuTemplate) = ("auto", "t2")));
        Assert.Equal("", await HostOfAsync("d", spec => spec.MinKernel = "6.13"));
        // What nobody tells of is not limited.
        Assert.Equal("plain", await HostOfAsync("e", spec => (spec.Host, spec.DiskMib, spec.NetworkMbit, spec.Iops) = ("plain", 1 << 20, 100_000, 1_000_000)));
        Assert.Equal(new OtherResources(), (await _cell.HostAsync("plain")).Usage.CapOther);
    }

    /// <summary>What the API lets pass since there was room a moment ago.</summary>
    [Fact]
    public async Task Should_fail_rather_than_wait_where_that_is_wished_and_be_placed_by_hand_when_there_is_room()
    {
        await using var agent = await JoinAsync("only", inventory => inventory.DiskMib = 1000);
        var holder = await _cell.CreateAsync(Spec("holder", spec => spec.DiskMib = 800));
        await _cell.WaitAsync(holder, VmState.Running);
        var id = await _cell.CreateAsync(Spec("late", spec => (spec.DiskMib, spec.RefuseWaiting, spec.Restart) = (400, true, "always")));
        var failed = await _cell.WaitAsync(id, VmState.Failed);
        Assert.Equal(("no_capacity", 0UL, ""), (failed.Reason.Code, failed.Epoch, failed.Host));
        await _cell.Cell.DeleteVmAsync(holder, CancellationToken.None);
        await _cell.WaitAsync(holder, VmState.Deleted);
        Assert.Equal(VmState.Failed, (await _cell.GetAsync(id)).State);
        await _cell.Cell.StartVmAsync(id, CancellationToken.None);
        Assert.Equal(1UL, (await _cell.WaitAsync(id, VmState.Running)).Epoch);
        Assert.Equal(400UL, (await _cell.HostAsync("only")).ReservedOther.DiskMib);
    }

    [Fact]
    public async Task Should_make_lower_classes_give_way_for_disk()
    {
        await using var agent = await JoinAsync("only", inventory => inventory.DiskMib = 1000);
        var low = await _cell.CreateAsync(Spec("low", spec => (spec.Priority, spec.DiskMib) = ("low", 800)));
        var useless = await _cell.CreateAsync(Spec("useless", spec => spec.Priority = "low"));
        await _cell.WaitAsync(low, VmState.Running);
        await _cell.WaitAsync(useless, VmState.Running);
        var high = await _cell.CreateAsync(Spec("high", spec => (spec.Priority, spec.DiskMib) = ("high", 500)));
        await _cell.WaitAsync(high, VmState.Running);
        Assert.Equal(1U, (await _cell.WaitAsync(low, VmState.Unplaced)).Preemptions);
        Assert.Equal(VmState.Running, (await _cell.GetAsync(useless)).State);
        Assert.Equal(500UL, (await _cell.HostAsync("only")).ReservedOther.DiskMib);
    }

    private static VmSpec Spec(string name, Action<VmSpec> change)
    {
        var spec = TestCell.Spec(name);
        change(spec);
        return spec;
    }

    private async Task<FakeAgent> JoinAsync(string name, Action<Inventory> change)
    {
        var inventory = FakeAgent.Simulated(cpus: 8, memoryMib: 16_384);
        change(inventory);
        var agent = new FakeAgent(name) { Inventory = inventory };
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }
}
