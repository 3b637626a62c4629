namespace Fleet.Scheduler.Placement;

/// <summary>A microVM that can be made to give way.</summary>
/// <param name="VmId">The microVM.</param>
/// <param name="Rank">Of its class: those of lower rank go first.</param>
/// <param name="Gives">What it gives back.</param>
public readonly record struct Preemptible(string VmId, int Rank, Resources Gives)
{
    internal long Cpus => Gives.Cpus;

    internal long MemoryMib => Gives.MemoryMib;
}

/// <summary>
/// Which microVMs give way to one of a higher class: the fewest that make enough room, of classes as low as will do, and of as many such sets one that
/// takes little more than is short. Exact in the number, by dynamic programming over how many give way and how many vCPUs that frees, where CPU and memory are
/// all that is short; where it is disk, network or disk operations those go first that help most.
/// </summary>
public static class Preemption
{
    /// <summary>One that needs more of them than this to give way waits instead.</summary>
    public const int Most = 16;

    /// <summary>A chain of chosen ones, the last first.</summary>
    private sealed record Chosen(Preemptible One, Chosen? Before, long MemoryMib);

    /// <summary>Those that give way; empty: nobody has to; null: no set of at most <see cref="Most"/> makes enough room.</summary>
    /// <param name="there">All that the host carries and that could give way.</param>
    /// <param name="rank">Of the class for which room is wanted: only lower ones give way.</param>
    /// <param name="missing">What is missing; at most 0: nothing.</param>
    public static IReadOnlyList<Preemptible>? Choose(IReadOnlyCollection<Preemptible> there, int rank, in Resources missing)
    {
        ArgumentNullException.ThrowIfNull(there);
        if (missing.FitsIn(default))
            return [];
        var isOther = missing is not { DiskMib: <= 0, NetworkMbit: <= 0, Iops: <= 0 };
        for (var highest = 0; highest < rank; highest++)
        {
            var lower = there.Where(one => one.Rank <= highest).ToList();
            if (isOther)
            {
                if (Helpful(lower, missing) is { } helpful)
                    return helpful;
            }
            else if (Fewest(lower, Math.Max(0, missing.Cpus), Math.Max(0, missing.MemoryMib)) is { } set)
            {
                return Trim(set, lower, missing.Cpus, missing.MemoryMib);
            }
        }
        return null;
    }

    // One after the other whoever gives most of what is still missing, by its shares; then without those that the others make needless. No set of more than Most.
    private static List<Preemptible>? Helpful(List<Preemptible> there, Resources missing)
    {
        var set = new List<Preemptible>();
        var left = missing;
        while (!left.FitsIn(default))
        {
            var still = left;
            var best = there.Except(set).OrderByDescending(one => Help(one.Gives, still)).ThenBy(one => one.Rank).ThenBy(one => one.VmId, StringComparer.Ordinal).Cast<Preemptible?>().FirstOrDefault();
            if (set.Count == Most || best is not { } next || Help(next.Gives, still) <= 0)
                return null;
            set.Add(next);
            left -= next.Gives;
        }
        foreach (var one in set.OrderByDescending(one => one.Rank).ToList())
        {
            if ((left + one.Gives).FitsIn(default))
            {
                set.Remove(one);
                left += one.Gives;
            }
        }
        return set;
    }

    private static double Help(in Resources gives, in Resources missing)
    {
        var help = 0.0;
        for (var kind = 0; kind < Resources.Kinds; kind++)
        {
            if (missing[kind] > 0)
                help += Math.Min(1, (double)gives[kind] / missing[kind]);
        }
        return help;
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
    private static List<Preemptible> Trim(List<Preemptible> set, List<Preemptible> there, long shortCpus, long shortMemoryMib)
    {
        var chosen = set.Select(one => one.VmId).ToHashSet(StringComparer.Ordinal);
        var (cpus, memory) = (set.Sum(one => one.Cpus), set.Sum(one => one.MemoryMib));
        for (var at = 0; at < set.Count; at++)
        {
            var one = set[at];
            var (needCpus, needMemory) = (shortCpus - (cpus - one.Cpus), shortMemoryMib - (memory - one.MemoryMib));
            var other = there
                .Where(other => !chosen.Contains(other.VmId) && other.Cpus >= needCpus && other.MemoryMib >= needMemory)
                .OrderBy(other => other.Rank).ThenBy(other => other.MemoryMib).ThenBy(other => other.Cpus).ThenBy(other => other.VmId, StringComparer.Ordinal)
                .Cast<Preemptible?>()
                .FirstOrDefault();
            if (other is not { } instead || (instead.Rank, instead.MemoryMib, instead.Cpus).CompareTo((one.Rank, one.MemoryMib, one.Cpus)) >= 0)
                continue;
            chosen.Remove(one.VmId);
            chosen.Add(instead.VmId);
            set[at] = instead;
            cpus += instead.Cpus - one.Cpus;
            memory += instead.MemoryMib - one.MemoryMib;
        }
        return set;
    }
}
