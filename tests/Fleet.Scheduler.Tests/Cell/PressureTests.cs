using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
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
        _clock.Shift(TimeSpan.FromSeconds(10));
        Tell(agent, PressureRung.Evict);
        await Eventually.TrueAsync(async () => await _cell.HostAsync("one") is { Pressure.Memory: PressureRung.Evict });
        Assert.Equal(version + 2, (await _cell.HostAsync("one")).Version);
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

    private static void Tell(FakeAgent agent, PressureRung memory, string why = "short") => agent.Send(new HostMessage
    {
        Pressure = new PressureReport { Cpu = PressureRung.Calm, Memory = memory, Why = memory == PressureRung.Calm ? "" : why },
    });

    private async Task<FakeAgent> JoinAsync(string name)
    {
        var agent = new FakeAgent(name) { Fenced = true };
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }
}
