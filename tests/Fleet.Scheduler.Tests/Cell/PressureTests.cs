using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>Hosts whose machine is short of something.</summary>
public sealed class PressureTests : IAsyncLifetime
{
    private readonly ShiftedClock _clock = new();
    private TestCell _cell = null!;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync(options => options with { Clock = _clock, HostDeadAfter = TimeSpan.FromDays(1) });

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    [Fact]
    public async Task Should_place_nothing_on_a_host_that_is_short_until_that_is_over()
    {
        await using var agent = await JoinAsync("one");
        Tell(agent, PressureRung.Closed);
        await Eventually.TrueAsync(async () => await _cell.HostAsync("one") is { Pressure: { Memory: PressureRung.Closed, Cpu: PressureRung.Calm, Why: "short" } });
        var id = await _cell.CreateAsync();
        var waits = await _cell.WaitAsync(id, VmState.Unplaced);
        Assert.Contains("1 host whose machine is short of CPU or memory at present", waits.Reason.Message, StringComparison.Ordinal);

        // It says the same again, with other figures: nothing new is stored.
        var version = (await _cell.HostAsync("one")).Version;
        _clock.Shift(TimeSpan.FromSeconds(10));
        Tell(agent, PressureRung.Closed, "shorter");
        Tell(agent, PressureRung.Calm);
        await _cell.WaitAsync(id, VmState.Running);
        var host = await _cell.HostAsync("one");
        Assert.Null(host.Pressure);
        Assert.Equal(version + 2, host.Version); // calm, and the reservation
    }

