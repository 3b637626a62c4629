namespace Fleet.Scheduler.Placement;

/// <summary>What a microVM takes of a host, or what of a host is free. A resource that nobody counts is 0 on both sides.</summary>
/// <param name="Cpus">vCPUs.</param>
/// <param name="MemoryMib">MiB.</param>
/// <param name="DiskMib">MiB of disk.</param>
/// <param name="NetworkMbps">Megabits per second, both ways together.</param>
/// <param name="Iops">Disk operations per second.</param>
public readonly record struct Resources(long Cpus, long MemoryMib, long DiskMib = 0, long NetworkMbps = 0, long Iops = 0)
{
    /// <summary>Whether each of them is at most what the other has of it.</summary>
    public bool FitsIn(in Resources room) =>
        Cpus <= room.Cpus && MemoryMib <= room.MemoryMib && DiskMib <= room.DiskMib && NetworkMbps <= room.NetworkMbps && Iops <= room.Iops;

    public static Resources operator +(in Resources a, in Resources b) =>
        new(a.Cpus + b.Cpus, a.MemoryMib + b.MemoryMib, a.DiskMib + b.DiskMib, a.NetworkMbps + b.NetworkMbps, a.Iops + b.Iops);

    public static Resources operator -(in Resources a, in Resources b) =>
        new(a.Cpus - b.Cpus, a.MemoryMib - b.MemoryMib, a.DiskMib - b.DiskMib, a.NetworkMbps - b.NetworkMbps, a.Iops - b.Iops);

    /// <summary>How many there are.</summary>
    internal const int Kinds = 5;

    /// <summary>By number, in the order in which they stand above.</summary>
    internal long this[int kind] => kind switch { 0 => Cpus, 1 => MemoryMib, 2 => DiskMib, 3 => NetworkMbps, _ => Iops };
}
