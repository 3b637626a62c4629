using Fleet.Scheduler.Hosts;
using Fleet.Scheduler.Prediction;

namespace Fleet.Scheduler.Placement;

/// <summary>A microVM that can be made to give way.</summary>
/// <param name="VmId">The microVM.</param>
/// <param name="Rank">Of its class: those of lower rank go first.</param>
/// <param name="Gives">What it gives back.</param>
public readonly record struct Preemptible(string VmId, int Rank, Resources Gives)
{
    /// <summary>What is predicted of it alone; at most what it gives back.</summary>
    public PeakUse Frees { get; init; }

    internal long Cpus => Gives.Cpus;

    internal long MemoryMib => Gives.MemoryMib;
}

/// <summary>
/// Which microVMs give way to one of a higher class: the fewest that make enough room, of classes as low as will do, and of as many such sets one that
/// takes little more than is short. Exact in the number, by dynamic programming over how many give way and how many vCPUs that frees, where CPU and memory are
/// all that is short; where it is disk, network or disk operations, or what is predicted falls by less than the limits, those go first that help most.
/// </summary>
public static class Preemption
{
    /// <summary>One that needs more of them than this to give way waits instead.</summary>
    public const int Most = 16;

    /// <summary>A chain of chosen ones, the last first.</summary>
    private sealed record Chosen(Preemptible One, Chosen? Before, long MemoryMib);

    /// <summary>What is missing of what is predicted and no more than this is missing by rounding alone. Less than the forecast's own, which has the last word.</summary>
    private const double Rounding = PeakForecast.Rounding / 10;

    /// <summary>What is short: of the caps on the sum of limits, and of what may be predicted. At most 0: nothing.</summary>
    private readonly record struct Shortage(Resources Limits, PeakUse Peak)
    {
        public bool IsNone => Limits.FitsIn(default) && IsForeseen;

        /// <summary>Nothing of what may be predicted is short.</summary>
        public bool IsForeseen => Peak is { Cpus: <= Rounding, MemoryMib: <= Rounding };

        public Shortage Without(in Preemptible one) => new(Limits - one.Gives, new(Peak.Cpus - one.Frees.Cpus, Peak.MemoryMib - one.Frees.MemoryMib));

        public Shortage With(in Preemptible one) => new(Limits + one.Gives, new(Peak.Cpus + one.Frees.Cpus, Peak.MemoryMib + one.Frees.MemoryMib));

        /// <summary>How much of it somebody makes good, by the shares of each.</summary>
        public double Help(in Preemptible one)
        {
            var help = Share(one.Frees.Cpus, Peak.Cpus) + Share(one.Frees.MemoryMib, Peak.MemoryMib);
            for (var kind = 0; kind < Resources.Kinds; kind++)
                help += Share(one.Gives[kind], Limits[kind]);
            return help;
        }

        private static double Share(double gives, double missing) => missing > Rounding ? Math.Min(1, gives / missing) : 0;
    }

    /// <summary>Those that give way; empty: nobody has to; null: no set of at most <see cref="Most"/> makes enough room.</summary>
    /// <param name="there">All that the host carries and that could give way.</param>
    /// <param name="rank">Of the class for which room is wanted: only lower ones give way.</param>
    /// <param name="missing">What is missing of the caps; at most 0: nothing.</param>
    /// <param name="missingPeak">What is missing of what may be predicted; at most 0: nothing.</param>
    public static IReadOnlyList<Preemptible>? Choose(IReadOnlyCollection<Preemptible> there, int rank, in Resources missing, PeakUse missingPeak = default)
    {
        ArgumentNullException.ThrowIfNull(there);
        var shortage = new Shortage(missing, missingPeak);
        if (shortage.IsNone)
            return [];
        var isOther = missing is not { DiskMib: <= 0, NetworkMbit: <= 0, Iops: <= 0 };
        // Nobody frees more than its limit: with less than that no set is enough.
        var (cpus, memoryMib) = (Least(missing.Cpus, missingPeak.Cpus), Least(missing.MemoryMib, missingPeak.MemoryMib));
        for (var highest = 0; highest < rank; highest++)
        {
            var lower = there.Where(one => one.Rank <= highest).ToList();
            if (!isOther)
            {
                if (Fewest(lower, cpus, memoryMib) is not { } set)
                    continue;
                if (Left(shortage, set).IsForeseen)
                    return Trim(set, lower, cpus, memoryMib, missingPeak);
            }
            if (Helpful(lower, shortage) is not { } helpful)
                continue;
            return isOther ? helpful : Needed(Trim(helpful, lower, cpus, memoryMib, missingPeak), shortage);
        }
        return null;
    }

