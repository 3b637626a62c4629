using System.Runtime.InteropServices;
using System.Runtime.Intrinsics;

namespace Fleet.Scheduler.Placement;

/// <summary>
/// The sizes of microVMs that are placed most, by volume, and for how many more of each the open hosts have room. What a place costs the others is told by it: of
/// each size the share of that room that it takes away. CPU and memory alone count. Not safe for several threads.
/// </summary>
internal sealed class DemandMix
{
    /// <summary>Sizes that are looked at: four words of four numbers. Twice as many packed about as well.</summary>
    public const int Kinds = 16;

    /// <summary>Sizes that are counted. In a fleet that has more the rare ones are forgotten.</summary>
    private const int MostCounted = 1024;

    /// <summary>Placements after which those of before count half.</summary>
    private const int MostPlacements = 100_000;

    /// <summary>Placements between two looks at which sizes are most: each costs a look at every host.</summary>
    private const int Every = 512;

    /// <summary>Shares that are whole but for how they were reckoned.</summary>
    private const double Rounding = 1e-9;

    /// <summary>What a resource that a size has none of is enough for.</summary>
    private const double Endless = 1e9;

    private const int Width = 4;

    private readonly Dictionary<(long Cpus, long MemoryMib), long> _counts = [];
    private long _placements;
    private int _since;
    private int _next = 1;

    // Of each kind: how many a vCPU and a MiB are enough for, and what is added to either, its share of the demand, the room for it in the fleet.
    private readonly double[] _perCpu = new double[Kinds];
    private readonly double[] _perMib = new double[Kinds];
    private readonly double[] _addCpu = new double[Kinds];
    private readonly double[] _addMib = new double[Kinds];
    private readonly double[] _share = new double[Kinds];
    private readonly double[] _room = new double[Kinds];

    // What one more place for it is worth, of the room that there was when it was last asked for.
    private readonly double[] _worth = new double[Kinds];

    private int _hosts;

    /// <summary>Sizes that are known.</summary>
    public int Counted => _counts.Count;

    /// <summary>A microVM has got a place. True: other sizes count from now on, and hosts must be shown anew.</summary>
    public bool Placed(in Resources needs, in Resources capacity, in Scarcity scarcity)
    {
        ref var count = ref CollectionsMarshal.GetValueRefOrAddDefault(_counts, (needs.Cpus, needs.MemoryMib), out _);
        count++;
        _placements++;
        if (_counts.Count > MostCounted || _placements > MostPlacements)
            Halve();
        if (++_since < _next)
            return false;
        _since = 0;
        // Often at first, when each changes what is known.
        _next = Math.Min(Every, _next * 2);
        return Choose(capacity, scarcity);
    }

    /// <summary>A host is open, and so much is free of it.</summary>
    public void Open(in Resources free)
    {
        _hosts++;
        Count(free, 1);
    }

    /// <summary>... and is no more.</summary>
    public void Shut(in Resources free)
    {
        _hosts--;
        Count(free, -1);
    }

    /// <summary>Before <see cref="Cost"/>: the room is as it now is.</summary>
    public void Weigh()
    {
        for (var kind = 0; kind < Kinds; kind++)
        {
            // Squared: where a size has room on every host nobody need care, the last few rooms are dear.
            var scarce = _hosts / (Math.Max(0, _room[kind]) + 1);
            _worth[kind] = _share[kind] * scarce * scarce;
        }
    }

    /// <summary>
    /// What it costs the others that of a host's free room so much is left: how many fewer of each size it has room for, times the size's share of the demand and the square of
    /// hosts per room for it. From 0 on, without a bound.
    /// </summary>
    public double Cost(double cpus, double memoryMib, double cpusLeft, double memoryLeft)
    {
        var sum = Vector256<double>.Zero;
        for (var kind = 0; kind < Kinds; kind += Width)
            sum += Load(_worth, kind) * (Fitting(kind, cpus, memoryMib) - Fitting(kind, cpusLeft, memoryLeft));
        return Vector256.Sum(sum);
    }

    private void Count(in Resources free, int by)
    {
        for (var kind = 0; kind < Kinds; kind += Width)
            (Load(_room, kind) + (by * Fitting(kind, free.Cpus, free.MemoryMib))).CopyTo(_room, kind);
    }

    // How many there is room for, of four kinds.
    private Vector256<double> Fitting(int kind, double cpus, double memoryMib) => Vector256.Floor(Vector256.Min(
        (Load(_perCpu, kind) * Math.Max(0, cpus)) + Load(_addCpu, kind),
        (Load(_perMib, kind) * Math.Max(0, memoryMib)) + Load(_addMib, kind)));

    private static Vector256<double> Load(double[] numbers, int at) => Vector256.LoadUnsafe(ref MemoryMarshal.GetArrayDataReference(numbers), (nuint)at);

    private void Halve()
    {
        _placements = 0;
        foreach (var (size, count) in _counts.ToList())
        {
            if (count < 2)
                _counts.Remove(size);
            else
                _placements += _counts[size] = count / 2;
        }
    }

    private bool Choose(Resources capacity, Scarcity scarcity)
    {
        double Volume(long cpus, long memoryMib) =>
            ((capacity.Cpus > 0 ? scarcity.Weight(0) * cpus / capacity.Cpus : 0) + (capacity.MemoryMib > 0 ? scarcity.Weight(1) * memoryMib / capacity.MemoryMib : 0));
        var most = _counts
            .Where(one => one.Key is { Cpus: > 0 } or { MemoryMib: > 0 })
            .Select(one => (one.Key.Cpus, one.Key.MemoryMib, Volume: one.Value * Volume(one.Key.Cpus, one.Key.MemoryMib)))
            .OrderByDescending(one => one.Volume).ThenBy(one => one.Cpus).ThenBy(one => one.MemoryMib)
            .Take(Kinds).ToList();
        var sum = most.Sum(one => one.Volume);
        for (var kind = 0; kind < Kinds; kind++)
        {
            _room[kind] = 0;
            if (kind >= most.Count || sum <= 0)
            {
                _perCpu[kind] = _perMib[kind] = _addCpu[kind] = _addMib[kind] = _share[kind] = 0;
                continue;
            }
            var (cpus, memoryMib, volume) = most[kind];
            (_perCpu[kind], _addCpu[kind]) = cpus > 0 ? (1.0 / cpus, Rounding) : (0, Endless);
            (_perMib[kind], _addMib[kind]) = memoryMib > 0 ? (1.0 / memoryMib, Rounding) : (0, Endless);
            _share[kind] = volume / sum;
        }
        _hosts = 0;
        return true;
    }
}
