using Akka.Event;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Hosts;

/// <summary>A host whose machine is short of CPU or memory says so: it gets no new microVM until that is over.</summary>
internal sealed partial class HostActor
{
    /// <summary>A host changes its mind at most every ten seconds and repeats itself; one that does so faster is not to fill the journal.</summary>
    private static readonly TimeSpan LeastBetweenPressures = TimeSpan.FromSeconds(5);

    private TimeSpan? _pressureStoredAt;

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
        });
    }
}
