using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Prediction;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Hosts;

/// <summary>What the host's microVMs use and are predicted to use. In memory only: nothing of it is in the journal.</summary>
internal sealed partial class HostActor
{
    private readonly UsageBook _usage = new();
    private HostPredictors? _predictors;

    // Its labels and its size may be others than they were.
    private HostPredictors? Predictors
    {
        get
        {
            if (_options.Prediction is not { } terms)
                return null;
            var own = terms.For(_record?.Inventory);
            if (!ReferenceEquals(own, _predictors?.Terms))
                _predictors = HostPredictors.Of(own);
            return _predictors;
        }
    }

    // Series that nothing is predicted by would only take memory.
    private void OnUsage(UsageSample sample) => _usage.Take(sample, _options.Prediction is null ? [] : _ledger.Reservations, Monotonic);

    /// <summary>Null: the ratios alone say what may be promised.</summary>
    private PeakForecast? Forecast() => Predictors is { } predictors ? Forecast(predictors, _ledger.Reservations) : null;

    /// <summary>As if those alone were here.</summary>
    private PeakForecast Forecast(HostPredictors by, IReadOnlyCollection<Reservation> held) => new(
        _usage.Predict(held, by.Cpu, by.Memory, Monotonic),
        new PeakUse(by.Terms.Cpus(_record?.Inventory), by.Terms.MemoryMib(_record?.Inventory)));

    private HostUsage DescribedUsage() => new()
    {
        Used = _usage.Machine?.Clone(),
        CapCpus = _caps.Cpus(_record?.Inventory),
        CapMemoryMib = _caps.MemoryMib(_record?.Inventory),
        CapOther = _caps.Other(_record?.Inventory),
        VolumesMib = (ulong)_ledger.VolumesMib,
        SavedMib = (ulong)_ledger.SavedMib,
        Forecast = Forecast() is not { } forecast ? null : new Cell.Forecast
        {
            PeakCpus = forecast.Peak.Cpus,
            PeakMemoryMib = forecast.Peak.MemoryMib,
            RoomCpus = forecast.Room.Cpus,
            RoomMemoryMib = forecast.Room.MemoryMib,
            KnownVms = (uint)_usage.WarmVms(Monotonic),
            HostClass = _predictors!.Terms.Class,
            CpuPredictor = _predictors.Terms.Cpu,
            MemoryPredictor = _predictors.Terms.Memory,
            Reserve = _predictors.Terms.Reserve,
        },
    };
}
