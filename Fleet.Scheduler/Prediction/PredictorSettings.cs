using System.Globalization;

namespace Fleet.Scheduler.Prediction;

/// <summary>Predictors by their text, as settings name them: <c>peak:0.4:4</c>, or several of which the largest counts: <c>sigma:5,percentile:99</c>.</summary>
public static class PredictorSettings
{
    /// <summary>For CPU.</summary>
    public const string DefaultCpu = "peak:0.4:4";

    /// <summary>For memory, which can't wait: each microVM's own peak and a tenth.</summary>
    public const string DefaultMemory = "percentile:100:1.1";

    /// <summary>What may be written.</summary>
    public const string Grammar = "limit, factor:SHARE, percentile:P[:MARGIN], sigma:N[:HOURS], peak:MARGIN[:N], or several with commas between them, of which the largest counts";

    private const int Most = 4;
    private const int SlotsPerHour = 12;

    /// <summary>Null when the text is none.</summary>
    /// <param name="text">See <see cref="Grammar"/>.</param>
    /// <param name="fold">Which figure of a slot counts.</param>
    public static IPeakPredictor? Parse(string text, Fold fold)
    {
        ArgumentNullException.ThrowIfNull(text);
        var parts = text.Split(',');
        if (parts.Length > Most)
            return null;
        var predictors = new List<IPeakPredictor>();
        foreach (var part in parts)
        {
            if (One(part.Trim().Split(':'), fold) is not { } predictor)
                return null;
            predictors.Add(predictor);
        }
        return predictors.Count == 1 ? predictors[0] : new MaxPredictor(predictors);
    }

    private static IPeakPredictor? One(string[] words, Fold fold)
    {
        Span<double> numbers = stackalloc double[2];
        if (words.Length > 3)
            return null;
        for (var i = 1; i < words.Length; i++)
        {
            if (!double.TryParse(words[i], NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out numbers[i - 1]))
                return null;
        }
        return (words[0], words.Length - 1) switch
        {
            ("limit", 0) => new LimitPredictor(),
            ("factor", 1) when numbers[0] is > 0 and <= 1 => new FactorPredictor(numbers[0]),
            ("percentile", 1) when numbers[0] is > 0 and <= 100 => new VmPercentilePredictor(numbers[0], 1, fold),
            ("percentile", 2) when numbers[0] is > 0 and <= 100 && numbers[1] is >= 1 and <= 10 => new VmPercentilePredictor(numbers[0], numbers[1], fold),
            ("sigma", 1) when numbers[0] is >= 0 and <= 100 => new SigmaPredictor(numbers[0], fold),
            ("sigma", 2) when numbers[0] is >= 0 and <= 100 && numbers[1] is >= 2 and <= 24 => new SigmaPredictor(numbers[0], fold, (int)(numbers[1] * SlotsPerHour)),
            ("peak", 1) when numbers[0] is >= 0 and <= 10 => new MachinePeakPredictor(numbers[0], 0, fold),
            ("peak", 2) when numbers[0] is >= 0 and <= 10 && numbers[1] is >= 0 and <= 100 => new MachinePeakPredictor(numbers[0], numbers[1], fold),
            _ => null,
        };
    }
}
