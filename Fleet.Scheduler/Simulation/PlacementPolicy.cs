using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Simulation;

/// <summary>Chooses a host for each microVM of a trace. Hosts are numbered in the order in which they came.</summary>
public abstract class PlacementPolicy
{
    private readonly List<Resources> _free = [];
    private readonly List<Resources> _capacity = [];

    public int Hosts => _free.Count;

    public Resources Capacity(int host) => _capacity[host];

    public Resources Free(int host) => _free[host];

    /// <summary>One more host, empty.</summary>
    public void Open(in Resources capacity)
    {
        _capacity.Add(capacity);
        _free.Add(capacity);
        Opened(_free.Count - 1);
    }

    /// <summary>What a host may still promise, where it is not what was, less what came, and what went.</summary>
    public void SetFree(int host, in Resources free)
    {
        _free[host] = free;
        Changed(host);
    }

    /// <summary>The host that now carries it; -1: none has room.</summary>
    public int Place(in Resources needs)
    {
        var host = Choose(needs);
        if (host >= 0)
            SetFree(host, _free[host] - needs);
        return host;
    }

    public void End(int host, in Resources needs) => SetFree(host, _free[host] + needs);

    protected abstract int Choose(in Resources needs);

    protected abstract void Opened(int host);

    protected abstract void Changed(int host);
}

/// <summary>A rule of somebody else: the host with the lowest score of those that have room.</summary>
/// <param name="score">By the host's number, what is free of it, what would be, and its size.</param>
/// <param name="random">With <paramref name="best"/>: which hosts are looked at.</param>
/// <param name="best">So many of those that have room; 0: all.</param>
internal sealed class ScoredPolicy(ScoredPolicy.Score score, Random random, int best = 0) : PlacementPolicy
{
    private readonly List<int> _fitting = [];

    public delegate double Score(int host, in Resources free, in Resources after, in Resources capacity);

    protected override int Choose(in Resources needs)
    {
        _fitting.Clear();
        for (var host = 0; host < Hosts; host++)
        {
            if (needs.FitsIn(Free(host)))
                _fitting.Add(host);
        }
        var chosen = -1;
        var lowest = double.MaxValue;
        for (var i = 0; i < (best == 0 ? _fitting.Count : Math.Min(best, _fitting.Count)); i++)
        {
            if (best > 0)
            {
                var other = random.Next(i, _fitting.Count);
                (_fitting[i], _fitting[other]) = (_fitting[other], _fitting[i]);
            }
            var host = _fitting[i];
            var cost = score(host, Free(host), Free(host) - needs, Capacity(host));
            if (cost < lowest)
                (chosen, lowest) = (host, cost);
        }
        return chosen;
    }

    protected override void Opened(int host)
    {
    }

    protected override void Changed(int host)
    {
    }
}

/// <summary>Fleet's engine, with as many hosts scored as it is told.</summary>
internal sealed class EnginePolicy(int sample) : PlacementPolicy
{
    private static readonly HashSet<string> Nobody = [];

    private readonly PlacementEngine _engine = new(sample);
    private readonly List<PlacedHost> _hosts = [];
    private readonly Dictionary<PlacedHost, int> _numbers = [];

    protected override int Choose(in Resources needs)
    {
        var demand = new Demand(0, 0, Demand.AutoDriver, false, "") { Needs = needs };
        var best = _engine.Choose(demand, Nobody);
        if (best.Length == 0)
            return -1;
        var host = best[0].Host;
        _engine.Placed(demand);
        return _numbers[host];
    }

    protected override void Opened(int host)
    {
        var inventory = new Inventory { AutoDriver = "kvm", Drivers = { new DriverStatus { Name = "kvm", Usable = true, StockKernels = true } } };
        var placed = _engine.Put($"host-{host:d7}", inventory, Capacity(host), Capacity(host), null);
        _numbers.Add(placed, host);
        _hosts.Add(placed);
    }

    protected override void Changed(int host) => _engine.SetFree(_hosts[host], Free(host));
}
