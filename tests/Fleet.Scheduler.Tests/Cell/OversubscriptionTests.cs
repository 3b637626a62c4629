using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Prediction;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>Hosts that promise by what their microVMs use.</summary>
public sealed class OversubscriptionTests : IAsyncLifetime
{
    private const int PerSlot = 12;
    private static readonly TimeSpan Between = UsageSeries.Slot / PerSlot;

    private readonly ShiftedClock _clock = new();
    private TestCell _cell = null!;
    private ulong _sequence;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync(Settings);

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    private CellOptions Settings(CellOptions options) => options with
    {
        Clock = _clock,
        HostDeadAfter = TimeSpan.FromDays(1),
        CpuRatio = 4,
        MemoryRatio = 1.5,
        Prediction = new PredictionTerms { Reserve = 0 },
    };

    private void Tell(FakeAgent agent, params string[] ids) => agent.Send(new HostMessage
    {
        Usage = new UsageSample
        {
            Sequence = ++_sequence,
            Machine = new MachineUse { CpuMillis = (uint)_sequence, MemoryKib = 300 * 1024 },
            Vms = { ids.Select(id => new VmUse { VmId = id, Epoch = 1, CpuMillis = 200, MemoryKib = 100 * 1024 }) },
        },
    });

    /// <summary>Hours of use in the time that their samples take to arrive.</summary>
    private async Task UseAsync(FakeAgent agent, int slots, params string[] ids)
    {
        for (var i = 0; i < (slots * PerSlot) + 1; i++)
        {
            _clock.Shift(Between);
            Tell(agent, ids);
            // Each has to be there before the clock goes on, or they would all be of the same moment.
            await Eventually.TrueAsync(async () => (await _cell.HostAsync("rack1-7")).Usage.Used?.CpuMillis == _sequence);
        }
    }

    [Fact]
    public async Task Should_promise_the_machine_at_first_and_more_when_use_is_known_and_the_machine_again_after_a_restart()
    {
        await using var agent = new FakeAgent("rack1-7") { Inventory = FakeAgent.Simulated(cpus: 4, memoryMib: 4000) };
        await agent.ConnectAsync(_cell.System.HostLink);
        var first = await _cell.CreateAsync(TestCell.Spec(cpus: 2, memoryMib: 2000));
        var second = await _cell.CreateAsync(TestCell.Spec("two", cpus: 2, memoryMib: 2000));
        await _cell.WaitAsync(first, VmState.Running);
        await _cell.WaitAsync(second, VmState.Running);

        var third = await _cell.CreateAsync(TestCell.Spec("three", cpus: 2, memoryMib: 1000));
        var unplaced = await _cell.WaitAsync(third, VmState.Unplaced);
        Assert.Contains("predicted to use the CPUs (wanted 2, most free 0)", unplaced.Reason.Message, StringComparison.Ordinal);
        Assert.Equal((4.0, 4.0, 0U), Forecast(await _cell.HostAsync("rack1-7")));

        // The first slot may have begun before, and the last one goes on.
        await UseAsync(agent, UsageSeries.WarmUp + 2, first, second);
        var host = await _cell.HostAsync("rack1-7");
        Assert.Equal(300UL * 1024, host.Usage.Used.MemoryKib);
        Assert.Equal((16UL, 6000UL), (host.Usage.CapCpus, host.Usage.CapMemoryMib));
        Assert.Equal("rack1-7", (await _cell.WaitAsync(third, VmState.Running)).Host);
        host = await _cell.HostAsync("rack1-7");
        // 0.4 of 4 used, and 0.4 of that above it at the end of the warm-up; the newcomer at its limit.
        Assert.InRange(host.Usage.Forecast.PeakCpus, 2.5, 2.6);
        Assert.Equal(2U, host.Usage.Forecast.KnownVms);
        Assert.Equal((6U, 5000UL), (host.ReservedCpus, host.ReservedMemoryMib));

        // The cap on the sum of limits holds however little is used.
        var tooMuch = await _cell.CreateAsync(TestCell.Spec("four", cpus: 1, memoryMib: 1001));
        Assert.Contains("short of memory (wanted 1001 MiB, most free 1000 MiB)", (await _cell.WaitAsync(tooMuch, VmState.Unplaced)).Reason.Message, StringComparison.Ordinal);

        await agent.CutAsync();
        await _cell.CrashAndRestartAsync(change: Settings);
        await agent.ConnectAsync(_cell.System.HostLink);
        host = await _cell.HostAsync("rack1-7");
        Assert.Equal((6.0, 4.0, 0U), Forecast(host));
        Assert.Null(host.Usage.Used);
    }

