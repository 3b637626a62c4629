using System.Numerics;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Placement;

/// <summary>
/// Hosts by what room they would have if microVMs gave way: for each class a grid of the hosts that carry some of it, by what is free and what it and all lower
/// classes hold. So a search passes by the cell over all hosts on which that would not be enough. Not safe for several threads.
/// </summary>
internal sealed class YieldIndex
{
    private readonly YieldGrid[] _grids = [.. PriorityClass.All.Select(_ => new YieldGrid())];
    private readonly Dictionary<PlacedHost, Giver?[]> _hosts = [];

    /// <summary>One host in the grid of one class; it knows its place there.</summary>
    private sealed class Giver(PlacedHost host, in Resources room, Giver? lower)
    {
        private readonly Resources _room = room;

        public readonly PlacedHost Host = host;
        public readonly int Row = FillGrid.LevelOf(room.Cpus, 0);
        public readonly int Column = FillGrid.LevelOf(room.MemoryMib, YieldGrid.MemoryShift);
        public int Slot;

        /// <summary>Whether that class is the highest of which some must give way.</summary>
        public bool IsNeeded(in Resources needs) => needs.FitsIn(_room) && (lower is null || !needs.FitsIn(lower._room));
    }

    /// <summary>Takes a host as it now is.</summary>
    /// <param name="host">The host.</param>
    /// <param name="rooms">By rank what there would be if that class and all lower ones gave way; null where it carries none of the class. Empty: nobody gives way there, or it takes nothing.</param>
    public void Put(PlacedHost host, ReadOnlySpan<Resources?> rooms)
    {
        Remove(host);
        if (rooms.IsEmpty)
            return;
        var givers = new Giver?[_grids.Length];
        Giver? lower = null;
        for (var rank = 0; rank < Math.Min(rooms.Length, _grids.Length); rank++)
        {
            if (rooms[rank] is not { } room)
                continue;
            _grids[rank].Add(givers[rank] = lower = new Giver(host, room, lower));
        }
        if (lower is not null)
            _hosts[host] = givers;
    }

    public void Remove(PlacedHost host)
    {
        if (!_hosts.Remove(host, out var givers))
            return;
        for (var rank = 0; rank < givers.Length; rank++)
        {
            if (givers[rank] is { } giver)
                _grids[rank].Remove(giver);
        }
    }

    /// <summary>Hosts that would have room for so much if the class and all lower ones gave way, and not if the lower ones alone did.</summary>
    public IEnumerable<PlacedHost> Reaching(int rank, Resources needs) => _grids[rank].From(needs);

    private sealed class YieldGrid
    {
        /// <summary>In steps of 16 MiB, so that the levels reach beyond a TiB.</summary>
        public const int MemoryShift = 4;

        private readonly List<Giver>?[]?[] _cells = new List<Giver>?[FillGrid.Levels][];
        private readonly ulong[] _filled = new ulong[FillGrid.Levels];

        public void Add(Giver giver)
        {
            var cell = (_cells[giver.Row] ??= new List<Giver>?[FillGrid.Levels])[giver.Column] ??= [];
            giver.Slot = cell.Count;
            cell.Add(giver);
            _filled[giver.Row] |= 1ul << giver.Column;
        }

        public void Remove(Giver giver)
        {
            var cell = _cells[giver.Row]![giver.Column]!;
            var last = cell[^1];
            cell[giver.Slot] = last;
            last.Slot = giver.Slot;
            cell.RemoveAt(cell.Count - 1);
            if (cell.Count == 0)
                _filled[giver.Row] &= ~(1ul << giver.Column);
        }

        public IEnumerable<PlacedHost> From(Resources needs)
        {
            var least = FillGrid.LevelOf(needs.MemoryMib, MemoryShift);
            for (var row = FillGrid.LevelOf(needs.Cpus, 0); row < FillGrid.Levels; row++)
            {
                for (var columns = _filled[row] >> least << least; columns != 0; columns &= columns - 1)
                {
                    foreach (var giver in _cells[row]![BitOperations.TrailingZeroCount(columns)]!)
                    {
                        if (giver.IsNeeded(needs))
                            yield return giver.Host;
                    }
                }
            }
        }
    }
}
