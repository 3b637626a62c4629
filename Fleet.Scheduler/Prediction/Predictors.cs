namespace Fleet.Scheduler.Prediction;

/// <summary>One microVM's part of one resource.</summary>
/// <param name="Limit">What it may use.</param>
/// <param name="Series">What it used of that; null: nothing is known.</param>
public readonly record struct Consumer(double Limit, UsageSeries? Series);

/// <summary>One resource of one host, as predictors see it.</summary>
/// <param name="Consumers">Everybody who has a reservation.</param>
/// <param name="Machine">What all that were there at a time used together.</param>
/// <param name="Now">On the series' clock.</param>
public sealed record ResourceUse(IReadOnlyList<Consumer> Consumers, MachineSeries Machine, TimeSpan Now)
{
    /// <summary>The sum of all limits.</summary>
    public double Limits
    {
        get
        {
            var sum = 0.0;
            foreach (var consumer in Consumers)
                sum += consumer.Limit;
            return sum;
        }
    }

    /// <summary>Whether the consumer has history enough; without, it counts as at its limit.</summary>
    public bool IsWarm(Consumer consumer) => consumer.Series is { } series && series.IsWarm(Now);
}

/// <summary>Estimates how much all of a host's microVMs will use at once at most. Never above the sum of limits.</summary>
public interface IPeakPredictor
{
    double Predict(ResourceUse use);
}

/// <summary>The sum of limits: no oversubscription.</summary>
internal sealed class LimitPredictor : IPeakPredictor
{
    public double Predict(ResourceUse use) => use.Limits;
}

/// <summary>A fixed share of the sum of limits.</summary>
internal sealed class FactorPredictor(double factor) : IPeakPredictor
{
    public double Predict(ResourceUse use) => use.Limits * factor;
}

/// <summary>Each microVM by itself, a percentile of its own history times a margin: as if all their peaks came together.</summary>
/// <param name="percentile">Above 0, at most 100: its peak.</param>
/// <param name="margin">At least 1.</param>
internal sealed class VmPercentilePredictor(double percentile, double margin, Fold fold) : IPeakPredictor
{
    public double Predict(ResourceUse use)
    {
        var sum = 0.0;
        foreach (var consumer in use.Consumers)
            sum += consumer.Limit * (use.IsWarm(consumer) ? consumer.Series!.Memo(this, Share) : 1);
        return sum;
    }

    private double Share(UsageSeries series)
    {
        Span<double> history = stackalloc double[UsageSeries.Kept];
        history = history[..series.CopyTo(history, fold)];
        history.Sort();
        return Math.Min(1, margin * Statistics.Percentile(history, percentile));
    }
}

/// <summary>What the machine's own series tells: peaks that do not come together are not added up. Who has no history counts as at its limit.</summary>
internal abstract class MachinePredictor(Fold fold, int slots = UsageSeries.Kept) : IPeakPredictor
{
    public double Predict(ResourceUse use)
    {
        if (!use.Machine.IsWarm(use.Now))
            return use.Limits;
        double warm = 0, cold = 0;
        var known = new List<Consumer>(use.Consumers.Count);
        foreach (var consumer in use.Consumers)
        {
            if (use.IsWarm(consumer))
            {
                warm += consumer.Limit;
                known.Add(consumer);
            }
            else
            {
                cold += consumer.Limit;
            }
        }
        if (warm == 0)
            return cold;
        Span<double> history = stackalloc double[UsageSeries.Kept];
        history = history[..use.Machine.CopyTo(known, history, fold, slots)];
        return cold + (warm * (history.IsEmpty ? 1 : Math.Min(1, Share(history))));
    }

    /// <summary>The peak of what those with history use, as a share of their limits.</summary>
    /// <param name="history">Not empty; oldest first.</param>
    protected abstract double Share(ReadOnlySpan<double> history);
}

/// <summary>
/// Mean and <paramref name="sigmas"/> standard deviations of the machine's history. Of a few slots the deviation says nothing: with fewer than half of <paramref name="slots"/>
/// and than the warm-up's they count as at their limits.
/// </summary>
internal sealed class SigmaPredictor(double sigmas, Fold fold, int slots = UsageSeries.Kept) : MachinePredictor(fold, slots)
{
    private readonly int _least = Math.Min(UsageSeries.WarmUp, slots / 2);

    protected override double Share(ReadOnlySpan<double> history)
    {
        if (history.Length < _least)
            return 1;
        var (mean, deviation) = Statistics.MeanAndDeviation(history);
        return mean + (sigmas * deviation);
    }
}

/// <summary>
/// The machine's peak so far, and above it a margin that shrinks as the history grows: after two hours most of a day's peak is still to come,
/// after a day hardly any. Peak + (<paramref name="margin"/> * peak + <paramref name="sigmas"/> * standard deviation) * sqrt(warm-up / slots seen).
/// </summary>
internal sealed class MachinePeakPredictor(double margin, double sigmas, Fold fold) : MachinePredictor(fold)
{
    protected override double Share(ReadOnlySpan<double> history)
    {
        var peak = 0.0;
        foreach (var share in history)
            peak = Math.Max(peak, share);
        var deviation = Statistics.MeanAndDeviation(history).Deviation;
        return peak + (((margin * peak) + (sigmas * deviation)) * Math.Sqrt((double)UsageSeries.WarmUp / history.Length));
    }
}

/// <summary>The largest of what several say.</summary>
internal sealed class MaxPredictor(IReadOnlyList<IPeakPredictor> predictors) : IPeakPredictor
{
    public double Predict(ResourceUse use) => predictors.Max(predictor => predictor.Predict(use));
}

internal static class Statistics
{
    /// <summary>Between the two nearest ranks, in proportion.</summary>
    /// <param name="sorted">Not empty.</param>
    /// <param name="percentile">0 to 100.</param>
    public static double Percentile(ReadOnlySpan<double> sorted, double percentile)
    {
        var rank = percentile / 100 * (sorted.Length - 1);
        var below = (int)Math.Floor(rank);
        var above = Math.Min(below + 1, sorted.Length - 1);
        return sorted[below] + ((rank - below) * (sorted[above] - sorted[below]));
    }

    /// <summary>Of a sample, not of a population: divided by one less.</summary>
    public static (double Mean, double Deviation) MeanAndDeviation(ReadOnlySpan<double> values)
    {
        var mean = 0.0;
        foreach (var value in values)
            mean += value / values.Length;
        var squares = 0.0;
        foreach (var value in values)
            squares += (value - mean) * (value - mean);
        return (mean, values.Length < 2 ? 0 : Math.Sqrt(squares / (values.Length - 1)));
    }
}
