using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Hosts;

/// <summary>What follows from a host's word about pressure on its machine.</summary>
internal static class HostPressure
{
    public static bool IsCalm(PressureReport? pressure) => pressure is null || (pressure.Cpu <= PressureRung.Calm && pressure.Memory <= PressureRung.Calm);

    /// <summary>It asks for microVMs to be taken away.</summary>
    public static bool Evicts(PressureReport? pressure) => pressure is { Cpu: PressureRung.Evict } or { Memory: PressureRung.Evict };

    /// <summary>Whether both say the same of what is done; the figures in their words may differ.</summary>
    public static bool IsSame(PressureReport? one, PressureReport? other) =>
        (IsCalm(one) && IsCalm(other)) || (one is not null && other is not null && one.Cpu == other.Cpu && one.Memory == other.Memory);
}
