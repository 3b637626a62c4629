using CsCheck;
using Fleet.Scheduler.Prediction;
using Xunit;

namespace Fleet.Scheduler.Tests.Prediction;

public sealed class PredictorTests
{
    private const int History = 48;
    private static readonly TimeSpan Now = UsageSeries.Slot * History;

    private static UsageSeries Series(Func<int, double> share, int slots = History)
    {
        var series = new UsageSeries();
        for (var slot = History - slots; slot < History; slot++)
            series.Put(slot, share(slot), share(slot));
        return series;
    }

    private static MachineSeries Machine(Func<int, double> share, double limits, int slots = History)
    {
        var machine = new MachineSeries();
        for (var slot = History - slots; slot < History; slot++)
            machine.Put(slot, share(slot), limits);
        return machine;
    }

    private static double Predict(string predictor, ResourceUse use) => PredictorSettings.Parse(predictor, Fold.P90)!.Predict(use);

    /// <summary>Two microVMs of limits 4 and 2 whose peaks never meet, one of limit 1 that is new.</summary>
    private static ResourceUse Use() => new(
        [
            new Consumer(4, Series(slot => slot % 2 == 0 ? 0.5 : 0.1)),
            new Consumer(2, Series(slot => slot % 2 == 0 ? 0.0 : 1.0)),
            new Consumer(1, Series(_ => 0.1, UsageSeries.WarmUp - 1)),
        ],
        Machine(slot => slot % 2 == 0 ? 2.0 / 6 : 2.4 / 6, limits: 6),
        Now);

    [Theory]
    [InlineData("limit", 7)]
    [InlineData("factor:0.9", 6.3)]
    [InlineData("percentile:100", (4 * 0.5) + (2 * 1.0) + 1)]
    [InlineData("percentile:50", (4 * 0.3) + (2 * 0.5) + 1)]
    [InlineData("percentile:100:1.5", (4 * 0.75) + 2 + 1)]
    [InlineData("sigma:0", 2.2 + 1)]
    [InlineData("peak:0", 2.4 + 1)]
    [InlineData("sigma:0,percentile:100", 5)]
    [InlineData("sigma:99", 7)]
    public void Should_compute_what_its_formula_says(string predictor, double expected) => Assert.Equal(expected, Predict(predictor, Use()), 3);

    [Fact]
    public void Should_add_standard_deviations_of_a_sample()
    {
        var deviation = Math.Sqrt(History * 0.2 * 0.2 / (History - 1)); // of the sum, 2.0 and 2.4 by turns
        Assert.Equal(2.2 + (3 * deviation) + 1, Predict("sigma:3", Use()), 3);
    }

    [Fact]
    public void Should_look_at_the_newest_hours_alone_where_asked()
    {
        static double Share(int slot) => slot < History - 24 ? 0.9 : 0.2;
        var use = new ResourceUse([new Consumer(10, Series(Share))], Machine(Share, limits: 10), Now);
        Assert.Equal(2, Predict("sigma:8:2", use), 3);
        Assert.True(Predict("sigma:8", use) > 9.9);
    }

    /// <summary>One slot has no deviation, and a few have little.</summary>
    [Theory]
    [InlineData("sigma:5", UsageSeries.WarmUp)]
    [InlineData("sigma:5:2", UsageSeries.WarmUp / 2)]
    public void Should_count_those_as_at_their_limits_whose_deviation_is_not_known(string predictor, int needed)
    {
        Consumer[] known = [new Consumer(10, Series(_ => 0.2, UsageSeries.WarmUp))];
        Assert.Equal(10, Predict(predictor, new ResourceUse(known, Gapped(needed - 1), Now)), 3);
        Assert.Equal(2, Predict(predictor, new ResourceUse(known, Gapped(needed), Now)), 3);

        // So many slots count that these were there in; in those before somebody else was.
        static MachineSeries Gapped(int slots)
        {
            var machine = new MachineSeries();
            for (var slot = 0; slot < History - UsageSeries.WarmUp; slot++)
                machine.Put(slot, 0.9, 10);
            for (var slot = History - slots; slot < History; slot++)
                machine.Put(slot, 0.2, 10);
            return machine;
        }
    }

    [Fact]
    public void Should_leave_less_margin_above_the_peak_the_longer_the_history()
    {
        double Of(int slots)
        {
            return Predict("peak:1", new ResourceUse([new Consumer(10, Series(_ => 0.2, slots))], Machine(_ => 0.2, 10, slots), Now));
        }
        Assert.Equal(4, Of(24), 2);
        Assert.Equal(2 * (1 + Math.Sqrt(0.5)), Of(48), 2);
    }

    [Fact]
    public void Should_leave_more_margin_above_a_peak_that_jumps()
    {
        var deviation = Math.Sqrt(History * 0.2 * 0.2 / (History - 1));
        Assert.Equal(2.4 + (((0.5 * 2.4) + (3 * deviation)) * Math.Sqrt(0.5)) + 1, Predict("peak:0.5:3", Use()), 3);
    }

    [Theory]
    [InlineData("peak:0.4:4")]
    [InlineData("sigma:5")]
    [InlineData("percentile:99")]
    public void Should_take_everybody_to_be_at_the_limit_without_history(string predictor)
    {
        var cold = Series(_ => 0.1, UsageSeries.WarmUp - 1);
        Assert.Equal(6, Predict(predictor, new ResourceUse([new Consumer(4, cold), new Consumer(2, null)], Machine(_ => 0.1, 4, UsageSeries.WarmUp - 1), Now)));
        var stale = Series(_ => 0.1);
        Assert.Equal(4, Predict(predictor, new ResourceUse([new Consumer(4, stale)], Machine(_ => 0.1, 4), Now + TimeSpan.FromHours(1))));
    }

    [Theory]
    [InlineData("")]
    [InlineData("limits")]
    [InlineData("limit:1")]
    [InlineData("factor")]
    [InlineData("factor:1.1")]
    [InlineData("factor:-1")]
    [InlineData("percentile:0")]
    [InlineData("percentile:99:0.9")]
    [InlineData("percentile:99:1:1")]
    [InlineData("sigma:NaN")]
    [InlineData("sigma:5:1")]
    [InlineData("peak:11")]
    [InlineData("peak:1:-1")]
    [InlineData("peak:0.7,")]
    [InlineData("limit,limit,limit,limit,limit")]
    public void Should_refuse_what_names_no_predictor(string text) => Assert.Null(PredictorSettings.Parse(text, Fold.P90));

    /// <summary>No history makes a prediction that is above the sum of limits, below zero or no number.</summary>
    [Fact]
    public void Should_stay_between_nothing_and_the_sum_of_limits() =>
        Gen.Select(Gen.Double[-1, 2].Array[24, 60], Gen.Double[0, 64].Array[1, 5]).Sample(
            (shares, limits) =>
            {
                var series = new UsageSeries();
                var machine = new MachineSeries();
                for (var i = 0; i < shares.Length; i++)
                {
                    series.Put(i, shares[i], shares[i]);
                    machine.Put(i, shares[i], limits[0] + 1e-3);
                }
                var use = new ResourceUse([.. limits.Select(limit => new Consumer(limit, series))], machine, UsageSeries.Slot * shares.Length);
                foreach (var predictor in (string[])[PredictorSettings.DefaultCpu, PredictorSettings.DefaultMemory, "sigma:8", "percentile:95", "factor:0.5"])
                    Assert.InRange(Predict(predictor, use), 0, limits.Sum() + 1e-9);
            },
            iter: 500);
}