    private static long Least(long missing, double missingPeak) => Math.Max(Math.Max(0, missing), (long)Math.Ceiling(missingPeak - Rounding));

    private static Shortage Left(Shortage shortage, List<Preemptible> set) => set.Aggregate(shortage, (left, one) => left.Without(one));

    // One after the other whoever gives most of what is still missing, by its shares; then without those that the others make needless. No set of more than Most.
    private static List<Preemptible>? Helpful(List<Preemptible> there, Shortage shortage)
    {
        var set = new List<Preemptible>();
        var left = shortage;
        while (!left.IsNone)
        {
            var still = left;
            var best = there.Except(set).OrderByDescending(one => still.Help(one)).ThenBy(one => one.Rank).ThenBy(one => one.VmId, StringComparer.Ordinal).Cast<Preemptible?>().FirstOrDefault();
            if (set.Count == Most || best is not { } next || still.Help(next) <= 0)
                return null;
            set.Add(next);
            left = left.Without(next);
        }
        return Needed(set, shortage);
    }

    // Without those that the others make needless, of higher classes first.
    private static List<Preemptible> Needed(List<Preemptible> set, Shortage shortage)
    {
        var left = Left(shortage, set);
        foreach (var one in set.OrderByDescending(one => one.Rank).ToList())
        {
            if (!left.With(one).IsNone)
                continue;
            set.Remove(one);
            left = left.With(one);
        }
        return set;
    }

    private static List<Preemptible>? Fewest(List<Preemptible> there, long shortCpus, long shortMemoryMib)
    {
        // More vCPUs than the most largest ones give are out of reach; so the table is small.
        var useful = Useful(there);
        if (useful.OrderByDescending(one => one.Cpus).Take(Most).Sum(one => one.Cpus) < shortCpus)
            return null;
        // best[k][c]: of k that give c vCPUs (or more, at the last c), those that give the most memory.
        var best = new Chosen?[Most + 1][];
        for (var k = 0; k <= Most; k++)
            best[k] = new Chosen?[shortCpus + 1];
        foreach (var one in useful)
        {
            for (var k = Most - 1; k >= 0; k--)
            {
                for (var cpus = shortCpus; cpus >= 0; cpus--)
                {
                    var before = best[k][cpus];
                    if (before is null && (k > 0 || cpus > 0))
                        continue;
                    var memory = (before?.MemoryMib ?? 0) + one.MemoryMib;
                    ref var after = ref best[k + 1][Math.Min(shortCpus, cpus + one.Cpus)];
                    if (after is null || after.MemoryMib < memory)
                        after = new Chosen(one, before, memory);
                }
            }
        }
        for (var k = 1; k <= Most; k++)
        {
            if (best[k][shortCpus] is not { } found || found.MemoryMib < shortMemoryMib)
                continue;
            var set = new List<Preemptible>(k);
            for (var chosen = found; chosen is not null; chosen = chosen.Before)
                set.Add(chosen.One);
            return set;
        }
        return null;
    }

    // Of those that give the same number of vCPUs no more than the largest few can be of use.
    private static List<Preemptible> Useful(List<Preemptible> there) =>
        [.. there.GroupBy(one => one.Cpus).SelectMany(same => same.OrderByDescending(one => one.MemoryMib).ThenBy(one => one.VmId, StringComparer.Ordinal).Take(Most))];

    // As many, of lower classes and smaller, where one can take another's place.
    private static List<Preemptible> Trim(List<Preemptible> set, List<Preemptible> there, long shortCpus, long shortMemoryMib, PeakUse shortPeak)
    {
        var chosen = set.Select(one => one.VmId).ToHashSet(StringComparer.Ordinal);
        var left = Left(new(new(shortCpus, shortMemoryMib), shortPeak), set);
        for (var at = 0; at < set.Count; at++)
        {
            var one = set[at];
            var without = left.With(one);
            var other = there
                .Where(other => !chosen.Contains(other.VmId) && without.Without(other).IsNone)
                .OrderBy(other => other.Rank).ThenBy(other => other.MemoryMib).ThenBy(other => other.Cpus).ThenBy(other => other.VmId, StringComparer.Ordinal)
                .Cast<Preemptible?>()
                .FirstOrDefault();
            if (other is not { } instead || (instead.Rank, instead.MemoryMib, instead.Cpus).CompareTo((one.Rank, one.MemoryMib, one.Cpus)) >= 0)
                continue;
            chosen.Remove(one.VmId);
            chosen.Add(instead.VmId);
            set[at] = instead;
            left = without.Without(instead);
        }
        return set;
    }
}
