using Fleet.Scheduler.Prediction;

namespace Fleet.Benchmarks.Overcommit;

/// <summary>
/// <c>fleet bench overcommit</c>: hosts of 32 microVMs each, drawn from a trace. At every five minutes of the day each predictor says what all of
/// them will use at once at most, and an oracle what they do use in the rest of the day. Saved is the sum of limits less that; a violation
/// is a prediction below the oracle's. Measured from the end of the warm-up on, and over the whole day besides.
/// </summary>
internal static class OvercommitBenchmark
{
    private const int MicroVmsPerHost = 32;
    private const int Shuffles = 6;

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
        return [.. traces.SelectMany(Measure)];
    }

    private static IEnumerable<Measurement> Measure(UsageTrace trace)
    {
        var shipped = trace.IsMemory ? PredictorSettings.DefaultMemory : PredictorSettings.DefaultCpu;
        var names = new[] { shipped }.Concat(Others.Where(other => other != shipped)).ToArray();
        var hosts = Hosts(trace);
        if (hosts.Count == 0)
            throw new BenchmarkException($"{trace.Name} has fewer than {MicroVmsPerHost} microVMs");
        var sums = names.Select(_ => new Sum()).ToArray();
        Parallel.ForEach(hosts, host => Play(host, names, trace.IsMemory ? Fold.Max : Fold.P90, sums));

        yield return new($"{trace.Name}_hosts", hosts.Count, "");
        yield return new($"{trace.Name}_oracle_saved", sums[0].OracleSaved / sums[0].Times, "of limits");
        for (var i = 0; i < names.Length; i++)
        {
            var name = i == 0 ? trace.Name : $"{trace.Name}[{names[i]}]";
            yield return new($"{name}_saved_of_oracle", sums[i].Saved / sums[i].OracleSaved, "");
            yield return new($"{name}_violation_rate", (double)sums[i].Violations / sums[i].Times, "");
            yield return new($"{name}_severity", sums[i].Violations == 0 ? 0 : sums[i].Severity / sums[i].Violations, "of the peak");
            if (i == 0)
                yield return new($"{name}_saved_of_oracle_whole_day", sums[i].DaySaved / sums[i].DayOracleSaved, "");
        }
    }

    private static List<double[][]> Hosts(UsageTrace trace)
    {
        var hosts = new List<double[][]>();
        for (var seed = 0; seed < Shuffles; seed++)
        {
            var random = new Random(seed);
            foreach (var day in trace.Days)
            {
                var order = day.ToArray();
                random.Shuffle(order);
                hosts.AddRange(order.Chunk(MicroVmsPerHost).Where(host => host.Length == MicroVmsPerHost));
            }
        }
        return hosts;
    }

    private static void Play(double[][] curves, string[] names, Fold fold, Sum[] sums)
    {
        var predictors = names.Select(name => PredictorSettings.Parse(name, fold) ?? throw new InvalidOperationException(name)).ToArray();
        var machine = new MachineSeries();
        var consumers = curves.Select(_ => new Consumer(1, new UsageSeries())).ToArray();
        var used = Enumerable.Range(0, UsageTrace.Samples).Select(at => curves.Sum(curve => curve[at])).ToArray();
        var rest = new double[UsageTrace.Samples];
        for (var at = UsageTrace.Samples - 2; at >= 0; at--)
            rest[at] = Math.Max(rest[at + 1], used[at + 1]);

        var own = names.Select(_ => new Sum()).ToArray();
        for (var at = 0; at < UsageTrace.Samples - 1; at++)
        {
            machine.Put(at, used[at] / curves.Length, curves.Length);
            for (var i = 0; i < curves.Length; i++)
                consumers[i].Series!.Put(at, curves[i][at], curves[i][at]);
            var use = new ResourceUse(consumers, machine, UsageSeries.Slot * (at + 1));
            for (var i = 0; i < predictors.Length; i++)
                own[i].Add(predictors[i].Predict(use), rest[at], curves.Length, at + 1 >= UsageSeries.WarmUp);
        }
        for (var i = 0; i < sums.Length; i++)
        {
            lock (sums[i])
                sums[i].Add(own[i]);
        }
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

        public void Add(double predicted, double peak, double limits, bool isWarm)
        {
            DaySaved += 1 - (predicted / limits);
            DayOracleSaved += 1 - (peak / limits);
            if (!isWarm)
                return;
            Times++;
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
        }
    }
}
