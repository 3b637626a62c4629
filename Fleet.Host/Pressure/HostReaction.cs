using System.Globalization;
using Fleet.Host.Usage;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Pressure;

/// <summary>
/// What this host does about pressure: one ladder for CPU, which waits and so is given time, and one for memory, which ends in the kernel's OOM killer.
/// Only the machine as a whole is looked at: whoever uses it up, its guests suffer. Not safe for several threads.
/// </summary>
internal sealed class HostReaction
{
    /// <summary>vCPUs waited for twice as long as they ran: with everybody busy, three vCPUs to a CPU.</summary>
    public const double HighWait = 0.66;

    /// <summary>Far enough below the first, so that one guest more or less does not carry over both.</summary>
    public const double LowWait = 0.45;

    /// <summary>Of all CPUs' time; less is noise of the hypervisor that the machine itself runs under.</summary>
    public const double HighSteal = 0.3;

    public const double LowSteal = 0.1;

    /// <summary>Waiting of vCPUs that together want less than this share of the machine is no shortage of it.</summary>
    public const double LeastDemand = 0.25;

    /// <summary>The kernel reclaims in earnest below some percent, and a guest's pages can't be reclaimed at all without swap.</summary>
    public const double ScarceMemory = 0.06;

    public const double EnoughMemory = 0.12;

    /// <summary>Of the time, with every process at a stand for want of memory: pages go out and come back at once.</summary>
    public const double HighStall = 0.1;

    public const double LowStall = 0.02;

    public static readonly LadderTimes CpuTimes = new(TimeSpan.FromSeconds(60), TimeSpan.FromSeconds(120));

    public static readonly LadderTimes MemoryTimes = new(TimeSpan.FromSeconds(10), TimeSpan.FromSeconds(60));

    private readonly PressureLadder _cpu = new([PressureRung.Closed, PressureRung.Squeeze, PressureRung.Evict], CpuTimes);
    private readonly PressureLadder _memory = new([PressureRung.Closed, PressureRung.Reclaim, PressureRung.Evict], MemoryTimes);
    private string _cpuWhy = "";
    private string _memoryWhy = "";

    /// <summary>It does nothing.</summary>
    public bool IsCalm => _cpu.Rung == PressureRung.Calm && _memory.Rung == PressureRung.Calm;

    /// <summary>As the control plane is told: to send guests away, one after the other, only while it is short. The one before may have been enough.</summary>
    public PressureReport Told => new()
    {
        Cpu = _cpu.Asked,
        Memory = _memory.Asked,
        Why = string.Join("; ", new[] { _cpu.Rung == PressureRung.Calm ? "" : _cpuWhy, _memory.Rung == PressureRung.Calm ? "" : _memoryWhy }.Where(why => why.Length > 0)),
    };

    /// <summary>Whether that is done now, for want of whatever.</summary>
    public bool Does(PressureRung rung) => _cpu.Does(rung) || _memory.Does(rung);

    /// <summary>Takes into account how vCPUs fared. True: the host does more now, or less, or tells of more or less.</summary>
    public bool TakeCpu(CpuShortage cpu, TimeSpan now)
    {
        var vcpus = cpu.Vcpus;
        var wait = (vcpus.Run + vcpus.Wait) / cpu.Span >= LeastDemand * cpu.Cpus ? vcpus.WaitShare : 0;
        var steal = cpu.Steal;
        var tension = wait >= HighWait || steal >= HighSteal ? Tension.High : wait <= LowWait && steal <= LowSteal ? Tension.Low : Tension.Between;
        if (tension == Tension.High)
            _cpuWhy = $"vCPUs had none for {Percent(wait)} of the time in which they wanted a CPU, and {Percent(steal)} of the CPUs' time was stolen";
        return _cpu.Take(tension, now);
    }

    /// <summary>Takes into account how the machine's memory stands. True: as of <see cref="TakeCpu"/>.</summary>
    /// <param name="available">Share of all, 0 to 1; null: not known.</param>
    /// <param name="stalled">Share of the time in which all processes waited for memory; null: not known.</param>
    /// <param name="now">On a clock that nobody sets.</param>
    public bool TakeMemory(double? available, double? stalled, TimeSpan now)
    {
        var tension = available is null ? Tension.Between
            : available <= ScarceMemory || stalled >= HighStall ? Tension.High
            : available >= EnoughMemory && (stalled ?? 0) <= LowStall ? Tension.Low
            : Tension.Between;
        if (tension == Tension.High)
            _memoryWhy = $"{Percent(available!.Value)} of the memory is available, and for {Percent(stalled ?? 0)} of the time everything waited for memory";
        return _memory.Take(tension, now);
    }

    private static string Percent(double share) => share.ToString("0.#%", CultureInfo.InvariantCulture);
}
