using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Placement;

/// <summary>Hosts to try, best first; where there is none, why.</summary>
public sealed record PlacementAdvice(IReadOnlyList<string> Hosts, IReadOnlyList<Rejection> Rejections)
{
    /// <summary>The node is new and has not heard of every host yet: that there is none for the demand means little.</summary>
    public bool IsEarly { get; init; }
}

/// <summary>One host as placement knows it.</summary>
/// <param name="View">Its last word about itself; not to be changed.</param>
/// <param name="HeardAgo">How long ago that came.</param>
/// <param name="FreeCpus">vCPUs that it could still promise.</param>
/// <param name="FreeMemoryMib">MiB that it could still promise.</param>
/// <param name="Rejection">Why it would not take the demand; null: it would, or none was asked for.</param>
/// <param name="Cost">What speaks against it, by part, the less the better; empty where it would not take it.</param>
public sealed record HostVerdict(HostView View, TimeSpan HeardAgo, ulong FreeCpus, ulong FreeMemoryMib, Rejection? Rejection, IReadOnlyList<KeyValuePair<string, double>> Cost);

/// <summary>
/// What one node knows of every host. It may be behind: its answers are advice, the host's own ledger decides.
/// Not safe for several threads.
/// </summary>
public sealed class HostIndex
{
    private readonly Dictionary<string, Entry> _hosts = new(StringComparer.Ordinal);
    private readonly PlacementEngine _engine = new();

    // What was refused since a host last said something: many that wait ask the same. Bounded, for those that all ask something else.
    private const int MostRefused = 256;

    private readonly Dictionary<Demand, IReadOnlyList<Rejection>> _refused = [];

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
        if (view.Removed)
        {
            Drop(view.HostId);
            _refused.Clear();
            return false;
        }
        _hosts[view.HostId] = new Entry(view, now);
        _refused.Clear();
        _engine.Put(view.HostId, view.Inventory ?? Nothing, Capacity(view), Free(view), Closed(view));
        if (!view.Connected)
            return false;
        return known is not { Connected: true }
            || (known.Cordoned && !view.Cordoned)
            || (known.Quarantined && !view.Quarantined)
            || (known.Pressed && !view.Pressed)
            || FreeCpus(view) > FreeCpus(known)
            || FreeMemory(view) > FreeMemory(known)
            || !Equals(view.Inventory, known.Inventory);
    }

    /// <summary>Whether each of the hosts has said something of itself.</summary>
    public bool KnowsAll(IEnumerable<string> hosts) => hosts.All(_hosts.ContainsKey);

    /// <summary>Drops hosts that said nothing since <paramref name="before"/>: their actor lives no more, or nobody hears it.</summary>
    public int DropSilent(TimeSpan before)
    {
        var silent = _hosts.Where(host => host.Value.HeardAt < before).Select(host => host.Key).ToList();
        foreach (var host in silent)
            Drop(host);
        _refused.Clear();
        return silent.Count;
    }

    private void Drop(string hostId)
    {
        if (_hosts.Remove(hostId))
            _engine.Remove(hostId);
    }

    /// <summary>
    /// The best hosts for the demand, without the excluded ones (which said no just now and are counted by the caller). Why the others are not
    /// among them is told when there is none.
    /// </summary>
    public PlacementAdvice Find(Demand demand, IReadOnlySet<string> excluded)
    {
        ArgumentNullException.ThrowIfNull(demand);
        ArgumentNullException.ThrowIfNull(excluded);
        if (excluded.Count == 0 && _refused.TryGetValue(demand, out var refused))
            return new PlacementAdvice([], refused);
        var best = _engine.Choose(demand, excluded);
        if (best.Length > 0)
        {
            var hosts = new string[best.Length];
            for (var i = 0; i < hosts.Length; i++)
                hosts[i] = best[i].Host.Id;
            return new PlacementAdvice(hosts, []);
        }
        var tally = new RejectionTally();
        foreach (var (hostId, entry) in _hosts)
        {
            if (!excluded.Contains(hostId) && _engine.Refuse(demand, _engine.Find(hostId)!) is { } refusal)
                tally.Add(Named(refusal, entry.View));
        }
        refused = tally.ToList();
        if (excluded.Count == 0 && _refused.Count < MostRefused)
            _refused.Add(demand, refused);
        return new PlacementAdvice([], refused);
    }

    /// <summary>Every host, and what it would say to the demand: for somebody who wants to know why.</summary>
    /// <param name="demand">What is wanted; null: nothing.</param>
    /// <param name="now">On the clock of <see cref="Update"/>.</param>
    public IReadOnlyList<HostVerdict> Judge(Demand? demand, TimeSpan now)
    {
        var verdicts = new List<HostVerdict>(_hosts.Count);
        foreach (var entry in _hosts.Values)
        {
            var host = _engine.Find(entry.View.HostId)!;
            var refusal = demand is null ? null : _engine.Refuse(demand, host);
            var cost = demand is null || refusal is not null ? [] : _engine.Parts(demand, host);
            var rejection = (refusal is { } by ? Named(by, entry.View) : refusal) is not { } no ? null : new Rejection { Reason = no.Reason, Hosts = 1, Wanted = no.Wanted, MostFree = no.Free };
            verdicts.Add(new(entry.View, now - entry.HeardAt, FreeCpus(entry.View), FreeMemory(entry.View), rejection, cost));
        }
        return verdicts;
    }

    private static readonly Inventory Nothing = new();

    // The engine knows the lesser room of two; which of them it is the view tells.
    private static Refusal Named(Refusal refusal, HostView view) => refusal.Reason switch
    {
        RejectionReason.Cpus when view.PeakRoom?.Cpus == FreeCpus(view) => refusal with { Reason = RejectionReason.CpuPeak },
        RejectionReason.Memory when view.PeakRoom?.MemoryMib == FreeMemory(view) => refusal with { Reason = RejectionReason.MemoryPeak },
        _ => refusal,
    };

    private static string? Closed(HostView view) =>
        !view.Connected ? RejectionReason.Disconnected
        : view.Cordoned ? RejectionReason.Cordoned
        : view.Quarantined ? RejectionReason.Quarantined
        : view.Pressed ? RejectionReason.Pressure
        : null;

    private static CapacityCaps Caps(HostView view) => new(view.CpuRatio, view.MemoryRatio);

    private static Resources Capacity(HostView view) => new((long)Caps(view).Cpus(view.Inventory), (long)Caps(view).MemoryMib(view.Inventory));

    private static Resources Free(HostView view) => new((long)FreeCpus(view), (long)FreeMemory(view));

    private static ulong FreeCpus(HostView view) => Math.Min(Left(Caps(view).Cpus(view.Inventory), view.ReservedCpus), view.PeakRoom?.Cpus ?? ulong.MaxValue);

    private static ulong FreeMemory(HostView view) => Math.Min(Left(Caps(view).MemoryMib(view.Inventory), view.ReservedMemoryMib), view.PeakRoom?.MemoryMib ?? ulong.MaxValue);

    private static ulong Left(ulong cap, ulong reserved) => cap > reserved ? cap - reserved : 0;
}
