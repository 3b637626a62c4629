using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Prediction;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Prediction;

public sealed class UsageBookTests
{
    private static readonly IPeakPredictor Cpu = PredictorSettings.Parse("peak:0", Fold.P90)!;
    private static readonly IPeakPredictor Memory = PredictorSettings.Parse("percentile:100", Fold.Max)!;
    private static readonly TimeSpan Every = TimeSpan.FromSeconds(10);

    private readonly UsageBook _book = new();
    private TimeSpan _now = TimeSpan.FromHours(5);
    private ulong _sequence;

    private static Reservation Holds(string id, uint cpus = 2, ulong memoryMib = 1000, bool vacated = false) => new(id, 1, cpus, memoryMib, vacated);

    private UsageSample Sample(params (string Id, uint CpuMillis, ulong MemoryMib)[] vms) => new()
    {
        Sequence = ++_sequence,
        Machine = new MachineUse { CpuMillis = 700 },
        Vms = { vms.Select(vm => new VmUse { VmId = vm.Id, Epoch = 1, CpuMillis = vm.CpuMillis, MemoryKib = vm.MemoryMib * 1024 }) },
    };

    private void Run(TimeSpan time, IReadOnlyCollection<Reservation> held, params (string Id, uint CpuMillis, ulong MemoryMib)[] vms)
    {
        for (var until = _now + time; _now < until; _now += Every)
            Assert.True(_book.Take(Sample(vms), held, _now));
    }

    private (double Cpus, double Memory) Predicted(params Reservation[] held)
    {
        var peak = _book.Predict(held, Cpu, Memory, _now);
        return (Math.Round(peak.Cpus, 2), Math.Round(peak.MemoryMib));
    }

    [Fact]
    public void Should_predict_by_use_after_two_hours_and_take_a_newcomer_at_its_limit()
    {
        Reservation[] held = [Holds("a"), Holds("b")];
        Run(TimeSpan.FromMinutes(115), held, ("a", 500, 100), ("b", 100, 300));
        Assert.Equal((4, 2000), Predicted(held));
        Run(TimeSpan.FromMinutes(10), held, ("a", 500, 100), ("b", 100, 300));
        Assert.Equal((0.6, 400), Predicted(held));
        Assert.Equal((2.6, 1400), Predicted([.. held, Holds("c")]));
        // What the other used goes with it, and it counts as what it used itself.
        Assert.Equal(0.5, Predicted(Holds("a"), Holds("b", vacated: true)).Cpus, 2);
        Assert.Equal(2, _book.WarmVms(_now));
    }

    [Fact]
    public void Should_not_listen_to_a_repeated_or_late_sample_and_forget_who_has_left()
    {
        Reservation[] held = [Holds("a"), Holds("b")];
        Run(TimeSpan.FromMinutes(1), held, ("a", 500, 100), ("b", 100, 300), ("stranger", 100, 1));
        Assert.Equal(2, _book.Vms);
        var sample = Sample(("a", 1, 1));
        Assert.True(_book.Take(sample, held, _now));
        Assert.False(_book.Take(sample, held, _now + Every));
        var late = Sample(("a", 1, 1));
        late.AgeMs = 60_001;
        Assert.False(_book.Take(late, held, _now + Every));
        Assert.True(_book.Take(Sample(), [Holds("a"), Holds("b", vacated: true)], _now + Every));
        Assert.Equal(1, _book.Vms);
    }

    [Fact]
    public void Should_begin_anew_with_a_new_stream()
    {
        _sequence = 100;
        Run(Every, [Holds("a")], ("a", 1, 1));
        Assert.NotNull(_book.Machine);
        _book.Opened();
        Assert.Null(_book.Machine);
        _sequence = 0;
        Run(Every, [Holds("a")], ("a", 1, 1));
    }

    /// <summary>A host must not make its neighbours' room smaller, or its own larger, than limits allow.</summary>
    [Fact]
    public void Should_count_nobody_above_its_limit()
    {
        Reservation[] held = [Holds("a"), Holds("b")];
        Run(TimeSpan.FromHours(3), held, ("a", uint.MaxValue, ulong.MaxValue / 2048), ("b", 0, 0));
        Assert.Equal((2, 1000), Predicted(held));
    }

    [Fact]
    public void Should_take_all_at_their_limits_when_samples_stop()
    {
        Reservation[] held = [Holds("a")];
        Run(TimeSpan.FromHours(3), held, ("a", 100, 10));
        Assert.Equal((0.1, 10), Predicted(held));
        _now += TimeSpan.FromMinutes(20);
        Assert.Equal((2, 1000), Predicted(held));
    }
}
