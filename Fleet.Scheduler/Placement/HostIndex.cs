using System.Collections.Immutable;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Gangs;
using Fleet.Scheduler.Hosts;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

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
    private readonly PlacementTrials _trials;

    // What was refused since a host last said something: many that wait ask the same. Bounded, for those that all ask something else.
    private const int MostRefused = 256;

    /// <summary>Hosts of which the best is good enough for who makes others give way: a storm of them asks once each.</summary>
    private const int PreemptingSample = 64;

    private readonly Dictionary<Demand, IReadOnlyList<Rejection>> _refused = [];

    // The same of those of which many are wanted at once: for how many there was room.
    private readonly Dictionary<Demand, int> _rooms = [];

    // The same of those for whom nobody could give way.
    private readonly HashSet<Demand> _unyielding = [];

    private readonly YieldIndex _yields = new();

    private sealed record Entry(HostView View, TimeSpan HeardAt);

    public HostIndex() => _trials = new(_engine);

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
            ForgetRefusals();
            return false;
        }
        var images = view.Images;
        if (images is not null)
        {
            view = view.Clone();
            view.Images = null;
        }
        _hosts[view.HostId] = new Entry(view, now);
        _trials.Seen(view.HostId, view.Version);
        // Most of what hosts say is what they said before, and changes no answer; images only which host is the best.
        if (view.Equals(known))
        {
            if (images is not null)
                _engine.SetImages(_engine.Find(view.HostId)!, images.Names);
            return false;
        }
        ForgetRefusals();
        var (before, free) = (_engine.Find(view.HostId)?.Free ?? default, Free(view));
        var host = _engine.Put(view.HostId, view.Inventory ?? Nothing, Capacity(view), free, Closed(view));
        if (images is not null)
            _engine.SetImages(host, images.Names);
        var regrouped = Regroup(host, known, view);
        _yields.Put(host, Yields(view, free));
        if (!view.Connected)
            return regrouped;
        return known is not { Connected: true }
            || (known.Cordoned && !view.Cordoned)
            || (known.Quarantined && !view.Quarantined)
            || (known.Pressed && !view.Pressed)
            || !free.FitsIn(before)
            || !Equals(view.Inventory, known.Inventory)
            || regrouped;
    }

    // By rank what there would be if all of that class and of lower ones gave way; null: it carries none of the class that could.
    private static Resources?[] Yields(HostView view, Resources free)
    {
        if (view.Preemptible.Count == 0 || Closed(view) is not null)
            return [];
        var (rooms, most) = (new Resources?[PriorityClass.All.Count], Capacity(view));
        foreach (var room in view.Preemptible)
        {
            free += Resources.Of(room.Cpus, room.MemoryMib, room.Other);
            // They may hold far more than is predicted of them: the host has no more than it would have without anybody.
            if (view.PeakRoom is not null)
                free = free with { Cpus = Math.Min(free.Cpus, most.Cpus), MemoryMib = Math.Min(free.MemoryMib, most.MemoryMib) };
            if (room.Rank < rooms.Length)
                rooms[room.Rank] = free;
        }
        return rooms;
    }

    // Members that come or go may open a place elsewhere.
    private bool Regroup(PlacedHost host, HostView? known, HostView view)
    {
        if (known is null ? view.Groups.Count == 0 : view.Groups.Equals(known.Groups))
            return false;
        foreach (var before in known?.Groups ?? [])
            _engine.Count(host, before.Group, -(int)before.Members);
        foreach (var now in view.Groups)
            _engine.Count(host, now.Group, (int)now.Members);
        return true;
    }

    /// <summary>Whether each of the hosts has said something of itself.</summary>
    public bool KnowsAll(IEnumerable<string> hosts) => hosts.All(_hosts.ContainsKey);

    /// <summary>Drops hosts that said nothing since <paramref name="before"/>: their actor lives no more, or nobody hears it.</summary>
    public int DropSilent(TimeSpan before)
    {
        var silent = _hosts.Where(host => host.Value.HeardAt < before).Select(host => host.Key).ToList();
        foreach (var host in silent)
            Drop(host);
        _trials.DropOlder(before);
        ForgetRefusals();
        return silent.Count;
    }

    private void ForgetRefusals()
    {
        _refused.Clear();
        _rooms.Clear();
        _unyielding.Clear();
    }

    private void Drop(string hostId)
    {
        if (!_hosts.Remove(hostId))
            return;
        _yields.Remove(_engine.Find(hostId)!);
        _trials.Gone(hostId);
        _engine.Remove(hostId);
    }

    /// <summary>
    /// <see cref="Find(Demand, IReadOnlySet{string})"/> for a microVM that will go to the first of the hosts: as a member of its groups it counts there from now on, until
    /// the host's own view shows it or <see cref="Tried"/> says otherwise.
    /// </summary>
    /// <param name="demand">What is wanted.</param>
    /// <param name="excluded">Hosts that said no.</param>
    /// <param name="vmId">The microVM.</param>
    /// <param name="leaving">The host that it is on and leaves, where it does not count against itself; empty: none.</param>
    /// <param name="now">On the clock of <see cref="Update"/>.</param>
    /// <param name="preempt">Hosts that have room when those of lower classes give way, instead of those that have some.</param>
    public PlacementAdvice Find(Demand demand, IReadOnlySet<string> excluded, string vmId, string leaving, TimeSpan now, bool preempt = false)
    {
        ArgumentNullException.ThrowIfNull(demand);
        ArgumentNullException.ThrowIfNull(excluded);
        PlacementAdvice advice;
        if (demand.Groups.IsEmpty)
        {
            advice = Ask();
            Heed();
            return advice;
        }
        _trials.End(vmId);
        Leave(1);
        advice = Ask();
        Heed();
        Leave(-1);
        if (advice.Hosts.Count > 0)
            _trials.Begin(vmId, advice.Hosts[0], demand.Groups, now);
        return advice;

        PlacementAdvice Ask() => preempt ? new([.. Preempting(demand, excluded, PreemptingSample).Take(PlacementEngine.Candidates)], []) : Find(Kept(demand, excluded), excluded);

        // Once each, however often it has to ask.
        void Heed()
        {
            if (!preempt && excluded.Count == 0 && advice.Hosts.Count > 0)
                _engine.Placed(demand);
        }

        void Leave(int by)
        {
            if (_engine.Find(leaving) is not { } old)
                return;
            foreach (var group in demand.Groups)
                _engine.Count(old, group, -by);
        }
    }

    // With as many of its wishes about single microVMs as can be.
    internal Demand Kept(Demand demand, IReadOnlySet<string> excluded)
    {
        if (demand.Rules is not { Neighbours.Length: > 0 })
            return demand;
        var kept = demand;
        foreach (var tried in Neighbours.Softly(demand))
        {
            kept = tried;
            if (_engine.Choose(tried, excluded).Length > 0)
                break;
        }
        return kept;
    }

    /// <summary>
    /// The hosts that would have room if those of lower classes gave way: where only the lowest have to first, and of those where least is missing. It is asked only when
    /// none has room. Of each class it looks at hosts where that could be enough, until it has found <paramref name="most"/>; at those of the next one only if these are too few.
    /// </summary>
    private IEnumerable<string> Preempting(Demand demand, IReadOnlySet<string> excluded, int most)
    {
        var found = new List<(int Rank, double Missing, string Host)>();
        var remembered = excluded.Count == 0 && demand.Rules is null;
        if (remembered && _unyielding.Contains(demand))
            return [];
        for (var rank = 0; rank < demand.Rank && (found.Count < PlacementEngine.Candidates || most == int.MaxValue); rank++)
        {
            var left = most;
            foreach (var host in _yields.Reaching(rank, demand.Needs))
            {
                if (excluded.Contains(host.Id))
                    continue;
                if (_engine.Refuse(demand, host) is not { } refusal || Resources.IsReason(refusal.Reason))
                {
                    var missing = double.MinValue;
                    for (var kind = 0; kind < Resources.Kinds; kind++)
                        missing = Math.Max(missing, (demand.Needs[kind] - host.Free[kind]) / (double)Math.Max(1, host.Capacity[kind]));
                    found.Add((rank, missing, host.Id));
                    if (--left == 0)
                        break;
                }
            }
        }
        if (remembered && found.Count == 0 && _unyielding.Count < MostRefused)
            _unyielding.Add(demand);
        return found.OrderBy(one => one.Rank).ThenBy(one => one.Missing).ThenBy(one => one.Host, StringComparer.Ordinal).Select(one => one.Host);
    }

    /// <summary>What became of a microVM that was found a place.</summary>
    /// <param name="vmId">The microVM.</param>
    /// <param name="host">The host that it asks now, or that took it; empty: it goes nowhere.</param>
    /// <param name="version">Of the host's record that has it; 0: it only asks.</param>
    /// <param name="groups">That it is a member of.</param>
    /// <param name="now">On the clock of <see cref="Update"/>.</param>
    public void Tried(string vmId, string host, ulong version, ImmutableArray<string> groups, TimeSpan now)
    {
        ArgumentNullException.ThrowIfNull(host);
        if (host.Length == 0 || (version > 0 && _hosts.GetValueOrDefault(host) is { } entry && entry.View.Version >= version))
            _trials.End(vmId);
        else if (version > 0)
            _trials.Reserved(vmId, version);
        else
            _trials.Begin(vmId, host, groups, now);
    }

    /// <summary>
    /// The best hosts for the demand, without the excluded ones (which said no just now and are counted by the caller). Why the others are not
    /// among them is told when there is none.
    /// </summary>
    public PlacementAdvice Find(Demand demand, IReadOnlySet<string> excluded)
    {
        ArgumentNullException.ThrowIfNull(demand);
        ArgumentNullException.ThrowIfNull(excluded);
        // Rules go by where others are, which changes without a word of a host.
        var remembered = excluded.Count == 0 && demand.Rules is null;
        if (remembered && _refused.TryGetValue(demand, out var refused))
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
        if (remembered && _refused.Count < MostRefused)
            _refused.Add(demand, refused);
        return new PlacementAdvice([], refused);
    }

    /// <summary>How many of these, <paramref name="most"/> at most, have room at once: no more than that, and fewer if rules about groups are in the way. Looks at every host, once until a host says something.</summary>
    /// <param name="demand">What each wants.</param>
    /// <param name="most">No more are counted.</param>
    /// <param name="remember">It may be asked again. False: of what nobody wants yet, which would take the place of what many do.</param>
    public int Room(Demand demand, int most, bool remember = true)
    {
        ArgumentNullException.ThrowIfNull(demand);
        if (_rooms.TryGetValue(demand, out var counted))
            return Math.Min(counted, most);
        var room = 0L;
        foreach (var entry in _hosts.Values)
        {
            var host = _engine.Find(entry.View.HostId)!;
            if (_engine.Refuse(demand, host) is not null)
                continue;
            room += Fitting(demand, host.Free, most);
            if (room >= most)
                return most;
        }
        // Less than was asked for is all that there is. Rules go by where others are, which changes without a word of a host.
        if (remember && demand.Rules is null && _rooms.Count < MostRefused)
            _rooms.Add(demand, (int)room);
        return (int)room;
    }

    /// <summary>Why no host takes the demand, in words.</summary>
    public string Explain(Demand demand)
    {
        var tally = new RejectionTally();
        foreach (var rejection in Find(demand, NoHosts).Rejections)
            tally.Add(rejection);
        return tally.Explain(demand).Message;
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

    /// <summary>What would become of a microVM with that spec, and what would have to be different if it fits nowhere.</summary>
    /// <param name="spec">What is wanted.</param>
    /// <param name="neighbours">The hosts of the microVMs that its rules name.</param>
    /// <param name="briefly">Whether it fits, and if not why not, alone: costs as little as a search.</param>
    public PlacementReview Review(VmSpec spec, IReadOnlyDictionary<string, string> neighbours, bool briefly = false)
    {
        ArgumentNullException.ThrowIfNull(spec);
        Demand Of(VmSpec wanted) => Neighbours.With(Demand.Of(wanted), neighbours);
        var demand = Of(spec);
        if (briefly)
            return Brief(demand, spec.Gang);
        // Its wishes choose among the hosts that would do, and make of none one that would not.
        var kept = Kept(demand, NoHosts);
        var best = _engine.Choose(kept, NoHosts);
        var candidates = new List<ReviewedHost>(best.Length);
        foreach (var candidate in best)
            candidates.Add(new(candidate.Host.Id, _engine.Parts(kept, candidate.Host)));
        var hosts = _hosts.Keys.Select(host => _engine.Find(host)!).ToList();
        var (fitting, tally) = (0, new RejectionTally());
        foreach (var host in hosts)
        {
            if (_engine.Refuse(demand, host) is { } refusal)
                tally.Add(Named(refusal, _hosts[host.Id].View));
            else
                fitting++;
        }
        var rejections = tally.ToList();
        // A gang makes nobody give way.
        if (spec.Gang is { } gang && Short(demand, gang) is { } reason)
        {
            bool AllHaveRoom(Demand wanted, PlacedHost? more) =>
                Room(wanted, (int)gang.Size, remember: false) + (more is null ? 0 : Fitting(wanted, more.Whole, (int)gang.Size)) >= gang.Size;
            return new([], fitting, rejections, reason, new PlacementWhatIf(_engine, hosts, Of) { AllHaveRoom = AllHaveRoom }.Changes(spec));
        }
        if (candidates.Count == 0 && Preempting(demand, NoHosts, int.MaxValue).ToList() is { Count: > 0 } others)
            return new([.. others.Take(PlacementEngine.Candidates).Select(host => new ReviewedHost(host, []))], others.Count, rejections, null, []) { Preempts = true };
        return candidates.Count > 0
            ? new(candidates, fitting, rejections, null, [])
            : new([], 0, rejections, tally.Explain(demand), new PlacementWhatIf(_engine, hosts, Of).Changes(spec));
    }

    private PlacementReview Brief(Demand demand, Gang? gang)
    {
        if (gang is not null && Short(demand, gang) is { } why)
            return new([], 0, [], why, []);
        var advice = Find(demand, NoHosts);
        if (advice.Hosts.Count > 0)
            return new([], advice.Hosts.Count, [], null, []);
        if (Preempting(demand, NoHosts, 1).Any())
            return new([], 1, [], null, []) { Preempts = true };
        var tally = new RejectionTally();
        foreach (var rejection in advice.Rejections)
            tally.Add(rejection);
        return new([], 0, advice.Rejections, tally.Explain(demand), []);
    }

    // Why a gang of these would wait; null: there is room for all. It makes nobody give way.
    private Reason? Short(Demand demand, Gang gang) =>
        Room(demand, (int)gang.Size) is var room && room >= gang.Size ? null : GangRound.Waits(gang, room, room > 0 ? "" : Explain(demand));

    // For how many of these that much is enough on one host.
    private static int Fitting(Demand demand, Resources free, int most)
    {
        long there = most;
        foreach (var rule in demand.Rules?.Groups ?? [])
        {
            if (rule is { Hard: true, Apart: true, Scope: RuleScope.Host } && demand.Groups.Contains(rule.Group))
                there = Math.Min(there, rule.Most + 1);
        }
        for (var kind = 0; kind < Resources.Kinds; kind++)
        {
            if (demand.Needs[kind] > 0)
                there = Math.Min(there, free[kind] / demand.Needs[kind]);
        }
        return (int)there;
    }

    private static readonly HashSet<string> NoHosts = [];

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

    // All that it would promise if it were empty: as what is free of it, by the ratios and by predictions.
    private static Resources Capacity(HostView view) => Resources.Of(
        Math.Min(Caps(view).Cpus(view.Inventory), view.PeakRoom is { HasMostCpus: true } cpus ? cpus.MostCpus : ulong.MaxValue),
        Math.Min(Caps(view).MemoryMib(view.Inventory), view.PeakRoom is { HasMostMemoryMib: true } memory ? memory.MostMemoryMib : ulong.MaxValue),
        view.CapOther);

    private static Resources Free(HostView view) => new(
        (long)FreeCpus(view),
        (long)FreeMemory(view),
        view.FreeOther is { HasDiskMib: true } disk ? (long)disk.DiskMib : Resources.Unlimited,
        view.FreeOther is { HasNetworkMbit: true } network ? (long)network.NetworkMbit : Resources.Unlimited,
        view.FreeOther is { HasIops: true } operations ? (long)operations.Iops : Resources.Unlimited);

    private static ulong FreeCpus(HostView view) => Math.Min(Left(Caps(view).Cpus(view.Inventory), view.ReservedCpus), view.PeakRoom?.Cpus ?? ulong.MaxValue);

    private static ulong FreeMemory(HostView view) => Math.Min(Left(Caps(view).MemoryMib(view.Inventory), view.ReservedMemoryMib), view.PeakRoom?.MemoryMib ?? ulong.MaxValue);

    private static ulong Left(ulong cap, ulong reserved) => cap > reserved ? cap - reserved : 0;
}
