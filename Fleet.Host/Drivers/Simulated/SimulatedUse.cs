using Fleet.Shared.Contracts;
using Google.Protobuf.Collections;

namespace Fleet.Host.Drivers.Simulated;

/// <summary>What a guest that does not exist has used, by the curves of its script.</summary>
internal static class SimulatedUse
{
    /// <param name="spec">A validated spec.</param>
    /// <param name="age">Since its start.</param>
    public static VmmUse At(VmSpec spec, TimeSpan age)
    {
        var step = TimeSpan.FromMilliseconds(spec.Simulated?.StepMs ?? 0);
        if (step == TimeSpan.Zero || age < TimeSpan.Zero)
            return new VmmUse(TimeSpan.Zero, 0);
        var memory = spec.Simulated!.MemoryPercent;
        var percent = memory.Count == 0 ? 0 : memory[(int)(age.Ticks / step.Ticks % memory.Count)];
        return new VmmUse(CpuTime(spec.Simulated.CpuPercent, step, age) * spec.Cpus, spec.MemoryMib * 1024L * percent / 100);
    }

    // Of one vCPU: whole turns of the curve, whole steps of the last turn, and a part of the step that is on.
    private static TimeSpan CpuTime(RepeatedField<uint> curve, TimeSpan step, TimeSpan age)
    {
        if (curve.Count == 0)
            return TimeSpan.Zero;
        var steps = age.Ticks / step.Ticks;
        var on = (int)(steps % curve.Count);
        var turn = curve.Sum(percent => (long)percent);
        var percents = (steps / curve.Count * turn) + curve.Take(on).Sum(percent => (long)percent);
        return (step * (percents / 100.0)) + ((age - (step * steps)) * (curve[on] / 100.0));
    }
}
