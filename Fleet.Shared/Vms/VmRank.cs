namespace Fleet.Shared.Vms;

/// <summary>In which order microVMs leave a host that is short: the least first. The class alone is <see cref="Priority"/>.</summary>
/// <param name="Priority">Of its class, see <see cref="PriorityClass"/>: the lowest goes first.</param>
/// <param name="MemoryMib">Of a class the largest goes first: it makes the most room, and the fewest have to go.</param>
public readonly record struct VmRank(int Priority, ulong MemoryMib) : IComparable<VmRank>
{
    public int CompareTo(VmRank other) =>
        Priority != other.Priority ? Priority.CompareTo(other.Priority) : other.MemoryMib.CompareTo(MemoryMib);

    public static bool operator <(VmRank left, VmRank right) => left.CompareTo(right) < 0;

    public static bool operator >(VmRank left, VmRank right) => left.CompareTo(right) > 0;

    public static bool operator <=(VmRank left, VmRank right) => left.CompareTo(right) <= 0;

    public static bool operator >=(VmRank left, VmRank right) => left.CompareTo(right) >= 0;
}
