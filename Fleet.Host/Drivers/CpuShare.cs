namespace Fleet.Host.Drivers;

/// <summary>What a VMM may use of the machine's CPUs.</summary>
/// <param name="Cpus">vCPUs that it has.</param>
/// <param name="HeldTo">CPUs that it may use, VMM and all; null: what its vCPUs can use, and some for the VMM beside them.</param>
/// <param name="Weight">Where CPUs are short it gets them in proportion to this; the number of vCPUs for an equal share of each.</param>
public readonly record struct CpuShare(uint Cpus, double? HeldTo, double Weight);
