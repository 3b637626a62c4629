namespace Fleet.Host.Drivers;

/// <summary>What a VMM, guest and all, has used.</summary>
/// <param name="Cpu">Time on CPUs since it began.</param>
/// <param name="MemoryKib">Resident now.</param>
public sealed record VmmUse(TimeSpan Cpu, long MemoryKib);
