using System.CommandLine;
using System.Globalization;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Prediction;

namespace Fleet.Cli.Node;

/// <summary>How much more than they have the cell's hosts promise: the options of whoever runs a scheduler.</summary>
internal sealed class OversubscriptionOptions
{
    private readonly Option<double?> _cpuRatio = Ratio("--cpu-ratio", "vCPUs that a host may promise per CPU");
    private readonly Option<double?> _memoryRatio = Ratio("--memory-ratio", "MiB that a host may promise per MiB");
    private readonly Option<bool> _predict = new("--predict") { Description = "Within the ratios promise only what the peak of real use leaves free (docs/oversubscription.md)" };
    private readonly Option<string?> _cpu = Predictor("--cpu-predictor", PredictorSettings.DefaultCpu, Fold.P90);
    private readonly Option<string?> _memory = Predictor("--memory-predictor", PredictorSettings.DefaultMemory, Fold.Max);
    private readonly Option<double?> _reserve = new("--reserve")
    {
        Description = "Share of a machine that predictions leave free, 0 to 0.9 (default 0.1)",
        Validators =
        {
            result =>
            {
                if (result.GetValueOrDefault<double?>() is not (null or (>= 0 and <= 0.9)))
                    result.AddError("--reserve wants a share from 0 to 0.9.");
            },
        },
    };

    public void AddTo(Command command)
    {
        foreach (var option in (Option[])[_cpuRatio, _memoryRatio, _predict, _cpu, _memory, _reserve])
            command.Options.Add(option);
        command.Validators.Add(result =>
        {
            if (!result.GetValue(_predict) && (result.GetValue(_cpu) ?? result.GetValue(_memory)) is not null)
                result.AddError("--cpu-predictor and --memory-predictor go with --predict.");
            if (!result.GetValue(_predict) && result.GetValue(_reserve) is not null)
                result.AddError("--reserve goes with --predict.");
        });
    }

    /// <summary>What was asked for, put into a node's settings.</summary>
    public Func<CellOptions, CellOptions> Of(ParseResult parsed)
    {
        var cpuRatio = parsed.GetValue(_cpuRatio);
        var memoryRatio = parsed.GetValue(_memoryRatio);
        PredictionTerms? terms = null;
        if (parsed.GetValue(_predict))
        {
            terms = new();
            terms = new()
            {
                Cpu = parsed.GetValue(_cpu) ?? terms.Cpu,
                Memory = parsed.GetValue(_memory) ?? terms.Memory,
                Reserve = parsed.GetValue(_reserve) ?? terms.Reserve,
            };
        }
        return options => options with
        {
            CpuRatio = cpuRatio ?? options.CpuRatio,
            MemoryRatio = memoryRatio ?? options.MemoryRatio,
            Prediction = terms ?? options.Prediction,
        };
    }

    /// <summary>The same words for another process.</summary>
    public IEnumerable<string> Words(ParseResult parsed)
    {
        foreach (var option in (Option<double?>[])[_cpuRatio, _memoryRatio, _reserve])
        {
            if (parsed.GetValue(option) is { } number)
                yield return $"{option.Name}={number.ToString("R", CultureInfo.InvariantCulture)}";
        }
        foreach (var option in (Option<string?>[])[_cpu, _memory])
        {
            if (parsed.GetValue(option) is { } text)
                yield return $"{option.Name}={text}";
        }
        if (parsed.GetValue(_predict))
            yield return _predict.Name;
    }

    private static Option<double?> Ratio(string name, string what) => new(name)
    {
        Description = $"{what} (default {(name == "--cpu-ratio" ? 4 : 1)})",
        Validators =
        {
            result =>
            {
                if (result.GetValueOrDefault<double?>() is not (null or (>= 0.1 and <= 100)))
                    result.AddError($"{name} wants a number from 0.1 to 100.");
            },
        },
    };

    private static Option<string?> Predictor(string name, string otherwise, Fold fold) => new(name)
    {
        Description = $"{PredictorSettings.Grammar} (default {otherwise})",
        Validators =
        {
            result =>
            {
                if (result.GetValueOrDefault<string?>() is { } text && PredictorSettings.Parse(text, fold) is null)
                    result.AddError($"{name} wants {PredictorSettings.Grammar}; not '{text}'.");
            },
        },
    };
}
