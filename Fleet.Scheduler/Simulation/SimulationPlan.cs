using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Prediction;

namespace Fleet.Scheduler.Simulation;

/// <summary>Hosts that are alike.</summary>
/// <param name="Size">Of the machine, in units of the trace.</param>
/// <param name="Count">How many.</param>
public sealed record HostShape(Resources Size, int Count);

/// <summary>What is to be simulated.</summary>
/// <param name="Trace">Who comes and goes.</param>
/// <param name="Hosts">Where to.</param>
/// <param name="Policy">One of <see cref="PlacementPolicies.Names"/>.</param>
/// <param name="Seed">For policies with chance, and for who uses how much.</param>
public sealed record SimulationPlan(ArrivalTrace Trace, IReadOnlyList<HostShape> Hosts, string Policy, int Seed)
{
    /// <summary>How microVMs use what they have, dealt out by chance; none: nothing is known of use.</summary>
    public IReadOnlyList<UsageCurve> Usage { get; init; } = [];

    /// <summary>As <c>--cpu-ratio</c> of a node.</summary>
    public double CpuRatio { get; init; } = 1;

    /// <summary>As <c>--memory-ratio</c> of a node.</summary>
    public double MemoryRatio { get; init; } = 1;

    /// <summary>How hosts promise by what is used; null: by the ratios alone. Needs <see cref="Usage"/>.</summary>
    public PredictionTerms? Prediction { get; init; }
}

/// <summary>The fleet at one moment; shares are of all machines, and above 1 where more is promised than there is.</summary>
/// <param name="At">Seconds since the trace began.</param>
/// <param name="CpuPromised">Share of the CPUs.</param>
/// <param name="MemoryPromised">Share of the memory.</param>
/// <param name="CpuUsed">Share of the CPUs; null: nothing is known of use.</param>
/// <param name="MemoryUsed">Share of the memory; null: nothing is known of it.</param>
/// <param name="HostsUsed">Hosts that carry anything.</param>
/// <param name="Refused">MicroVMs that found no room so far.</param>
public sealed record SimulationPoint(double At, double CpuPromised, double MemoryPromised, double? CpuUsed, double? MemoryUsed, int HostsUsed, int Refused);

/// <summary>What came of a plan.</summary>
/// <param name="Plan">The plan.</param>
/// <param name="Hosts">How many there were.</param>
/// <param name="Arrived">MicroVMs that came.</param>
/// <param name="Refused">Those of them that found no room; nobody waits.</param>
/// <param name="PlacedBeforeRefusal">MicroVMs that were placed before the first was refused.</param>
/// <param name="MostHostsUsed">Hosts that carried anything at once, at most.</param>
/// <param name="CpuPromised">Share of the CPUs, mean over the time.</param>
/// <param name="MemoryPromised">Share of the memory, likewise.</param>
/// <param name="CpuUsed">Share of the CPUs that was used, likewise; null: nothing is known of use.</param>
/// <param name="MemoryUsed">Share of the memory; null: nothing is known of it.</param>
/// <param name="CpuShort">Of all five minutes of all hosts with microVMs, the share in which these wanted more CPU than the machine has.</param>
/// <param name="MemoryShort">Likewise of memory.</param>
/// <param name="Points">The fleet over the time.</param>
public sealed record SimulationResult(
    SimulationPlan Plan, int Hosts, int Arrived, int Refused, int PlacedBeforeRefusal, int MostHostsUsed, double CpuPromised, double MemoryPromised,
    double? CpuUsed, double? MemoryUsed, double? CpuShort, double? MemoryShort, IReadOnlyList<SimulationPoint> Points);
