using CsCheck;
using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Prediction;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Prediction;

/// <summary>The machine's series where microVMs come and go.</summary>
public sealed class MachineSeriesTests
{
    private static readonly TimeSpan Every = TimeSpan.FromSeconds(10);
    private static readonly IPeakPredictor Limit = PredictorSettings.Parse("limit", Fold.Max)!;

    /// <summary>A host whose microVMs, of two vCPUs each, use what a script says.</summary>
    private sealed class Trace
    {
        private readonly UsageBook _book = new();
        private ulong _sequence;

        public TimeSpan Now { get; private set; } = TimeSpan.FromHours(1);

        /// <summary>Samples of CPU in thousandths, every 10 s; a microVM's use by its name and the number of the sample.</summary>
        public void Run(TimeSpan time, string[] vms, Func<string, int, uint> millis)
        {
            for (var until = Now + time; Now < until; Now += Every)
            {
                var sample = new UsageSample { Sequence = ++_sequence };
                sample.Vms.Add(vms.Select(vm => new VmUse { VmId = vm, Epoch = 1, CpuMillis = millis(vm, (int)(Now / Every)) }));
                Assert.True(_book.Take(sample, Held(vms), Now));
            }
        }

        public double Predict(string predictor, params string[] vms) => _book.Predict(Held(vms), PredictorSettings.Parse(predictor, Fold.P90)!, Limit, Now).Cpus;

        private static Reservation[] Held(string[] vms) => [.. vms.Select(vm => new Reservation(vm, 1, 2, 64, Vacated: false))];
    }

    /// <summary>With the same microVMs all the time it is the plain series of what they used of their limits, to the last digit.</summary>
    [Fact]
    public void Should_be_what_was_measured_where_nobody_came_or_left() =>
        Gen.Select(Gen.Int[0, 1_000_000], Gen.Int[1, 6], Gen.Int[30, 90]).Sample(
            (seed, count, slots) =>
            {
                var random = new Random(seed);
                var limits = Enumerable.Range(0, count).Select(_ => random.Next(1, 9)).ToArray();
                var own = limits.Select(_ => new UsageSeries()).ToArray();
                var (plain, machine) = (new UsageSeries(), new MachineSeries());
                for (var at = TimeSpan.Zero; at < slots * UsageSeries.Slot; at += Every)
                {
                    var used = limits.Select(limit => random.NextDouble() < 0.1 ? limit : limit * random.NextDouble() * 0.3).ToArray();
                    for (var i = 0; i < count; i++)
                        own[i].Add(used[i] / limits[i], at, at);
                    plain.Add(used.Sum() / limits.Sum(), at, at);
                    machine.Add(used.Sum(), limits.Sum(), at, at);
                }
                Consumer[] present = [.. limits.Zip(own, (limit, series) => new Consumer(limit, series))];
                foreach (var (fold, newest) in (ReadOnlySpan<(Fold, int)>)[(Fold.P90, UsageSeries.Kept), (Fold.Max, UsageSeries.Kept), (Fold.P90, 24)])
                {
                    var (expected, actual) = (new double[UsageSeries.Kept], new double[UsageSeries.Kept]);
                    var written = plain.CopyTo(expected, fold, newest);
                    Assert.True(written >= Math.Min(newest, slots) - 1);
                    Assert.Equal(written, machine.CopyTo(present, actual, fold, newest));
                    Assert.Equal(expected, actual);
                }
            },
            iter: 30);

    [Theory]
    [InlineData("peak:0.4:4")]
    [InlineData("sigma:5")]
    public void Should_fall_at_once_when_those_leave_that_were_busy(string predictor)
    {
        var trace = new Trace();
        trace.Run(TimeSpan.FromHours(6), ["a", "b", "c", "d"], (vm, at) => vm is "a" or "b" ? 100u + (uint)(at % 3) : 1900);
        Assert.True(trace.Predict(predictor, "a", "b", "c", "d") > 3.9);
        Assert.InRange(trace.Predict(predictor, "a", "b"), 0.2, 0.4);
    }