    [Fact]
    public async Task Should_not_let_a_host_fill_the_journal_with_its_moods()
    {
        await using var agent = await JoinAsync("one");
        var version = (await _cell.HostAsync("one")).Version;
        for (var i = 0; i < 100; i++)
            Tell(agent, i % 2 == 0 ? PressureRung.Closed : PressureRung.Reclaim);
        // What comes behind them tells that they were heard.
        agent.Send(new HostMessage { Usage = new UsageSample { Sequence = 1, Machine = new MachineUse { CpuMillis = 77 } } });
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("one")).Usage.Used?.CpuMillis == 77);
        _clock.Shift(TimeSpan.FromSeconds(10));
        Tell(agent, PressureRung.Evict);
        await Eventually.TrueAsync(async () => await _cell.HostAsync("one") is { Pressure.Memory: PressureRung.Evict });
        Assert.Equal(version + 2, (await _cell.HostAsync("one")).Version);
    }

    /// <summary>Hosts that reconnect are offered microVMs at once: not the ones that say with their first word that they are short.</summary>
    [Fact]
    public async Task Should_know_it_from_the_first_word_of_an_agent_that_comes_back()
    {
        await using var agent = await JoinAsync("one");
        var id = await StartAsync("large", 2048);
        agent.Pressure = new PressureReport { Cpu = PressureRung.Calm, Memory = PressureRung.Closed, Why = "short" };
        await agent.CutAsync();
        await agent.ConnectAsync(_cell.System.HostLink);
        Assert.Equal(agent.Pressure, (await _cell.HostAsync("one")).Pressure);
        Assert.Equal(agent.Pressure, Assert.Single(_cell.System.Figures.All()).Pressure);
        var waits = await _cell.WaitAsync(await _cell.CreateAsync(TestCell.Spec("other")), VmState.Unplaced);
        Assert.Contains("1 host whose machine is short of CPU or memory at present", waits.Reason.Message, StringComparison.Ordinal);

        // Nor is it forgotten that it asks for them to be taken away.
        await using var other = await JoinAsync("two");
        agent.Pressure.Memory = PressureRung.Evict;
        await agent.CutAsync();
        await agent.ConnectAsync(_cell.System.HostLink);
        await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Host: "two" });
        agent.Pressure.Memory = PressureRung.Calm;
        await agent.CutAsync();
        await agent.ConnectAsync(_cell.System.HostLink);
        Assert.Null((await _cell.HostAsync("one")).Pressure);
    }

    [Fact]
    public async Task Should_know_nothing_of_it_when_the_agent_is_away_and_after_a_restart()
    {
        await using var agent = await JoinAsync("one");
        Tell(agent, PressureRung.Closed);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("one")).Pressure is not null);
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => await _cell.HostAsync("one") is { State: HostState.Disconnected, Pressure: null });
        await agent.ConnectAsync(_cell.System.HostLink);
        _clock.Shift(TimeSpan.FromSeconds(10));
        Tell(agent, PressureRung.Closed);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("one")).Pressure is not null);
        await agent.CutAsync();
        await _cell.CrashAndRestartAsync();
        await agent.ConnectAsync(_cell.System.HostLink);
        await _cell.WaitAsync(await _cell.CreateAsync(), VmState.Running);
    }

    [Fact]
    public async Task Should_move_the_largest_of_a_class_first_one_after_the_other_and_stop_when_it_is_enough()
    {
        await using var agent = await JoinAsync("one");
        var small = await StartAsync("small", 128);
        var large = await StartAsync("large", 2048);
        var middle = await StartAsync("middle", 1024);
        await using var other = await JoinAsync("two");
        agent.Swallow = message => message.Stop is not null;
        Tell(agent, PressureRung.Evict);
        await Eventually.TrueAsync(async () => await _cell.GetAsync(large) is { State: VmState.Stopping, Move: { Host: "two", Epoch: 2 }, Reason.Code: "host_pressure" });
        Assert.Equal("Host one is short of CPU or memory: it stops there and goes to two.", (await _cell.GetAsync(large)).Reason.Message);
        Assert.Equal(VmState.Running, (await _cell.GetAsync(middle)).State);
        agent.Swallow = null;
        await Eventually.TrueAsync(async () => await _cell.GetAsync(large) is { State: VmState.Running, Host: "two", Epoch: 2, Restarts: 0 });
        Assert.All(agent.Received.Where(message => message.Stop is not null), stop => Assert.Equal(10_000U, stop.Stop.GraceMs));

        // Not before it has shown whether that was enough.
        Assert.Equal(("one", "one"), ((await _cell.GetAsync(middle)).Host, (await _cell.GetAsync(small)).Host));
        await Eventually.TrueAsync(async () =>
        {
            var vm = await _cell.GetAsync(middle);
            if (vm is { State: VmState.Running, Host: "one" })
                _clock.Shift(TimeSpan.FromSeconds(5));
            return vm is { State: VmState.Running, Host: "two" };
        });
        _clock.Shift(TimeSpan.FromSeconds(10));
        Tell(agent, PressureRung.Calm);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("one")).Pressure is null);
        Assert.True(await _cell.GetAsync(small) is { State: VmState.Running, Host: "one", Epoch: 1 });
    }

    /// <summary>By size alone it would be the other way round.</summary>
    [Fact]
    public async Task Should_move_the_lowest_class_first_however_small_its_microVMs_are()
    {
        await using var agent = await JoinAsync("one");
        var high = await StartAsync("high", 4096, PriorityClass.High);
        var normal = await StartAsync("normal", 2048);
        var low = await StartAsync("low", 128, PriorityClass.Low);
        await using var other = await JoinAsync("two");
        Tell(agent, PressureRung.Evict);
        await Eventually.TrueAsync(async () => await _cell.GetAsync(low) is { State: VmState.Running, Host: "two", Epoch: 2 });
        Assert.Equal(("one", "one"), ((await _cell.GetAsync(normal)).Host, (await _cell.GetAsync(high)).Host));
        await Eventually.TrueAsync(async () =>
        {
            var vm = await _cell.GetAsync(normal);
            if (vm is { State: VmState.Running, Host: "one" })
                _clock.Shift(TimeSpan.FromSeconds(5));
            return vm is { State: VmState.Running, Host: "two" };
        });
        Assert.True(await _cell.GetAsync(high) is { State: VmState.Running, Host: "one", Epoch: 1 });
    }

    [Fact]
    public async Task Should_leave_where_it_is_what_finds_no_room_elsewhere()
    {
        await using var agent = await JoinAsync("one");
        var large = await StartAsync("large", 2048);
        var small = await StartAsync("small", 128);
        await using var other = await JoinAsync("two", memoryMib: 512);
        Tell(agent, PressureRung.Evict);
        // The largest does not fit there; the next one does.
        await Eventually.TrueAsync(async () => await _cell.GetAsync(small) is { State: VmState.Running, Host: "two", Epoch: 2 });
        Assert.True(await _cell.GetAsync(large) is { State: VmState.Running, Host: "one", Epoch: 1 });
        Assert.DoesNotContain(agent.Received, message => message.Stop?.VmId == large);
    }

    [Fact]
    public async Task Should_not_move_to_a_host_that_is_short_too()
    {
        await using var agent = await JoinAsync("one");
        var id = await StartAsync("large", 2048);
        await using var other = await JoinAsync("two");
        Tell(other, PressureRung.Closed);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("two")).Pressure is not null);
        Tell(agent, PressureRung.Evict);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("one")).Pressure is not null);
        // It is asked again and again meanwhile, and has nowhere to go to until the other is well again.
        _clock.Shift(TimeSpan.FromSeconds(10));
        Assert.True(await _cell.GetAsync(id) is { State: VmState.Running, Host: "one" });
        Tell(other, PressureRung.Calm);
        await Eventually.TrueAsync(async () =>
        {
            _clock.Shift(TimeSpan.FromSeconds(10));
            return await _cell.GetAsync(id) is { State: VmState.Running, Host: "two", Epoch: 2 };
        });
    }

    private async Task<string> StartAsync(string name, uint memoryMib, string priority = PriorityClass.Normal)
    {
        var spec = TestCell.Spec(name, memoryMib: memoryMib);
        spec.Priority = priority;
        var id = await _cell.CreateAsync(spec);
        await _cell.WaitAsync(id, VmState.Running);
        return id;
    }

    private static void Tell(FakeAgent agent, PressureRung memory, string why = "short") => agent.Send(new HostMessage
    {
        Pressure = new PressureReport { Cpu = PressureRung.Calm, Memory = memory, Why = memory == PressureRung.Calm ? "" : why },
    });

    private async Task<FakeAgent> JoinAsync(string name, ulong memoryMib = 16_384)
    {
        var agent = new FakeAgent(name) { Inventory = FakeAgent.Simulated(cpus: 8, memoryMib) };
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }
}
