namespace Fleet.Vmm.Tests.Fuzz;

/// <summary>A small, quick generator; the same seed gives the same cases.</summary>
internal sealed class FuzzRandom(ulong seed)
{
    private ulong _state = seed;

    /// <summary>SplitMix64.</summary>
    public ulong Next()
    {
        var mixed = _state += 0x9e3779b97f4a7c15;
        mixed = (mixed ^ (mixed >> 30)) * 0xbf58476d1ce4e5b9;
        mixed = (mixed ^ (mixed >> 27)) * 0x94d049bb133111eb;
        return mixed ^ (mixed >> 31);
    }

    public int Below(int limit) => (int)(Next() % (ulong)limit);

    /// <summary>Once in so many times.</summary>
    public bool OneIn(int count) => Below(count) == 0;

    public T Pick<T>(ReadOnlySpan<T> items) => items[Below(items.Length)];

    /// <summary>A number of the kinds that break things: small, near a power of two, or any.</summary>
    public ulong Wild()
    {
        switch (Below(4))
        {
            case 0: return (ulong)Below(300);
            case 1: return (1ul << Below(64)) + (ulong)Below(3) - 1;
            case 2: return (uint)Next();
            default: return Next();
        }
    }
}
