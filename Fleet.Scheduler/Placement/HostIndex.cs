using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;

namespace Fleet.Scheduler.Placement;

/// <summary>Hosts to try, best first, and why the others are not among them.</summary>
public sealed record PlacementAdvice(IReadOnlyList<string> Hosts, IReadOnlyList<Rejection> Rejections);

/// <summary>One host as placement knows it.</summary>
/// <param name="View">Its last word about itself; not to be changed.</param>
/// <param name="HeardAgo">How long ago that came.</param>
/// <param name="FreeCpus">vCPUs that it could still promise.</param>
/// <param name="FreeMemoryMib">MiB that it could still promise.</param>
/// <param name="Rejection">Why it would not take the demand; null: it would, or none was asked for.</param>
/// <param name="LeftAfter">What of it would stay free, the less the better; 0 where it would not take it.</param>
public sealed record HostVerdict(HostView View, TimeSpan HeardAgo, ulong FreeCpus, ulong FreeMemoryMib, Rejection? Rejection, double LeftAfter);

/// <summary>
/// What one node knows of every host. It may be behind: its answers are advice, the host's own ledger decides.
/// Choice: best fit, the host that is fullest afterwards, so that large rooms stay whole. Not safe for several threads.
/// </summary>
public sealed class HostIndex
{
    /// <summary>A few, so that a stale view costs a second question and not a second search.</summary>
    public const int Candidates = 3;

    private readonly Dictionary<string, Entry> _hosts = new(StringComparer.Ordinal);

    private sealed record Entry(HostView View, TimeSpan HeardAt);

    public int Count => _hosts.Count;

    /// <summary>Takes a host's word about itself. True when a microVM that found no room might find some now.</summary>
    /// <param name="view">The word.</param>
    /// <param name="now">On a clock that nobody sets.</param>
    public bool Update(HostView view, TimeSpan now)
    {
        ArgumentNullException.ThrowIfNull(view);
        var known = _hosts.GetValueOrDefault(view.HostId)?.View;
        if (known is not null && known.Version > view.Version)
            return false;
        _hosts[view.HostId] = new Entry(view, now);
        if (!view.Connected)
            return false;
        return known is not { Connected: true }
            || (known.Cordoned && !view.Cordoned)
            || (known.Quarantined && !view.Quarantined)
            || FreeCpus(view) > FreeCpus(known)
            || FreeMemory(view) > FreeMemory(known)
            || !view.Inventory.Equals(known.Inventory);
    }

    /// <summary>Drops hosts that said nothing since <paramref name="before"/>: their actor lives no more, or nobody hears it.</summary>
    public int DropSilent(TimeSpan before)
    {
        var silent = _hosts.Where(host => host.Value.HeardAt < before).Select(host => host.Key).ToList();
        silent.ForEach(host => _hosts.Remove(host));
        return silent.Count;
    }

    /// <summary>The best hosts for the demand, without the excluded ones (which said no just now and are counted by the caller).</summary>
    public PlacementAdvice Find(Demand demand, IReadOnlySet<string> excluded)
    {
        ArgumentNullException.ThrowIfNull(demand);
        ArgumentNullException.ThrowIfNull(excluded);
        var tally = new RejectionTally();
        // The best few in order; with three of them an insertion beats any heap.
        var best = new List<(double Left, string Host)>(Candidates + 1);
        foreach (var (hostId, entry) in _hosts)
        {
            if (excluded.Contains(hostId))
                continue;
            if (Reject(demand, entry.View) is { } rejection)
            {
                tally.Add(rejection);
                continue;
            }
            var candidate = (LeftAfter(demand, entry.View), hostId);
            var at = best.FindIndex(other => candidate.CompareTo(other) < 0);
            best.Insert(at < 0 ? best.Count : at, candidate);
            if (best.Count > Candidates)
                best.RemoveAt(Candidates);
        }
        return new PlacementAdvice([.. best.Select(candidate => candidate.Host)], tally.ToList());
    }

    /// <summary>Every host, and what it would say to the demand: for somebody who wants to know why.</summary>
    /// <param name="demand">What is wanted; null: nothing.</param>
    /// <param name="now">On the clock of <see cref="Update"/>.</param>
    public IReadOnlyList<HostVerdict> Judge(Demand? demand, TimeSpan now)
    {
        var verdicts = new List<HostVerdict>(_hosts.Count);
        foreach (var entry in _hosts.Values)
        {
            var rejection = demand is null ? null : Reject(demand, entry.View);
            var left = demand is null || rejection is not null ? 0 : LeftAfter(demand, entry.View);
            verdicts.Add(new(entry.View, now - entry.HeardAt, FreeCpus(entry.View), FreeMemory(entry.View), rejection, left));
        }
        return verdicts;
    }

    private static Rejection? Reject(Demand demand, HostView view)
    {
        if (demand.Host.Length > 0 && demand.Host != view.HostId)
            return new Rejection { Reason = RejectionReason.OtherHost, Hosts = 1 };
        if (!view.Connected)
            return new Rejection { Reason = RejectionReason.Disconnected, Hosts = 1 };
        if (view.Cordoned)
            return new Rejection { Reason = RejectionReason.Cordoned, Hosts = 1 };
        if (view.Quarantined)
            return new Rejection { Reason = RejectionReason.Quarantined, Hosts = 1 };
        if (!demand.DriverFits(view.Inventory))
            return new Rejection { Reason = RejectionReason.Driver, Hosts = 1 };
        if (FreeCpus(view) is var cpus && demand.Cpus > cpus)
            return new Rejection { Reason = view.PeakRoom?.Cpus == cpus ? RejectionReason.CpuPeak : RejectionReason.Cpus, Hosts = 1, Wanted = demand.Cpus, MostFree = cpus };
        if (FreeMemory(view) is var memory && demand.MemoryMib > memory)
            return new Rejection { Reason = view.PeakRoom?.MemoryMib == memory ? RejectionReason.MemoryPeak : RejectionReason.Memory, Hosts = 1, Wanted = demand.MemoryMib, MostFree = memory };
        return null;
    }

    // The share of the host that would stay free, processors and memory together.
    private static double LeftAfter(Demand demand, HostView view)
    {
        var caps = Caps(view);
        return ((double)(FreeCpus(view) - demand.Cpus) / Math.Max(1, caps.Cpus(view.Inventory)))
            + ((double)(FreeMemory(view) - demand.MemoryMib) / Math.Max(1, caps.MemoryMib(view.Inventory)));
    }

    private static CapacityCaps Caps(HostView view) => new(view.CpuRatio, view.MemoryRatio);

    private static ulong FreeCpus(HostView view) => Math.Min(Left(Caps(view).Cpus(view.Inventory), view.ReservedCpus), view.PeakRoom?.Cpus ?? ulong.MaxValue);

    private static ulong FreeMemory(HostView view) => Math.Min(Left(Caps(view).MemoryMib(view.Inventory), view.ReservedMemoryMib), view.PeakRoom?.MemoryMib ?? ulong.MaxValue);

    private static ulong Left(ulong cap, ulong reserved) => cap > reserved ? cap - reserved : 0;
}
