using Akka.Actor;
using Fleet.Host.Pressure;
using Fleet.Host.Usage;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Host.Agent;

/// <summary>What the host does about pressure: looked at every 2 s for memory and every 10 s for CPU, and told to the control plane.</summary>
internal sealed partial class HostAgentActor
{
    private static readonly TimeSpan TellPressureEvery = TimeSpan.FromSeconds(10);

    private readonly HostReaction _reaction = new();
    private (StallTime? Memory, TimeSpan At)? _memoryBefore;
    private TimeSpan? _pressureToldAt;

    private void LookAtMemory()
    {
        if (!_context.Reacts)
            return;
        var (stall, now) = (StallTime.Read(Path.Combine(_context.Proc, "pressure/memory")), Now);
        var stalled = _memoryBefore is { } before ? new Stalls(null, stall, null).Since(new Stalls(null, before.Memory, null), now - before.At).MemoryFull : null;
        _memoryBefore = (stall, now);
        Reacted(_reaction.TakeMemory(MachineReading.ReadMemoryAvailable(_context.Proc), stalled, now));
    }

    private void Reacted(bool changed)
    {
        if (!changed)
            return;
        var told = _reaction.Told;
        _log.Information("Pressure: the host is at {Cpu} for CPU and at {Memory} for memory{Why:l}", told.Cpu, told.Memory, told.Why.Length > 0 ? $": {told.Why}" : "");
        _pressureToldAt = null;
        EaseAll();
    }

    /// <summary>Tells each microVM what it is to give now, where that is another than before.</summary>
    private void EaseAll()
    {
        var (memory, cpu) = (_reaction.Does(PressureRung.Reclaim), _reaction.Does(PressureRung.Squeeze));
        var here = _vms.Values.Where(entry => entry.HasVmm).ToList();
        var squeezed = cpu ? SqueezePlan.LowestOf(here.Select(entry => entry.Spec.Priority)) : null;
        foreach (var entry in here)
        {
            var ease = new MicroVmActor.Ease(memory, PriorityClass.Rank(entry.Spec.Priority) == squeezed);
            if (ease == entry.Ease)
                continue;
            entry.Ease = ease;
            entry.Actor.Tell(ease);
        }
    }

    /// <summary>A microVM has come or left: another class may be the lowest now, or the only one.</summary>
    private void EaseAnew()
    {
        if (!_reaction.IsCalm)
            EaseAll();
    }

    private void TellPressure()
    {
        if (!_context.Reacts || _session is not { } session || _waitsForRoom || Now - _pressureToldAt < TellPressureEvery)
            return;
        if (session.TrySend(new HostMessage { Pressure = _reaction.Told }))
            _pressureToldAt = Now;
    }
}
