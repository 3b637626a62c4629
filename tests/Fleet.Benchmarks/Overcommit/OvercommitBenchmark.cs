using Fleet.Scheduler.Prediction;

namespace Fleet.Benchmarks.Overcommit;

/// <summary>
/// <c>fleet bench overcommit</c>: hosts of 32 microVMs each, drawn from a trace. At every five minutes of the day each predictor says what all of
/// them will use at once at most, and an oracle what they do use in the rest of the day. Saved is the sum of limits less that; a violation
/// is a prediction below the oracle's. Measured from the end of the warm-up on, and over the whole day besides. Once with microVMs that stay
/// for the day, and once with some that come and go: a prediction, and the oracle, are of those that are there, as long as each of them is.
/// </summary>
internal static class OvercommitBenchmark
{
    private static readonly string[] Others =
    [
        "factor:0.9", "percentile:95", "percentile:99", "percentile:100:1.1", "sigma:3", "sigma:5", "sigma:5:2", "sigma:8", "sigma:8:6",
        "sigma:5,percentile:99", "peak:0", "peak:0.65", "peak:0.4:4",
    ];

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        IReadOnlyList<UsageTrace> traces;
        if (options.Traces is { } folder)
            traces = UsageTrace.Read(folder, options.Number("choosing", 0) != 0);
        else
        {
            Console.Error.WriteLine("fleet bench: no traces were given (--traces FOLDER); the curves are made up, and the figures say nothing of real use");
            traces = UsageTrace.Generate(options.Number("seed", 1));
        }
        return [.. traces.SelectMany(trace => Measure(trace, trace.Name, Residents.Staying(trace)).Concat(Measure(trace, $"{trace.Name}_churn", Residents.Changing(trace))))];
    }

    private static IEnumerable<Measurement> Measure(UsageTrace trace, string metric, IReadOnlyList<IReadOnlyList<Resident>> hosts)
    {
        var shipped = trace.IsMemory ? PredictorSettings.DefaultMemory : PredictorSettings.DefaultCpu;
        var names = new[] { shipped }.Concat(Others.Where(other => other != shipped)).ToArray();
        if (hosts.Count == 0)
            throw new BenchmarkException($"{trace.Name} has fewer than {Residents.PerHost} microVMs");
        // The last is the default's again, of those alone that are past their warm-up.
        var sums = names.Append(shipped).Select(_ => new Sum()).ToArray();
        Parallel.ForEach(hosts, host => Play(host, names, trace.IsMemory ? Fold.Max : Fold.P90, sums));

        yield return new($"{metric}_hosts", hosts.Count, "");
        yield return new($"{metric}_new", sums[0].New / sums[0].Times, "of limits");
        yield return new($"{metric}_oracle_saved", sums[0].OracleSaved / sums[0].Times, "of limits");
        for (var i = 0; i < names.Length; i++)
        {
            var name = i == 0 ? metric : $"{metric}[{names[i]}]";
            yield return new($"{name}_saved_of_oracle", sums[i].Saved / sums[i].OracleSaved, "");
            yield return new($"{name}_violation_rate", (double)sums[i].Violations / sums[i].Times, "");
            yield return new($"{name}_severity", sums[i].Violations == 0 ? 0 : sums[i].Severity / sums[i].Violations, "of the peak");
            if (i == 0)
                yield return new($"{name}_saved_of_oracle_whole_day", sums[i].DaySaved / sums[i].DayOracleSaved, "");
        }
        yield return new($"{metric}_known_saved_of_oracle", sums[^1].Saved / sums[^1].OracleSaved, "");
        yield return new($"{metric}_known_violation_rate", (double)sums[^1].Violations / sums[^1].Times, "");
    }

    private static void Play(IReadOnlyList<Resident> residents, string[] names, Fold fold, Sum[] sums)
    {
        var predictors = names.Select(name => PredictorSettings.Parse(name, fold) ?? throw new InvalidOperationException(name)).ToArray();
        var machine = new MachineSeries();
        var series = residents.Select(_ => new UsageSeries()).ToArray();
        var own = sums.Select(_ => new Sum()).ToArray();
        for (var at = 0; at < UsageTrace.Samples - 1; at++)
        {
            var used = 0.0;
            for (var i = 0; i < residents.Count; i++)
            {
                if (!residents[i].IsThereAt(at))
                    continue;
                used += residents[i].Curve[at];
                series[i].Put(at, residents[i].Curve[at], residents[i].Curve[at]);
            }
            machine.Put(at, used / Residents.PerHost, Residents.PerHost);

            // Asked when the sample is over, by when some have ended and others begun.
            var there = new List<Resident>(Residents.PerHost);
            var consumers = new List<Consumer>(Residents.PerHost);
            for (var i = 0; i < residents.Count; i++)
            {
                if (!residents[i].IsThereAt(at + 1))
                    continue;
                there.Add(residents[i]);
                consumers.Add(new Consumer(1, series[i]));
            }
            var use = new ResourceUse(consumers, machine, UsageSeries.Slot * (at + 1));
            var known = Enumerable.Range(0, there.Count).Where(i => use.IsWarm(consumers[i])).ToList();
            var (peak, unknown, isWarm) = (Peak(there, at + 1), 1 - (known.Count / (double)there.Count), at + 1 >= UsageSeries.WarmUp);
            for (var i = 0; i < predictors.Length; i++)
                own[i].Add(predictors[i].Predict(use), peak, there.Count, unknown, isWarm);
            if (known.Count > 0)
                own[^1].Add(predictors[0].Predict(use with { Consumers = [.. known.Select(i => consumers[i])] }), Peak([.. known.Select(i => there[i])], at + 1), known.Count, 0, isWarm);
        }
        for (var i = 0; i < sums.Length; i++)
        {
            lock (sums[i])
                sums[i].Add(own[i]);
        }
    }

    /// <summary>The oracle's: what these use at once at most from then on, each until it ends.</summary>
    private static double Peak(List<Resident> there, int from)
    {
        Span<double> used = stackalloc double[UsageTrace.Samples];
        used.Clear();
        foreach (var one in there)
        {
            for (var at = from; at < one.Until; at++)
                used[at] += one.Curve[at];
        }
        var peak = 0.0;
        foreach (var then in used)
            peak = Math.Max(peak, then);
        return peak;
    }

    private sealed class Sum
    {
        public long Times { get; private set; }
        public long Violations { get; private set; }
        public double Saved { get; private set; }
        public double OracleSaved { get; private set; }
        public double Severity { get; private set; }
        public double DaySaved { get; private set; }
        public double DayOracleSaved { get; private set; }

        /// <summary>In their warm-up, of the limits.</summary>
        public double New { get; private set; }

        public void Add(double predicted, double peak, double limits, double unknown, bool isWarm)
        {
            DaySaved += 1 - (predicted / limits);
            DayOracleSaved += 1 - (peak / limits);
            if (!isWarm)
                return;
            Times++;
            New += unknown;
            Saved += 1 - (predicted / limits);
            OracleSaved += 1 - (peak / limits);
            if (predicted < peak)
            {
                Violations++;
                Severity += (peak - predicted) / peak;
            }
        }

        public void Add(Sum other)
        {
            Times += other.Times;
            Violations += other.Violations;
            Saved += other.Saved;
            OracleSaved += other.OracleSaved;
            Severity += other.Severity;
            DaySaved += other.DaySaved;
            DayOracleSaved += other.DayOracleSaved;
            New += other.New;
        }
    }
}
