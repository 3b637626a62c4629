using System.Numerics;

namespace Fleet.Scheduler.Placement;

/// <summary>
/// Hosts of about one size, in cells by how much CPU and memory is free: to move one costs the same however many there are, and a search passes over all
/// that have too little, or too much, by the cell.
/// </summary>
internal sealed class FillGrid
{
    /// <summary>Of CPU, and of memory: as many as a word has bits.</summary>
    public const int Levels = 64;

    // Up to 8 each amount is a level, above that there are four to a power of two: what microVMs ask for is mostly the least of a level, so that
    // all hosts of a cell have room for it, or none.
    private const int Exact = 8;

    /// <summary>The power of two that the last level reaches.</summary>
    private const int Reach = 16;

    private readonly List<PlacedHost>?[]?[] _cells = new List<PlacedHost>?[Levels][];
    private readonly ulong[] _filled = new ulong[Levels];
    private readonly int _cpuShift;
    private readonly int _memoryShift;
    private ulong _rows;

    /// <param name="size">Of one of them.</param>
    public FillGrid(in Resources size)
    {
        Size = new(Math.Max(1, size.Cpus), Math.Max(1, size.MemoryMib));
        _cpuShift = Math.Max(0, BitOperations.Log2((ulong)Size.Cpus) - Reach);
        _memoryShift = Math.Max(0, BitOperations.Log2((ulong)Size.MemoryMib) - Reach);
    }

    public int Count { get; private set; }

    public Resources Size { get; }

    public void Add(PlacedHost host)
    {
        host.Row = LevelOf(host.Free.Cpus, _cpuShift);
        host.Column = LevelOf(host.Free.MemoryMib, _memoryShift);
        var cell = (_cells[host.Row] ??= new List<PlacedHost>?[Levels])[host.Column] ??= [];
        host.Slot = cell.Count;
        cell.Add(host);
        _filled[host.Row] |= 1ul << host.Column;
        _rows |= 1ul << host.Row;
        Count++;
    }

    public void Remove(PlacedHost host)
    {
        var cell = _cells[host.Row]![host.Column]!;
        var last = cell[^1];
        cell[host.Slot] = last;
        last.Slot = host.Slot;
        cell.RemoveAt(cell.Count - 1);
        Count--;
        if (cell.Count > 0)
            return;
        _filled[host.Row] &= ~(1ul << host.Column);
        if (_filled[host.Row] == 0)
            _rows &= ~(1ul << host.Row);
    }

    /// <summary>Shows the search the first cell of each row that may have room for it.</summary>
    public void Seek(in Resources needs, PlacementSurvey survey)
    {
        var first = LevelOf(needs.Cpus, _cpuShift);
        var least = LevelOf(needs.MemoryMib, _memoryShift);
        for (var rows = _rows >> first << first; rows != 0; rows &= rows - 1)
            Seek(BitOperations.TrailingZeroCount(rows), least, survey);
    }

    /// <summary>... and the next one of a row, from a column on.</summary>
    public void Seek(int row, int from, PlacementSurvey survey)
    {
        if (from < Levels && _filled[row] >> from is not 0 and var rest)
        {
            var column = from + BitOperations.TrailingZeroCount(rest);
            survey.Found(this, row, column, (double)LeastOf(row, _cpuShift) / Size.Cpus, (double)LeastOf(column, _memoryShift) / Size.MemoryMib);
        }
    }

    public List<PlacedHost> Cell(int row, int column) => _cells[row]![column]!;

    /// <summary>Which level an amount is of, in steps of two to the power of <paramref name="shift"/>.</summary>
    public static int LevelOf(long amount, int shift)
    {
        var units = (ulong)Math.Max(0, amount) >> shift;
        if (units < Exact)
            return (int)units;
        var power = BitOperations.Log2(units);
        return Math.Min(Levels - 1, (power * 4) - 4 + (int)((units >> (power - 2)) & 3));
    }

    private static long LeastOf(int level, int shift) => (level < Exact ? level : (4L + (level & 3)) << ((level + 4) / 4 - 2)) << shift;
}
