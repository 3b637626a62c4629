using System.Globalization;
using Fleet.Scheduler.Placement;

namespace Fleet.Scheduler.Simulation;

/// <summary>
/// Azure's arrivals of 2017, by five minutes: a line has the second and a letter for each VM, a bar behind each tenant's batch; another file of the same
/// shape has U (it ended) or C (it did not) and the number of the bin of its lifetime.
/// </summary>
internal static class AzureTrace
{
    private const int BinSeconds = 300;

    public static ArrivalTrace Read(string folder, int seed)
    {
        var flavours = Flavours(folder);
        var bins = Bins(folder);
        var random = new Random(seed);
        var needs = new List<Resources>();
        var times = new List<TraceEvent>();
        using var arrivals = Open(folder, "v1.dev.txt");
        using var lifetimes = Open(folder, "v1.dev.c2100000.txt");
        double? first = null;
        while (arrivals.Next() is { } line)
        {
            var (second, wants) = Words(arrivals, line);
            var (sameSecond, lives) = Words(lifetimes, lifetimes.Next() ?? throw lifetimes.Malformed($"missing; '{arrivals.Path}' has it"));
            if (sameSecond != second || lives.Length != wants.Length)
                throw lifetimes.Malformed($"not the same second and as many words as in '{arrivals.Path}'");
            first ??= second;
            for (var i = 0; i < wants.Length; i++)
            {
                var isBar = wants[i] is "|" or "";
                if (isBar != (lives[i] is "|" or ""))
                    throw lifetimes.Malformed($"its batches end elsewhere than in '{arrivals.Path}'");
                if (isBar)
                    continue;
                if (!flavours.TryGetValue(wants[i], out var size))
                    throw arrivals.Malformed($"'{wants[i]}' is no size of flav_map.txt");
                if (lives[i] is not ['U' or 'C', .. var digits] || !int.TryParse(digits, NumberStyles.None, CultureInfo.InvariantCulture, out var bin) || !bins.TryGetValue(bin, out var bounds))
                    throw lifetimes.Malformed($"'{lives[i]}' is not U or C with a number of v1.interval_map.txt");
                if (needs.Count == ArrivalTrace.MostVms)
                    throw new TraceException(TraceException.TooLarge, $"'{arrivals.Path}' has more than {ArrivalTrace.MostVms} microVMs.");
                // All of five minutes at once would be a load of its own kind; a bin of lifetimes is as wide as hours.
                var at = second - first.Value + (random.NextDouble() * BinSeconds);
                times.Add(new(at, needs.Count, true));
                if (lives[i][0] == 'U')
                    times.Add(new(at + bounds.From + (random.NextDouble() * (bounds.To + BinSeconds - bounds.From)), needs.Count, false));
                needs.Add(size);
            }
        }
        if (needs.Count == 0)
            throw arrivals.Malformed("there is none");
        return ArrivalTrace.OnMachines("azure_v1", needs, times);
    }

    private static Dictionary<string, Resources> Flavours(string folder)
    {
        var flavours = new Dictionary<string, Resources>(StringComparer.Ordinal);
        using var file = Open(folder, "flav_map.txt");
        while (file.Next() is { } line)
        {
            if (line.Split(' ') is not [var size, var letter] || size.Split(',') is not [var cores, var gib]
                || !long.TryParse(cores, NumberStyles.None, CultureInfo.InvariantCulture, out var cpus) || cpus is < 1 or > 10_000
                || !double.TryParse(gib, NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out var memory) || memory is not (> 0 and <= 1_000_000))
                throw file.Malformed("not vCPUs,GiB and a letter");
            flavours[letter] = new(cpus, (long)Math.Ceiling(memory * 1024));
        }
        return flavours;
    }

    private static Dictionary<int, (long From, long To)> Bins(string folder)
    {
        var bins = new Dictionary<int, (long From, long To)>();
        using var file = Open(folder, "v1.interval_map.txt");
        while (file.Next() is { } line)
        {
            if (line.Split(' ') is not [var text, var number]
                || !long.TryParse(text, NumberStyles.None, CultureInfo.InvariantCulture, out var second) || second > int.MaxValue
                || !int.TryParse(number, NumberStyles.None, CultureInfo.InvariantCulture, out var bin))
                throw file.Malformed("not a second and the number of its bin");
            bins[bin] = bins.TryGetValue(bin, out var known) ? (Math.Min(known.From, second), Math.Max(known.To, second)) : (second, second);
        }
        return bins;
    }

    private static (long Second, string[] Words) Words(TraceFile file, string line)
    {
        if (line.Split(' ') is not [var second, var words] || !long.TryParse(second, NumberStyles.None, CultureInfo.InvariantCulture, out var at) || at > int.MaxValue)
            throw file.Malformed("not a second and words with commas between them");
        return (at, words.Split(','));
    }

    private static TraceFile Open(string folder, string name)
    {
        var path = Path.Combine(folder, name);
        if (File.Exists(path + ".gz"))
            return new TraceFile(path + ".gz");
        return File.Exists(path)
            ? new TraceFile(path)
            : throw new TraceException(TraceException.NotFound, $"'{folder}' has no {name} or {name}.gz, as the folder of Azure's trace of 2017 has.");
    }
}