    private static (double Peak, double Room, uint Known) Forecast(HostRecord host) =>
        (host.Usage.Forecast.PeakCpus, host.Usage.Forecast.RoomCpus, host.Usage.Forecast.KnownVms);

    /// <summary>The same use on hosts of two classes, and on one that comes back as a host of another.</summary>
    [Fact]
    public async Task Should_predict_each_host_by_the_terms_of_its_class()
    {
        CellOptions Classed(CellOptions options)
        {
            var terms = new PredictionTerms { Reserve = 0 };
            PredictedClass Of(string text) => PredictedClass.Parse(text, terms, out _)!;
            return Settings(options) with { Prediction = terms with { Classes = [Of("batch label.pool=batch cpu=factor:0.5 memory=limit reserve=0.25"), Of("large cpus>=8 cpu=limit")] } };
        }

        await using var cell = await TestCell.StartAsync(Classed);
        await using var agent = new FakeAgent("rack1-7") { Inventory = FakeAgent.Simulated(cpus: 8, memoryMib: 4000) };
        agent.Inventory.Labels["pool"] = "batch";
        await agent.ConnectAsync(cell.System.HostLink);
        for (var i = 0; i < 3; i++)
            await cell.WaitAsync(await cell.CreateAsync(TestCell.Spec($"vm-{i}", cpus: 3, memoryMib: 100)), VmState.Running);
        var forecast = (await cell.HostAsync("rack1-7")).Usage.Forecast;
        Assert.Equal(("batch", "factor:0.5", "limit", 0.25), (forecast.HostClass, forecast.CpuPredictor, forecast.MemoryPredictor, forecast.Reserve));
        Assert.Equal((4.5, 6.0, 300.0, 3000.0), (forecast.PeakCpus, forecast.RoomCpus, forecast.PeakMemoryMib, forecast.RoomMemoryMib));
        // Half of nine are taken, and two do not come to 6 with that. By their limits it would be none at all.
        var refused = await cell.WaitAsync(await cell.CreateAsync(TestCell.Spec("vm-3", cpus: 2, memoryMib: 100)), VmState.Unplaced);
        Assert.Contains("(wanted 2, most free 1)", refused.Reason.Message, StringComparison.Ordinal);

        await agent.CutAsync();
        agent.Inventory = FakeAgent.Simulated(cpus: 8, memoryMib: 4000);
        await agent.ConnectAsync(cell.System.HostLink);
        await Eventually.TrueAsync(async () => (await cell.HostAsync("rack1-7")).Usage.Forecast.HostClass == "large");
        forecast = (await cell.HostAsync("rack1-7")).Usage.Forecast;
        Assert.Equal(("limit", PredictorSettings.DefaultMemory, 9.0, 8.0), (forecast.CpuPredictor, forecast.MemoryPredictor, forecast.PeakCpus, forecast.RoomCpus));
    }

    [Fact]
    public async Task Should_not_predict_where_nobody_asked_for_it()
    {
        await using var cell = await TestCell.StartAsync();
        await using var agent = new FakeAgent("rack1-8") { Inventory = FakeAgent.Simulated(cpus: 1, memoryMib: 4000) };
        await agent.ConnectAsync(cell.System.HostLink);
        await cell.WaitAsync(await cell.CreateAsync(TestCell.Spec(cpus: 4)), VmState.Running);
        var host = await cell.HostAsync("rack1-8");
        Assert.Equal((4UL, 4000UL), (host.Usage.CapCpus, host.Usage.CapMemoryMib));
        Assert.Null(host.Usage.Forecast);
    }

    [Fact]
    public async Task Should_not_start_with_a_predictor_that_is_none()
    {
        var fault = await Assert.ThrowsAsync<CellStartException>(() => TestCell.StartAsync(options => options with { Prediction = new PredictionTerms { Cpu = "magic" } }));
        Assert.Contains("'magic'", fault.Message, StringComparison.Ordinal);
    }
}
