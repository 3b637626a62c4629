namespace Fleet.Scheduler.Placement;

/// <summary>A host that would do, and what speaks against it, weighed and added up; the less the better.</summary>
public readonly record struct Candidate(PlacedHost Host, double Cost);

/// <summary>One decision under way; the engine uses it again for the next. Keeps the best few of the hosts that it is offered.</summary>
internal sealed class PlacementSurvey(PlacementEngine engine)
{
    private readonly List<HostFilter> _filters = [];
    private readonly List<HostScore> _scores = [];
    private readonly Candidate[] _best = new Candidate[PlacementEngine.Candidates];
    private Demand _demand = null!;
    private IReadOnlySet<string> _excluded = null!;
    private PlacedGroup? _without;
    private int _most;
    private int _taken;

    public int Found { get; private set; }

    public ReadOnlySpan<Candidate> Best => _best.AsSpan(0, Found);

    public void Begin(Demand demand, IReadOnlySet<string> excluded)
    {
        _demand = demand;
        _excluded = excluded;
        Found = 0;
        _filters.Clear();
        foreach (var filter in HostFilter.All)
        {
            if (filter.Concerns(demand))
                _filters.Add(filter);
        }
        _scores.Clear();
        foreach (var score in HostScore.All)
        {
            if (score.Concerns(demand))
                _scores.Add(score);
        }
    }

    /// <summary>Before the hosts of a class.</summary>
    /// <param name="most">So many of those that would do are looked at.</param>
    /// <param name="without">Hosts with members of this group are passed over; null: none is.</param>
    public void Next(int most, PlacedGroup? without)
    {
        _most = most;
        _taken = 0;
        _without = without;
    }

    public bool Allows(HostClass hosts)
    {
        foreach (var filter in _filters)
        {
            if (!filter.Allows(hosts, _demand, engine))
                return false;
        }
        return true;
    }

    /// <summary>Takes a host that has room into account. False: no more of this class, please.</summary>
    public bool Offer(PlacedHost host)
    {
        if (_excluded.Count > 0 && _excluded.Contains(host.Id))
            return true;
        if (_without is not null && host.Of(_without) > 0)
            return true;
        foreach (var filter in _filters)
        {
            if (!filter.Allows(host, _demand, engine))
                return true;
        }
        var cost = 0.0;
        foreach (var score in _scores)
            cost += score.Weight * score.Of(host, _demand, engine);
        Keep(new Candidate(host, cost));
        return ++_taken < _most;
    }

    private void Keep(in Candidate candidate)
    {
        var at = Found;
        while (at > 0 && Better(candidate, _best[at - 1]))
            at--;
        if (at == _best.Length)
            return;
        for (var i = 0; i < Found; i++)
        {
            if (_best[i].Host == candidate.Host)
                return;
        }
        if (Found < _best.Length)
            Found++;
        for (var i = Found - 1; i > at; i--)
            _best[i] = _best[i - 1];
        _best[at] = candidate;
    }

    private static bool Better(in Candidate a, in Candidate b) =>
        a.Cost < b.Cost || (a.Cost == b.Cost && string.CompareOrdinal(a.Host.Id, b.Host.Id) < 0);
}
