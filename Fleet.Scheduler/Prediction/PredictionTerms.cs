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

    /// <summary>Hosts that have terms of their own; of several classes that a host is in the first counts.</summary>
    public IReadOnlyList<PredictedClass> Classes { get; init; } = [];

    /// <summary>Whose terms these are; empty: of all hosts that are in no class.</summary>
    public string Class { get; init; } = "";

    /// <summary>Those of a host, as it is now.</summary>
    public PredictionTerms For(Inventory? inventory) => Classes.FirstOrDefault(one => one.Has(inventory))?.Terms ?? this;

    /// <summary>What predictions may fill of the machine's hardware threads.</summary>
    public double Cpus(Inventory? inventory) => (inventory?.Cpus ?? 0) * (1 - Reserve);

    /// <summary>What predictions may fill of its MiB.</summary>
    public double MemoryMib(Inventory? inventory) => (inventory?.MemoryMib ?? 0) * (1 - Reserve);

    /// <summary>What is wrong with them, in words; null: nothing.</summary>
    public string? FirstProblem() =>
        PredictorSettings.Parse(Cpu, Fold.P90) is null ? $"the CPU predictor '{Cpu}' is none: {PredictorSettings.Grammar}"
        : PredictorSettings.Parse(Memory, Fold.Max) is null ? $"the memory predictor '{Memory}' is none: {PredictorSettings.Grammar}"
        : Reserve is not (>= 0 and <= 0.9) ? "the reserve must be from 0 to 0.9 of the machine"
        : Classes.Count > PredictedClass.Most ? $"there may be {PredictedClass.Most} classes of hosts at most"
        : Classes.GroupBy(one => one.Name).FirstOrDefault(same => same.Count() > 1) is { } twice ? $"the class of hosts {twice.Key} is there twice"
        : Classes.Select(one => one.Terms.FirstProblem()).FirstOrDefault(problem => problem is not null);
}
