namespace Fleet.Scheduler.Placement;

/// <summary>A host that would do, and what speaks against it, weighed and added up; the less the better.</summary>
public readonly record struct Candidate(PlacedHost Host, double Cost);

/// <summary>One decision under way; the engine uses it again for the next. Keeps the best few of the hosts that it is offered.</summary>
internal sealed class PlacementSurvey(PlacementEngine engine)
{
    /// <summary>Of the hosts that may be looked at, the part that is before an estimate is believed.</summary>
    private const int Part = 8;

    /// <summary>Cells that are kept in order; the others are hardly ever wanted.</summary>
    private const int Kept = 16;

    private const int Steps = 1024;
    private static readonly double[] EmptinessOf = [.. Enumerable.Range(0, Steps + 1).Select(step => BestFit.Emptiness((double)step / Steps))];

    private readonly List<HostFilter> _filters = [];
    private readonly List<HostScore> _scores = [];
    private readonly Candidate[] _best = new Candidate[PlacementEngine.Candidates];
    private Cell[] _cells = new Cell[Kept];
    private int _first;
    private int _end;
    private bool _keepsAll;
    private bool _dropped;
    private Demand _demand = null!;
    private IReadOnlySet<string> _excluded = null!;
    private PlacedGroup? _without;
    private int _taken;
    private int _found;

    public ReadOnlySpan<Candidate> Best => _best.AsSpan(0, _found);

    public void Begin(Demand demand, IReadOnlySet<string> excluded)
    {
        _demand = demand;
        _excluded = excluded;
        _found = 0;
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

    /// <summary>Before cells are shown to it.</summary>
    /// <param name="keepAll">Else the most promising alone.</param>
    public void Next(bool keepAll)
    {
        _keepsAll = keepAll;
        _dropped = false;
        _first = _end = 0;
    }

    /// <summary>A cell in which hosts may have room, with the least that is free in it, as shares.</summary>
    public void Found(FillGrid grid, int row, int column, double cpus, double memory)
    {
        var cell = new Cell(grid, row, column, Estimate(grid, cpus, memory));
        if (!_keepsAll && _end - _first == Kept)
        {
            _dropped = true;
            if (cell.Estimate >= _cells[_end - 1].Estimate)
                return;
            _end--;
        }
        if (_end == _cells.Length)
        {
            if (_first == 0)
                Array.Resize(ref _cells, _cells.Length * 2);
            else
            {
                _cells.AsSpan(_first.._end).CopyTo(_cells);
                (_first, _end) = (0, _end - _first);
            }
        }
        var at = _end++;
        for (; at > _first && _cells[at - 1].Estimate > cell.Estimate; at--)
            _cells[at] = _cells[at - 1];
        _cells[at] = cell;
    }

    /// <summary>Looks at the hosts of the cells that were found, the most promising cell first. False: too few, and cells that were dropped may have more.</summary>
    /// <param name="most">So many of those that would do are looked at; less where no better one is to be expected.</param>
    /// <param name="without">Hosts with members of this group are passed over; null: none is.</param>
    public bool Search(int most, PlacedGroup? without)
    {
        _taken = 0;
        var few = Math.Max(_best.Length + 1, most / Part);
        _without = without;
        var enough = false;
        while (_first < _end)
        {
            var cell = _cells[_first];
            enough = _taken >= most || (most != int.MaxValue && _taken >= few && _found == _best.Length && cell.Estimate > _best[^1].Cost);
            if (enough)
                break;
            _first++;
            foreach (var host in cell.Grid.Cell(cell.Row, cell.Column))
            {
                if (_taken >= most)
                    break;
                if (_demand.Needs.FitsIn(host.Free))
                    Offer(host);
            }
            cell.Grid.Seek(cell.Row, cell.Column + 1, this);
        }
        _without = null;
        return enough || !_dropped || _taken >= most || (_taken > _best.Length && _found == _best.Length);
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

    /// <summary>Takes a host that has room into account.</summary>
    public void Offer(PlacedHost host)
    {
        if (_excluded.Count > 0 && _excluded.Contains(host.Id))
            return;
        if (_without is not null && host.Of(_without) > 0)
            return;
        foreach (var filter in _filters)
        {
            if (!filter.Allows(host, _demand, engine))
                return;
        }
        var cost = 0.0;
        foreach (var score in _scores)
            cost += score.Weight * score.Of(host, _demand, engine);
        Keep(new Candidate(host, cost));
        _taken++;
    }

    private readonly record struct Cell(FillGrid Grid, int Row, int Column, double Estimate);

    // What fit, balance and room would say of a host with just that, wishes and other resources aside.
    private double Estimate(FillGrid grid, double cpus, double memory)
    {
        var needCpus = Math.Min(cpus, (double)_demand.Needs.Cpus / grid.Size.Cpus);
        var needMemory = Math.Min(memory, (double)_demand.Needs.MemoryMib / grid.Size.MemoryMib);
        double cpusLeft = cpus - needCpus, memoryLeft = memory - needMemory;
        ref readonly var scarcity = ref engine.Scarcity;
        double weighsCpus = scarcity.Weight(0), weighsMemory = scarcity.Weight(1), usedCpus = scarcity.Used(0), usedMemory = scarcity.Used(1);
        var pairs = Math.Min(cpus / usedCpus, memory / usedMemory) - Math.Min(cpusLeft / usedCpus, memoryLeft / usedMemory);
        var fit = (weighsCpus * EmptinessOf[StepOf(cpusLeft)]) + (weighsMemory * EmptinessOf[StepOf(memoryLeft)]);
        var balance = (weighsCpus * ((pairs * usedCpus) - needCpus)) + (weighsMemory * ((pairs * usedMemory) - needMemory));
        double size = grid.Size.Cpus, memorySize = grid.Size.MemoryMib;
        return ((fit + (Balance.OfAll * balance)) / (weighsCpus + weighsMemory))
            + (Room.OfAll * Room.Bounded(engine.Mix.Cost(cpus * size, memory * memorySize, cpusLeft * size, memoryLeft * memorySize)));
    }

    // Hosts of a class may be larger than the one that gave it its size.
    private static int StepOf(double share) => (int)(Math.Min(1, share) * Steps);

    private void Keep(in Candidate candidate)
    {
        var at = _found;
        while (at > 0 && Better(candidate, _best[at - 1]))
            at--;
        if (at == _best.Length)
            return;
        for (var i = 0; i < _found; i++)
        {
            if (_best[i].Host == candidate.Host)
                return;
        }
        if (_found < _best.Length)
            _found++;
        for (var i = _found - 1; i > at; i--)
            _best[i] = _best[i - 1];
        _best[at] = candidate;
    }

    private static bool Better(in Candidate a, in Candidate b) =>
        a.Cost < b.Cost || (a.Cost == b.Cost && string.CompareOrdinal(a.Host.Id, b.Host.Id) < 0);
}
