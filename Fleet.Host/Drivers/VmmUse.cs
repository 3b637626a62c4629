using Fleet.Host.Pressure;

namespace Fleet.Host.Drivers;

/// <summary>What a VMM, guest and all, has used.</summary>
/// <param name="Cpu">Time on CPUs since it began.</param>
/// <param name="MemoryKib">Resident now.</param>
public sealed record VmmUse(TimeSpan Cpu, long MemoryKib)
{
    /// <summary>How long it stood still for want of something, by its control group.</summary>
    public Stalls Stalls { get; init; }
}
