using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Prediction;

/// <summary>How hosts promise by what their microVMs really use. Without them the ratios alone say how much.</summary>
public sealed record PredictionTerms
{
    /// <summary>A predictor of the machine's CPU peak, see <see cref="PredictorSettings"/>.</summary>
    public string Cpu { get; init; } = PredictorSettings.DefaultCpu;

    /// <summary>A predictor of its memory peak.</summary>
    public string Memory { get; init; } = PredictorSettings.DefaultMemory;

    /// <summary>Share of the machine that is kept free for what no prediction knows of, 0 to 0.9.</summary>
    public double Reserve { get; init; } = 0.1;

    /// <summary>What predictions may fill of the machine's hardware threads.</summary>
    public double Cpus(Inventory? inventory) => (inventory?.Cpus ?? 0) * (1 - Reserve);

    /// <summary>What predictions may fill of its MiB.</summary>
    public double MemoryMib(Inventory? inventory) => (inventory?.MemoryMib ?? 0) * (1 - Reserve);

    /// <summary>What is wrong with them, in words; null: nothing.</summary>
    public string? FirstProblem() =>
        PredictorSettings.Parse(Cpu, Fold.P90) is null ? $"the CPU predictor '{Cpu}' is none: {PredictorSettings.Grammar}"
        : PredictorSettings.Parse(Memory, Fold.Max) is null ? $"the memory predictor '{Memory}' is none: {PredictorSettings.Grammar}"
        : Reserve is >= 0 and <= 0.9 ? null
        : "the reserve must be from 0 to 0.9 of the machine";
}
