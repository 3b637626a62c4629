namespace Fleet.Benchmarks.Overcommit;

/// <summary>One microVM of a host, for some five-minute samples of the day.</summary>
/// <param name="Curve">What it uses, by the time of the day.</param>
/// <param name="From">The first of its samples.</param>
/// <param name="Until">The first that is not its any more.</param>
internal sealed record Resident(double[] Curve, int From, int Until)
{
    public bool IsThereAt(int at) => From <= at && at < Until;
}

/// <summary>Hosts of equally many microVMs at any time, drawn from a trace at random; the same in every run.</summary>
internal static class Residents
{
    public const int PerHost = 32;

    private const int Shuffles = 6;

    /// <summary>Five-minute samples: six hours.</summary>
    private const double MeanLife = 72;

    /// <summary>Everybody stays for the whole day.</summary>
    public static IReadOnlyList<IReadOnlyList<Resident>> Staying(UsageTrace trace) =>
        [.. Draw(trace).Select(host => host.First.Select(curve => new Resident(curve, 0, UsageTrace.Samples)).ToList())];

    /// <summary>Lives are exponentially distributed, in whole samples, and who ends is followed at once by another one of that day, new to the host's predictors.</summary>
    public static IReadOnlyList<IReadOnlyList<Resident>> Changing(UsageTrace trace) =>
        [.. Draw(trace).Select((host, number) => Replaced(host.First, host.Day, new Random(1000 + number)))];

    private static IEnumerable<(double[][] First, IReadOnlyList<double[]> Day)> Draw(UsageTrace trace)
    {
        for (var seed = 0; seed < Shuffles; seed++)
        {
            var random = new Random(seed);
            foreach (var day in trace.Days)
            {
                var order = day.ToArray();
                random.Shuffle(order);
                foreach (var host in order.Chunk(PerHost).Where(host => host.Length == PerHost))
                    yield return (host, day);
            }
        }
    }

    private static List<Resident> Replaced(double[][] first, IReadOnlyList<double[]> day, Random random)
    {
        var all = new List<Resident>();
        var there = first.Select(curve => Begin(curve, 0)).ToArray();
        for (var at = 1; at < UsageTrace.Samples; at++)
        {
            for (var i = 0; i < there.Length; i++)
            {
                if (there[i].Until == at)
                    there[i] = Begin(Other(), at);
            }
        }
        return all;

        Resident Begin(double[] curve, int from)
        {
            var life = Math.Ceiling(-Math.Log(1 - random.NextDouble()) * MeanLife);
            var one = new Resident(curve, from, (int)Math.Min(UsageTrace.Samples, from + Math.Max(1, life)));
            all.Add(one);
            return one;
        }

        // Nobody is there twice at once: the same peak twice would be no two microVMs'.
        double[] Other()
        {
            double[] curve;
            do
                curve = day[random.Next(day.Count)];
            while (there.Any(one => ReferenceEquals(one.Curve, curve)));
            return curve;
        }
    }
}
