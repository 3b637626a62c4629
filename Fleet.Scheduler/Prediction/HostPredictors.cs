namespace Fleet.Scheduler.Prediction;

/// <summary>The predictors of one host. What they made of a series is remembered with it, so they stay the same as long as the terms do.</summary>
internal sealed record HostPredictors(PredictionTerms Terms, IPeakPredictor Cpu, IPeakPredictor Memory)
{
    /// <summary>Of terms that have no <see cref="PredictionTerms.FirstProblem"/>.</summary>
    public static HostPredictors Of(PredictionTerms terms) =>
        new(terms, PredictorSettings.Parse(terms.Cpu, Fold.P90)!, PredictorSettings.Parse(terms.Memory, Fold.Max)!);
}
