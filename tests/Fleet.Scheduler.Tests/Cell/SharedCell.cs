using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>One cell for all tests of a class; each test brings hosts of its own and pins its microVMs to them.</summary>
public sealed class SharedCell : IAsyncLifetime
{
    private static int _lastHost;

    internal TestCell Cell { get; private set; } = null!;

    /// <summary>Its agents don't dial again, and a busy machine may keep them from beating for seconds.</summary>
    public async Task InitializeAsync() => Cell = await TestCell.StartAsync(options => options with { HostDeadAfter = TimeSpan.FromSeconds(6) });

    public async Task DisposeAsync() => await Cell.DisposeAsync();

    internal static FakeAgent NewAgent() => new($"host-{Interlocked.Increment(ref _lastHost)}");

    internal async Task<FakeAgent> JoinAsync(uint cpus = 8, ulong memoryMib = 16_384)
    {
        var agent = NewAgent();
        agent.Inventory = FakeAgent.Simulated(cpus, memoryMib);
        await agent.ConnectAsync(Cell.System.HostLink);
        return agent;
    }

    internal static VmSpec On(FakeAgent agent, uint cpus = 1, uint memoryMib = 128)
    {
        var spec = TestCell.Spec(cpus: cpus, memoryMib: memoryMib);
        spec.Host = agent.HostId;
        return spec;
    }
}
