using CsCheck;
using Fleet.Scheduler.Prediction;
using Xunit;

namespace Fleet.Scheduler.Tests.Prediction;

public sealed class UsageSeriesTests
{
    private static readonly TimeSpan Every = TimeSpan.FromSeconds(10);

    private static double[] Read(UsageSeries series, Fold fold, int slots = UsageSeries.Kept)
    {
        var into = new double[UsageSeries.Kept];
        return into[..series.CopyTo(into, fold, slots)];
    }

    private static void Fill(UsageSeries series, long slot, params double[] shares)
    {
        for (var i = 0; i < shares.Length; i++)
        {
            var at = (UsageSeries.Slot * slot) + (Every * i);
            Assert.True(series.Add(shares[i], at, at));
        }
    }

    private static double[] Samples(Func<int, double> share, int count = 30) => [.. Enumerable.Range(0, count).Select(share)];

    [Fact]
    public void Should_fold_a_slot_to_its_90th_percentile_and_its_maximum()
    {
        var series = new UsageSeries();
        Fill(series, 5, Samples(i => (i + 1) / 100.0));
        Assert.Equal(0, series.Count); // it is not over
        series.Roll(UsageSeries.Slot * 6);
        Assert.Equal((1, 5L), (series.Count, series.Newest));
        Assert.Equal(0.27, Assert.Single(Read(series, Fold.P90)), 4);
        Assert.Equal(0.30, Assert.Single(Read(series, Fold.Max)), 4);
    }

    [Fact]
    public void Should_take_nothing_that_is_repeated_old_of_the_future_or_no_number()
    {
        var series = new UsageSeries();
        var at = TimeSpan.FromMinutes(10);
        Assert.False(series.Add(0.5, at + Every, at));
        Assert.False(series.Add(double.NaN, at, at));
        Assert.False(series.Add(double.PositiveInfinity, at, at));
        Assert.False(series.Add(0.5, TimeSpan.FromSeconds(-1), at));
        Assert.True(series.Add(0.5, at, at));
        Assert.False(series.Add(0.9, at, at + Every));
        Assert.False(series.Add(0.9, at + TimeSpan.FromSeconds(1), at + Every));
        Assert.False(series.Add(0.9, at - Every, at + Every));
        for (var i = 1; i < 30; i++)
            Assert.True(series.Add(0.5, at + (Every * i), at + (Every * i)));
        series.Roll(TimeSpan.FromMinutes(15));
        Assert.Equal(0.5, Assert.Single(Read(series, Fold.Max)), 4);
    }

    [Fact]
    public void Should_count_absurd_shares_as_the_limit_or_nothing()
    {
        var series = new UsageSeries();
        Fill(series, 0, Samples(i => i % 2 == 0 ? 1e30 : -7));
        series.Roll(UsageSeries.Slot);
        Assert.Equal(1.0, Assert.Single(Read(series, Fold.Max)));
        Assert.True(series.Count == 1 && series.Memo(this, s => Read(s, Fold.P90)[0]) == 1.0);
    }

    [Fact]
    public void Should_leave_out_slots_with_too_few_samples()
    {
        var series = new UsageSeries();
        Fill(series, 0, Samples(_ => 0.1));
        Fill(series, 1, Samples(_ => 0.9, UsageSeries.LeastSamples - 1));
        Fill(series, 2, Samples(_ => 0.2, UsageSeries.LeastSamples));
        series.Roll(UsageSeries.Slot * 3);
        Assert.Equal([0.1, 0.2], Read(series, Fold.Max).Select(share => Math.Round(share, 3)));
    }

    [Fact]
    public void Should_keep_a_day_and_forget_what_is_older_also_over_gaps()
    {
        var series = new UsageSeries();
        for (var slot = 0; slot < 400; slot++)
            series.Put(slot, slot / 1000.0, slot / 1000.0);
        Assert.Equal(UsageSeries.Kept, series.Count);
        Assert.Equal(0.112, Read(series, Fold.P90)[0], 3);
        Assert.Equal([0.398, 0.399], Read(series, Fold.P90, 2).Select(share => Math.Round(share, 3)));

        series.Put(500, 0.5, 0.5); // 100 slots are missing, and 100 more are too old
        Assert.Equal(UsageSeries.Kept - 100, series.Count);
        Assert.Equal(series.Count, Read(series, Fold.P90).Length);
        Assert.Equal(0.213, Read(series, Fold.P90)[0], 3);
        series.Put(5000, 0.7, 0.7);
        Assert.Equal(0.7, Assert.Single(Read(series, Fold.Max)), 4);
        series.Put(4999, 0.1, 0.1);
        Assert.Equal(1, series.Count);
    }

    [Fact]
    public void Should_be_warm_after_two_hours_and_no_more_when_it_speaks_of_the_past()
    {
        var series = new UsageSeries();
        TimeSpan At(int slot) => UsageSeries.Slot * slot;
        for (var slot = 0; slot < UsageSeries.WarmUp; slot++)
        {
            Assert.False(series.IsWarm(At(slot)));
            series.Put(slot, 0.1, 0.1);
        }
        Assert.True(series.IsWarm(At(UsageSeries.WarmUp)));
        Assert.True(series.IsWarm(At(UsageSeries.WarmUp + 2)));
        Assert.False(series.IsWarm(At(UsageSeries.WarmUp + 3)));
    }

    /// <summary>Whatever comes in whatever order, it holds what a plain list of the last day holds.</summary>
    [Fact]
    public void Should_hold_what_a_plain_list_of_the_last_day_holds() =>
        Gen.Select(Gen.Int[0, 40], Gen.Double[-1, 2]).Array[0, 300].Sample(
            steps =>
            {
                var series = new UsageSeries();
                var model = new SortedDictionary<long, double>();
                long slot = 0;
                foreach (var (ahead, share) in steps)
                {
                    slot += ahead;
                    series.Put(slot, share, share);
                    model.TryAdd(slot, Math.Clamp(share, 0, 1));
                }
                var kept = model.Where(pair => pair.Key > slot - UsageSeries.Kept).Select(pair => pair.Value).ToList();
                var read = Read(series, Fold.Max);
                Assert.Equal(kept.Count, series.Count);
                Assert.Equal(kept.Count, read.Length);
                for (var i = 0; i < read.Length; i++)
                    Assert.InRange(read[i], kept[i], kept[i] + 2e-5);
            },
            iter: 500);
}
