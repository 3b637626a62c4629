using System.Runtime.CompilerServices;

namespace Fleet.Scheduler.Placement;

/// <summary>
/// How scarce each resource is in the fleet, by what is used of it: 1 is the scarcest. Also the mix in which the fleet's microVMs take them, by which
/// what is free of a host is balanced, or has too much of one and strands it.
/// </summary>
internal readonly struct Scarcity
{
    /// <summary>A resource that nobody uses: next to nothing, and not nothing, so that it can be divided by.</summary>
    private const double Least = 0.01;

    /// <summary>CPU and memory.</summary>
    private const int AlwaysCounted = 2;

    private readonly Five _used;
    private readonly int _kinds;
    private readonly Five _weights;

    /// <param name="used">Of all hosts together.</param>
    /// <param name="capacity">Of all hosts together.</param>
    public Scarcity(in Resources used, in Resources capacity)
    {
        var most = 0.0;
        for (var kind = 0; kind < Resources.Kinds; kind++)
        {
            if (capacity[kind] <= 0)
                continue;
            // What nobody uses of what a host may lack weighs next to nothing: not even looked at.
            if (kind < AlwaysCounted || used[kind] > 0)
                _kinds = kind + 1;
            most = Math.Max(most, _used[kind] = Math.Max(0, (double)used[kind] / capacity[kind]));
        }
        for (var kind = 0; kind < Resources.Kinds; kind++)
        {
            // What no host has weighs nothing.
            if (capacity[kind] <= 0)
            {
                _used[kind] = 1;
                continue;
            }
            var share = most > 0 ? Math.Max(Least, _used[kind] / most) : 1;
            _used[kind] = share;
            // Steep: what is a good deal less scarce hardly counts.
            var cube = share * share * share;
            _weights[kind] = cube * cube;
        }
    }

    /// <summary>Resources from this number on no host has, or nobody uses.</summary>
    public int Kinds => _kinds;

    /// <summary>Its use over that of the scarcest, above 0.</summary>
    public double Used(int kind) => _used[kind];

    /// <summary>What it weighs in a score.</summary>
    public double Weight(int kind) => _weights[kind];

    [InlineArray(Resources.Kinds)]
    private struct Five
    {
        private double _first;
    }
}
