using Akka.Actor;
using Akka.Event;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Hosts;

/// <summary>
/// A host whose machine is short of CPU or memory says so: it gets no new microVM until that is over. When nothing that it can do by itself helps it
/// asks for microVMs to be taken away; they go as from a host that is drained, where another has room for them.
/// </summary>
internal sealed partial class HostActor
{
    /// <summary>A host changes its mind at most every ten seconds and repeats itself; one that does so faster is not to fill the journal.</summary>
    private static readonly TimeSpan LeastBetweenPressures = TimeSpan.FromSeconds(5);

    private static readonly TimeSpan EvictionPeriod = TimeSpan.FromSeconds(1);

    /// <summary>To end in order; as a drain gives by default.</summary>
    private const uint EvictionGraceMs = 10_000;

    private readonly EvictionPlan _evictions = new();
    private TimeSpan? _pressureStoredAt;

    private sealed class EvictTick : INoSerializationVerificationNeeded
    {
        public static readonly EvictTick Instance = new();
    }

    private bool IsPressed => Connected && _record!.Pressure is not null;

    private void OnPressure(PressureReport pressure)
    {
        if (!Connected || HostPressure.IsSame(_record!.Pressure, pressure) || Monotonic - _pressureStoredAt < LeastBetweenPressures)
            return;
        _pressureStoredAt = Monotonic;
        Store([new HostPressureChanged { At = At, Pressure = pressure }], () =>
        {
            if (IsPressed)
                _log.Warning("Host {HostId} is short: {Cpu} for CPU, {Memory} for memory: {Why}", _id, pressure.Cpu, pressure.Memory, pressure.Why);
            else
                _log.Info("Host {HostId} is short of nothing any more", _id);
            PublishView();
            EvictWhereAsked();
        });
    }

    private void EvictWhereAsked()
    {
        if (HostPressure.Evicts(_record!.Pressure))
            Timers.StartPeriodicTimer(EvictTick.Instance, EvictTick.Instance, EvictionPeriod);
    }

    private void OnEvictTick()
    {
        if (!Connected || !HostPressure.Evicts(_record!.Pressure))
        {
            Timers.Cancel(EvictTick.Instance);
            return;
        }
        // Whoever empties it does more than that.
        if (IsDraining || _evictions.Next(_ledger.Reservations, _record.Pressure.Memory == PressureRung.Evict, Monotonic) is not { } next)
            return;
        _log.Info("Host {HostId} is short: {VmId} is asked to go elsewhere", _id, next.VmId);
        _vms.Tell(new MoveVm { VmId = next.VmId, HostId = _id, Epoch = next.Epoch, GraceMs = EvictionGraceMs, Pressed = true, Round = next.Round }, Self);
    }
}