    /// <summary>They are no idler than they were because those beside them were idle.</summary>
    [Theory]
    [InlineData("peak:0.4:4")]
    [InlineData("sigma:5")]
    public void Should_not_take_those_that_stay_for_idle_when_idle_ones_leave(string predictor)
    {
        var trace = new Trace();
        trace.Run(TimeSpan.FromHours(6), ["a", "b", "c", "d"], (vm, at) => vm is "a" or "b" ? 1500u + (uint)(at % 3) : 0);
        Assert.InRange(trace.Predict(predictor, "a", "b"), 3, 4);
    }

    /// <summary>Bursts that do not meet: the percentiles of each are nothing, that of their sum is not.</summary>
    [Fact]
    public void Should_not_add_up_percentiles_of_bursts()
    {
        string[] bursty = [.. Enumerable.Range(0, 10).Select(i => $"{i}")];
        var trace = new Trace();
        trace.Run(TimeSpan.FromHours(3), [.. bursty, "idle"], (vm, at) => vm == $"{at % 30 / 3}" ? 2000u : 0);
        Assert.Equal(2, trace.Predict("peak:0", bursty), 3);
    }

    /// <summary>Whoever leaves: by the peak alone what is predicted of the others is at least what they used, and no more than before.</summary>
    [Fact]
    public void Should_stay_above_what_those_used_that_stay() =>
        Gen.Select(Gen.Int[0, 1_000_000], Gen.Int[2, 6]).Sample(
            (seed, count) =>
            {
                string[] vms = [.. Enumerable.Range(0, count).Select(i => $"{i}")];
                var stay = vms[..(count / 2)];
                var random = new Random(seed);
                var levels = vms.ToDictionary(vm => vm, _ => random.Next(0, 1500));
                var trace = new Trace();
                var used = new List<(int Sample, uint Millis)>();
                trace.Run(TimeSpan.FromHours(3), vms, (vm, at) =>
                {
                    var millis = (uint)(random.NextDouble() < 0.1 ? 2000 : random.Next(0, levels[vm] + 1));
                    if (stay.Contains(vm))
                        used.Add((at, millis));
                    return millis;
                });
                var peak = used.GroupBy(one => one.Sample).Select(sample => (Slot: sample.Key / 30, Sum: sample.Sum(one => one.Millis / 1000.0)))
                    .GroupBy(one => one.Slot).Where(slot => slot.Key < UsageSeries.SlotOf(trace.Now))
                    .Max(slot => slot.OrderBy(one => one.Sum).ElementAt((int)Math.Ceiling(0.9 * slot.Count()) - 1).Sum);
                Assert.InRange(trace.Predict("peak:0", stay), peak - 1e-9, trace.Predict("peak:0", vms) + 1e-3);
            },
            iter: 30);

    /// <summary>A host that was idle for a day is not idle for another one when busy ones came, nor the other way round.</summary>
    [Theory]
    [InlineData(0, 1800)]
    [InlineData(1800, 0)]
    public void Should_count_newcomers_at_their_limit_and_then_at_what_they_use(int before, int after)
    {
        string[] old = ["a", "b"];
        string[] all = [.. old, "c", "d"];
        uint Millis(string vm) => (uint)(vm is "a" or "b" ? before : after);
        var trace = new Trace();
        trace.Run(TimeSpan.FromHours(20), old, (vm, _) => Millis(vm));
        trace.Run(TimeSpan.FromMinutes(110), all, (vm, _) => Millis(vm));
        Assert.Equal(4 + (2 * before / 1000.0), trace.Predict("peak:0", all), 2);
        trace.Run(TimeSpan.FromMinutes(20), all, (vm, _) => Millis(vm));
        Assert.Equal(3.6, trace.Predict("peak:0", all), 2);
        // Its mean too is of these four, and not of what the host was.
        Assert.Equal(3.6, trace.Predict("sigma:0", all), 2);
    }

    /// <summary>The history of a population is as long as most of it was seen, and so is the margin.</summary>
    [Fact]
    public void Should_go_by_the_time_in_which_half_of_them_were_there()
    {
        string[] all = ["a", "b", "c", "d"];
        var trace = new Trace();
        trace.Run(TimeSpan.FromHours(20), ["a"], (_, _) => 400);
        trace.Run(TimeSpan.FromMinutes(120), all, (_, _) => 400);
        Assert.InRange(trace.Predict("peak:1", all), 3.1, 3.3);
    }
}
