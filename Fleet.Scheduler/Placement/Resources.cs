using Fleet.Scheduler.Cell;

namespace Fleet.Scheduler.Placement;

/// <summary>What a microVM takes of a host, or what of a host is free, or its capacity. Of what a host is not limited in its capacity is 0, and <see cref="Unlimited"/> is free.</summary>
/// <param name="Cpus">vCPUs.</param>
/// <param name="MemoryMib">MiB.</param>
/// <param name="DiskMib">MiB of disk.</param>
/// <param name="NetworkMbit">Megabits per second, each way.</param>
/// <param name="Iops">Disk operations per second.</param>
public readonly record struct Resources(long Cpus, long MemoryMib, long DiskMib = 0, long NetworkMbit = 0, long Iops = 0)
{
    /// <summary>More than any host has, and far below where sums overflow.</summary>
    public const long Unlimited = 1L << 50;

    /// <param name="cpus">vCPUs.</param>
    /// <param name="memoryMib">MiB.</param>
    /// <param name="other">Null: nothing.</param>
    public static Resources Of(ulong cpus, ulong memoryMib, OtherResources? other) =>
        new((long)cpus, (long)memoryMib, (long)(other?.DiskMib ?? 0), (long)(other?.NetworkMbit ?? 0), (long)(other?.Iops ?? 0));

    /// <summary>What there is beside CPU and memory; null: nothing.</summary>
    internal OtherResources? Other => DiskMib == 0 && NetworkMbit == 0 && Iops == 0
        ? null
        : new OtherResources { DiskMib = (ulong)DiskMib, NetworkMbit = (ulong)NetworkMbit, Iops = (ulong)Iops };

    /// <summary>Whether each of them is at most what the other has of it.</summary>
    public bool FitsIn(in Resources room) =>
        Cpus <= room.Cpus && MemoryMib <= room.MemoryMib && DiskMib <= room.DiskMib && NetworkMbit <= room.NetworkMbit && Iops <= room.Iops;

    public static Resources operator +(in Resources a, in Resources b) =>
        new(a.Cpus + b.Cpus, a.MemoryMib + b.MemoryMib, a.DiskMib + b.DiskMib, a.NetworkMbit + b.NetworkMbit, a.Iops + b.Iops);

    public static Resources operator -(in Resources a, in Resources b) =>
        new(a.Cpus - b.Cpus, a.MemoryMib - b.MemoryMib, a.DiskMib - b.DiskMib, a.NetworkMbit - b.NetworkMbit, a.Iops - b.Iops);

    /// <summary>Of each of which <paramref name="needs"/> has any; 0 of the others.</summary>
    internal Resources Where(in Resources needs) => new(
        needs.Cpus > 0 ? Cpus : 0,
        needs.MemoryMib > 0 ? MemoryMib : 0,
        needs.DiskMib > 0 ? DiskMib : 0,
        needs.NetworkMbit > 0 ? NetworkMbit : 0,
        needs.Iops > 0 ? Iops : 0);

    /// <summary>How many there are.</summary>
    internal const int Kinds = 5;

    /// <summary>By number, in the order in which they stand above.</summary>
    internal long this[int kind] => kind switch { 0 => Cpus, 1 => MemoryMib, 2 => DiskMib, 3 => NetworkMbit, _ => Iops };

    /// <summary>The same of what a host refuses for want of it, see <see cref="RejectionReason"/>.</summary>
    internal static string ReasonOf(int kind) => kind switch
    {
        0 => RejectionReason.Cpus,
        1 => RejectionReason.Memory,
        2 => RejectionReason.Disk,
        3 => RejectionReason.Network,
        _ => RejectionReason.Iops,
    };

    /// <summary>Whether a host that refuses by that lacks room, which others could make.</summary>
    internal static bool IsReason(string reason)
    {
        for (var kind = 0; kind < Kinds; kind++)
        {
            if (reason == ReasonOf(kind))
                return true;
        }
        return false;
    }
}
