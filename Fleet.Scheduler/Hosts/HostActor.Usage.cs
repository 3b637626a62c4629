using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Prediction;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Hosts;

/// <summary>What the host's microVMs use and are predicted to use. In memory only: nothing of it is in the journal.</summary>
internal sealed partial class HostActor
{
    private readonly UsageBook _usage = new();
    private readonly HostPredictors? _predictors;

    private sealed record HostPredictors(PredictionTerms Terms, IPeakPredictor Cpu, IPeakPredictor Memory)
    {
        /// <summary>Of terms that were checked when the cell started.</summary>
        public static HostPredictors? Of(PredictionTerms? terms) => terms is null
            ? null
            : new(terms, PredictorSettings.Parse(terms.Cpu, Fold.P90)!, PredictorSettings.Parse(terms.Memory, Fold.Max)!);
    }

    // Series that nothing is predicted by would only take memory.
    private void OnUsage(UsageSample sample) => _usage.Take(sample, _predictors is null ? [] : _ledger.Reservations, Monotonic);

    /// <summary>Null: the ratios alone say what may be promised.</summary>
    private PeakForecast? Forecast() => _predictors is null ? null : Forecast(_ledger.Reservations);

    /// <summary>As if those had left already. Only where there are predictors.</summary>
    private PeakForecast ForecastWithout(IReadOnlyCollection<Reservation> gone) => Forecast([.. _ledger.Reservations.Except(gone)]);

    private PeakForecast Forecast(IReadOnlyCollection<Reservation> held) => new(
        _usage.Predict(held, _predictors!.Cpu, _predictors.Memory, Monotonic),
        new PeakUse(_predictors.Terms.Cpus(_record?.Inventory), _predictors.Terms.MemoryMib(_record?.Inventory)));

    private HostUsage DescribedUsage() => new()
    {
        Used = _usage.Machine?.Clone(),
        CapCpus = _caps.Cpus(_record?.Inventory),
        CapMemoryMib = _caps.MemoryMib(_record?.Inventory),
        CapOther = _caps.Other(_record?.Inventory),
        VolumesMib = (ulong)_ledger.VolumesMib,
        Forecast = Forecast() is not { } forecast ? null : new Cell.Forecast
        {
            PeakCpus = forecast.Peak.Cpus,
            PeakMemoryMib = forecast.Peak.MemoryMib,
            RoomCpus = forecast.Room.Cpus,
            RoomMemoryMib = forecast.Room.MemoryMib,
            KnownVms = (uint)_usage.WarmVms(Monotonic),
        },
    };
}
