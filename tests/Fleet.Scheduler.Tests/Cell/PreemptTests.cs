using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>Those of higher classes take the room of lower ones, which stop first and then go elsewhere or wait.</summary>
public sealed class PreemptTests : IAsyncLifetime
{
    private TestCell _cell = null!;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync();

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    [Fact]
    public async Task Should_launch_only_when_the_last_that_gives_way_is_gone_and_place_those_when_there_is_room()
    {
        await using var agent = await JoinAsync("only");
        var lows = await StartAsync(2, "low");
        var normal = (await StartAsync(1, "normal"))[0];
        // Nothing stops for now.
        agent.Swallow = message => message.Stop is not null;
        var high = await _cell.CreateAsync(Spec("high", memoryMib: 6144));
        foreach (var id in lows)
            await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Stopping, Reason.Code: PreemptionRules.PreemptedCode, Preemptions: 1 });
        Assert.Equal(VmState.Running, (await _cell.GetAsync(normal)).State);
        Assert.Equal(VmState.Starting, (await _cell.GetAsync(high)).State);
        var full = await _cell.HostAsync("only");
        Assert.Equal((8192UL, 4U), (full.ReservedMemoryMib, full.Vms));
        Assert.All(agent.Received.Where(message => message.Stop is not null), stop => Assert.Equal(10_000U, stop.Stop.GraceMs));

        agent.Report(lows[0], HostVmState.Ended, new Reason { Code = "stop_requested", Message = "Stopped." });
        await Eventually.TrueAsync(async () => await _cell.GetAsync(lows[0]) is { State: VmState.Unplaced, Reason.Code: "no_capacity" });
        Assert.DoesNotContain(agent.Received, message => message.Launch?.VmId == high);
        agent.Swallow = null;
        await _cell.WaitAsync(high, VmState.Running);
        await _cell.WaitAsync(lows[1], VmState.Unplaced);
        Assert.Equal((8192UL, 2U), ((await _cell.HostAsync("only")).ReservedMemoryMib, (await _cell.HostAsync("only")).Vms));

        await using var other = await JoinAsync("other");
        foreach (var id in lows)
            Assert.True(await _cell.WaitAsync(id, VmState.Running) is { Host: "other", Epoch: 2, Restarts: 0 });
    }

    [Fact]
    public async Task Should_leave_alone_its_own_class_and_what_has_room_elsewhere()
    {
        await using var agent = await JoinAsync("only");
        var low = (await StartAsync(1, "low", memoryMib: 4096))[0];
        await StartAsync(1, "normal", memoryMib: 2048);
        Assert.Equal("no_capacity", (await _cell.WaitAsync(await _cell.CreateAsync(Spec("low", memoryMib: 4096)), VmState.Unplaced)).Reason.Code);
        Assert.Equal("no_capacity", (await _cell.WaitAsync(await _cell.CreateAsync(Spec("normal", memoryMib: 8192)), VmState.Unplaced)).Reason.Code);
        await _cell.WaitAsync(await _cell.CreateAsync(Spec("high", memoryMib: 2048)), VmState.Running);
        Assert.Equal(VmState.Running, (await _cell.GetAsync(low)).State);
        Assert.DoesNotContain(agent.Received, message => message.Stop is not null);
    }

    [Fact]
    public async Task Should_go_on_after_a_restart_of_the_cell()
    {
        await using var agent = await JoinAsync("only");
        var low = (await StartAsync(1, "low", memoryMib: 8192))[0];
        agent.Swallow = message => message.Stop is not null;
        var high = await _cell.CreateAsync(Spec("high", memoryMib: 4096));
        await _cell.WaitAsync(high, VmState.Starting);
        await agent.CutAsync();
        await _cell.CrashAndRestartAsync();
        agent.Swallow = null;
        await agent.ConnectAsync(_cell.System.HostLink);
        await _cell.WaitAsync(high, VmState.Running);
        Assert.True(await _cell.WaitAsync(low, VmState.Unplaced) is { Preemptions: 1, Epoch: 1 });
        Assert.Equal((4096UL, 1U), ((await _cell.HostAsync("only")).ReservedMemoryMib, (await _cell.HostAsync("only")).Vms));
    }

    /// <summary>Whoever took the room is deleted before it is empty: who comes next waits until it is.</summary>
    [Fact]
    public async Task Should_not_launch_into_room_that_is_not_empty_yet_when_its_taker_is_gone()
    {
        await using var agent = await JoinAsync("only");
        var low = (await StartAsync(1, "low", memoryMib: 8192))[0];
        agent.Swallow = message => message.Stop is not null;
        var high = await _cell.CreateAsync(Spec("high", memoryMib: 8192));
        await _cell.WaitAsync(high, VmState.Starting);
        await _cell.Cell.DeleteVmAsync(high, CancellationToken.None);
        await _cell.WaitAsync(high, VmState.Deleted);
        var next = await _cell.CreateAsync(Spec("normal", memoryMib: 8192));
        await _cell.WaitAsync(next, VmState.Starting);
        var since = global::System.Diagnostics.Stopwatch.StartNew();
        await Eventually.TrueAsync(() => since.ElapsedMilliseconds > 1000);
        Assert.DoesNotContain(agent.Received, message => message.Launch?.VmId == next);
        agent.Swallow = null;
        await _cell.WaitAsync(next, VmState.Running);
        await _cell.WaitAsync(low, VmState.Unplaced);
    }

    /// <summary>A storm of higher ones: each time it gives way, until it does so no more.</summary>
    [Fact]
    public async Task Should_not_push_one_about_for_ever()
    {
        await using var agent = await JoinAsync("only");
        var low = (await StartAsync(1, "low", memoryMib: 8192))[0];
        for (var round = 1U; round <= PreemptionRules.Most; round++)
        {
            var high = await _cell.CreateAsync(Spec("high", memoryMib: 8192));
            await _cell.WaitAsync(high, VmState.Running);
            Assert.Equal(round, (await _cell.WaitAsync(low, VmState.Unplaced)).Preemptions);
            await _cell.Cell.DeleteVmAsync(high, CancellationToken.None);
            await _cell.WaitAsync(low, VmState.Running);
        }
        Assert.Equal("no_capacity", (await _cell.WaitAsync(await _cell.CreateAsync(Spec("high", memoryMib: 8192)), VmState.Unplaced)).Reason.Code);
        Assert.Equal(VmState.Running, (await _cell.GetAsync(low)).State);
    }

    /// <summary>Wave after wave of higher ones over two full hosts: none of the lower ones gives way more often than the bound, and all run again when it is over.</summary>
    [Fact]
    public async Task Should_bound_how_often_each_gives_way_in_a_storm()
    {
        await using var one = await JoinAsync("one");
        await using var other = await JoinAsync("other");
        var lows = await StartAsync(8, "low");
        // A node that is new has nobody give way until it has heard of every host.
        var first = await _cell.CreateAsync(Spec("high"));
        await _cell.WaitAsync(first, VmState.Running);
        await _cell.Cell.DeleteVmAsync(first, CancellationToken.None);
        await _cell.WaitAsync(first, VmState.Deleted);
        foreach (var low in lows)
            await _cell.WaitAsync(low, VmState.Running);
        var placed = 0;
        for (var wave = 0; wave < 10; wave++)
        {
            var size = wave % 2 == 0 ? 4096U : 2048U;
            var highs = await Task.WhenAll(Enumerable.Range(0, 3).Select(_ => _cell.CreateAsync(Spec("high", size))));
            foreach (var high in highs)
                await Eventually.TrueAsync(async () => (await _cell.GetAsync(high)).State is VmState.Running or VmState.Unplaced);
            foreach (var high in highs)
            {
                placed += (await _cell.GetAsync(high)).State == VmState.Running ? 1 : 0;
                await _cell.Cell.DeleteVmAsync(high, CancellationToken.None);
                await _cell.WaitAsync(high, VmState.Deleted);
            }
            foreach (var low in lows)
                Assert.InRange((await _cell.WaitAsync(low, VmState.Running)).Preemptions, 0U, PreemptionRules.Most);
        }
        var stopped = one.Received.Concat(other.Received).Where(message => message.Stop is not null).Select(message => (message.Stop.VmId, message.Stop.Epoch)).Where(stop => lows.Contains(stop.VmId)).Distinct().ToList();
        Assert.InRange(stopped.Count, 1, lows.Length * (int)PreemptionRules.Most);
        Assert.All(stopped.CountBy(stop => stop.VmId), times => Assert.InRange(times.Value, 1, (int)PreemptionRules.Most));
        Assert.InRange(placed, 2, stopped.Count);
    }

    private static VmSpec Spec(string priority, uint memoryMib = 2048)
    {
        var spec = TestCell.Spec(memoryMib: memoryMib);
        spec.Priority = priority;
        return spec;
    }

    private async Task<string[]> StartAsync(int count, string priority, uint memoryMib = 2048)
    {
        var ids = await Task.WhenAll(Enumerable.Range(0, count).Select(_ => _cell.CreateAsync(Spec(priority, memoryMib))));
        foreach (var id in ids)
            await _cell.WaitAsync(id, VmState.Running);
        return ids;
    }

    private async Task<FakeAgent> JoinAsync(string name)
    {
        var agent = new FakeAgent(name) { Inventory = FakeAgent.Simulated(cpus: 8, memoryMib: 8192) };
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }
}
