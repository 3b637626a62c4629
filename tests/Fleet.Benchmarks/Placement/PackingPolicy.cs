using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;

namespace Fleet.Benchmarks.Placement;

/// <summary>Chooses one of equal hosts for each microVM of a trace. Hosts are numbered in the order in which they came.</summary>
internal abstract class PackingPolicy
{
    public abstract void Open(in Resources capacity);

    /// <summary>The host that now carries it; -1: none has room.</summary>
    public abstract int Place(in Resources needs);

    public abstract void End(int host, in Resources needs);
}

/// <summary>A rule of somebody else: the host with the lowest score of those that have room.</summary>
/// <param name="score">By the host's number, what is free of it, what would be, and its size.</param>
/// <param name="random">With <paramref name="best"/>: which hosts are looked at.</param>
/// <param name="best">So many of those that have room; 0: all.</param>
internal sealed class ScoredPolicy(ScoredPolicy.Score score, Random random, int best = 0) : PackingPolicy
{
    private readonly List<Resources> _free = [];
    private readonly List<int> _fitting = [];
    private Resources _capacity;

    public delegate double Score(int host, in Resources free, in Resources after, in Resources capacity);

    public override void Open(in Resources capacity)
    {
        _capacity = capacity;
        _free.Add(capacity);
    }

    public override int Place(in Resources needs)
    {
        _fitting.Clear();
        for (var host = 0; host < _free.Count; host++)
        {
            if (needs.FitsIn(_free[host]))
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
            var cost = score(host, _free[host], _free[host] - needs, _capacity);
            if (cost < lowest)
                (chosen, lowest) = (host, cost);
        }
        if (chosen >= 0)
            _free[chosen] -= needs;
        return chosen;
    }

    public override void End(int host, in Resources needs) => _free[host] += needs;
}

/// <summary>Fleet's engine, with as many hosts scored as it is told.</summary>
internal sealed class EnginePolicy(int sample) : PackingPolicy
{
    private static readonly HashSet<string> Nobody = [];

    private readonly PlacementEngine _engine = new(sample);
    private readonly List<PlacedHost> _hosts = [];
    private readonly Dictionary<PlacedHost, int> _numbers = [];

    public override void Open(in Resources capacity)
    {
        var inventory = new Inventory { AutoDriver = "kvm", Drivers = { new DriverStatus { Name = "kvm", Usable = true, StockKernels = true } } };
        var host = _engine.Put($"host-{_hosts.Count:d5}", inventory, capacity, capacity, null);
        _numbers.Add(host, _hosts.Count);
        _hosts.Add(host);
    }

    public override int Place(in Resources needs)
    {
        var best = _engine.Choose(new Demand(0, 0, "auto", false, "") { Needs = needs }, Nobody);
        if (best.Length == 0)
            return -1;
        var host = best[0].Host;
        _engine.SetFree(host, host.Free - needs);
        return _numbers[host];
    }

    public override void End(int host, in Resources needs) => _engine.SetFree(_hosts[host], _hosts[host].Free + needs);
}
