using Fleet.Host.Pressure;
using Fleet.Host.Usage;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Pressure;

public sealed class HostReactionTests
{
    private static readonly TimeSpan Span = TimeSpan.FromSeconds(10);

    private readonly HostReaction _host = new();
    private TimeSpan _now;

    /// <summary>One look each 10 s, with 4 CPUs.</summary>
    private PressureRung Cpu(double run, double wait, double steal, int looks)
    {
        for (var i = 0; i < looks; i++)
            _host.TakeCpu(new CpuShortage(new VcpuTimes(TimeSpan.FromSeconds(run), TimeSpan.FromSeconds(wait)), steal, 4, Span), _now += Span);
        return _host.Told.Cpu;
    }

    private PressureRung Memory(double? available, double? stalled, int looks)
    {
        for (var i = 0; i < looks; i++)
            _host.TakeMemory(available, stalled, _now += TimeSpan.FromSeconds(2));
        return _host.Told.Memory;
    }

    [Fact]
    public void Should_close_then_squeeze_then_evict_for_want_of_CPU_and_undo_it_in_reverse()
    {
        Assert.Equal(PressureRung.Calm, Cpu(20, 40, 0, 6));
        Assert.Equal("", _host.Told.Why);
        Assert.Equal(PressureRung.Closed, Cpu(20, 40, 0, 1));
        Assert.True(_host.Does(PressureRung.Closed) && !_host.Does(PressureRung.Squeeze));
        Assert.Contains("66.7%", _host.Told.Why, StringComparison.Ordinal);
        Assert.Equal(PressureRung.Squeeze, Cpu(20, 40, 0, 6));
        Assert.Equal(PressureRung.Evict, Cpu(20, 40, 0, 6));
        Assert.False(_host.Does(PressureRung.Reclaim)); // that would bring no CPU
        Assert.Equal(PressureRung.Squeeze, Cpu(30, 30, 0, 50)); // neither: nothing is undone, and nobody is sent away
        Assert.True(_host.Does(PressureRung.Squeeze));
        Assert.Equal(PressureRung.Evict, Cpu(20, 40, 0, 1));
        Assert.Equal(PressureRung.Squeeze, Cpu(30, 5, 0, 13));
        Assert.Equal(PressureRung.Calm, Cpu(30, 5, 0, 24));
        Assert.Equal("", _host.Told.Why);
    }

    [Fact]
    public void Should_go_by_what_is_stolen_and_not_by_a_few_vCPUs_that_wait()
    {
        Assert.Equal(PressureRung.Calm, Cpu(1, 8, 0, 100));
        Assert.Equal(PressureRung.Closed, Cpu(0, 0, 0.4, 7));
        Assert.Equal(PressureRung.Closed, Cpu(0, 0, 0.2, 100));
        Assert.Equal(PressureRung.Calm, Cpu(0, 0, 0, 13));
    }

    [Fact]
    public void Should_close_then_reclaim_then_evict_for_want_of_memory()
    {
        Assert.Equal(PressureRung.Calm, Memory(0.05, null, 5));
        Assert.Equal(PressureRung.Closed, Memory(0.05, null, 1));
        Assert.Equal(PressureRung.Reclaim, Memory(0.05, 0, 5));
        Assert.Equal(PressureRung.Evict, Memory(0.05, 0, 5));
        Assert.False(_host.Does(PressureRung.Squeeze));
        // Thrashing is want whatever is available; a machine that tells nothing changes nothing.
        Assert.Equal(PressureRung.Evict, Memory(0.5, 0.5, 100));
        Assert.Equal(PressureRung.Reclaim, Memory(null, null, 100));
        Assert.Equal(PressureRung.Reclaim, Memory(0.1, 0, 100));
        Assert.Equal(PressureRung.Evict, Memory(0.05, 0, 1));
        Assert.Equal(PressureRung.Calm, Memory(0.2, null, 91));
    }
}
