using System.CommandLine;
using System.Globalization;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Prediction;

namespace Fleet.Cli.Node;

/// <summary>How much more than they have the cell's hosts promise: the options of whoever runs a scheduler.</summary>
internal sealed class OversubscriptionOptions
{
    private readonly Option<double?> _cpuRatio = Ratio("--cpu-ratio", "vCPUs that a host may promise per CPU", "4");
    private readonly Option<double?> _memoryRatio = Ratio("--memory-ratio", "MiB that a host may promise per MiB", "1");
    private readonly Option<double?> _diskRatio = Ratio("--disk-ratio", "MiB of disk that a host may promise per MiB", "1");
    private readonly Option<double?> _networkRatio = Ratio("--network-ratio", "Mbit/s that a host may promise per Mbit/s of its link", "1");
    private readonly Option<double?> _iopsRatio = Ratio("--iops-ratio", "Disk operations a second that a host may promise per one", "1");
    private readonly Option<bool> _predict = new("--predict") { Description = "Within the ratios promise only what the peak of real use leaves free (docs/oversubscription.md)" };
    private readonly Option<string?> _cpu = Predictor("--cpu-predictor", PredictorSettings.DefaultCpu, Fold.P90);
    private readonly Option<string?> _memory = Predictor("--memory-predictor", PredictorSettings.DefaultMemory, Fold.Max);
    private readonly Option<double?> _reserve = Reserve();
    private readonly Option<string[]> _classes = Classes();

    public void AddTo(Command command)
    {
        foreach (var option in (Option[])[_cpuRatio, _memoryRatio, _diskRatio, _networkRatio, _iopsRatio, _predict, _cpu, _memory, _reserve, _classes])
            command.Options.Add(option);
        command.Validators.Add(result =>
        {
            if (!result.Given(_predict) && (result.GetResult(_cpu) ?? result.GetResult(_memory)) is not null)
                result.AddError("--cpu-predictor and --memory-predictor go with --predict.");
            if (!result.Given(_predict) && result.GetResult(_reserve) is not null)
                result.AddError("--reserve goes with --predict.");
            if (!result.Given(_predict) && result.GetResult(_classes) is not null)
                result.AddError("--predict-class goes with --predict.");
        });
    }

    /// <summary>What was asked for, put into a node's settings.</summary>
    public Func<CellOptions, CellOptions> Of(ParseResult parsed)
    {
        var cpuRatio = parsed.GetValue(_cpuRatio);
        var memoryRatio = parsed.GetValue(_memoryRatio);
        var (diskRatio, networkRatio, iopsRatio) = (parsed.GetValue(_diskRatio), parsed.GetValue(_networkRatio), parsed.GetValue(_iopsRatio));
        var terms = parsed.GetValue(_predict) ? Terms(parsed.GetValue(_cpu), parsed.GetValue(_memory), parsed.GetValue(_reserve), parsed.GetValue(_classes)) : null;
        return options => options with
        {
            CpuRatio = cpuRatio ?? options.CpuRatio,
            MemoryRatio = memoryRatio ?? options.MemoryRatio,
            DiskRatio = diskRatio ?? options.DiskRatio,
            NetworkRatio = networkRatio ?? options.NetworkRatio,
            IopsRatio = iopsRatio ?? options.IopsRatio,
            Prediction = terms ?? options.Prediction,
        };
    }

    /// <summary>What is given, and the defaults for the rest.</summary>
    public static PredictionTerms Terms(string? cpu, string? memory, double? reserve, string[]? classes)
    {
        var terms = new PredictionTerms();
        terms = new() { Cpu = cpu ?? terms.Cpu, Memory = memory ?? terms.Memory, Reserve = reserve ?? terms.Reserve };
        return terms with { Classes = [.. (classes ?? []).Select(text => PredictedClass.Parse(text, terms, out _)!)] };
    }

    /// <summary>The same words for another process.</summary>
    public IEnumerable<string> Words(ParseResult parsed)
    {
        foreach (var option in (Option<double?>[])[_cpuRatio, _memoryRatio, _diskRatio, _networkRatio, _iopsRatio, _reserve])
        {
            if (parsed.GetValue(option) is { } number)
                yield return $"{option.Name}={number.ToString("R", CultureInfo.InvariantCulture)}";
        }
        foreach (var option in (Option<string?>[])[_cpu, _memory])
        {
            if (parsed.GetValue(option) is { } text)
                yield return $"{option.Name}={text}";
        }
        foreach (var text in parsed.GetValue(_classes) ?? [])
            yield return $"{_classes.Name}={text}";
        if (parsed.GetValue(_predict))
            yield return _predict.Name;
    }

    /// <summary>Classes of hosts; what is checked here is each by itself and all of them together.</summary>
    public static Option<string[]> Classes() => new("--predict-class")
    {
        Description = $"Hosts with predictors of their own; repeated, the first that a host is in counts: {PredictedClass.Grammar}",
        Validators =
        {
            result =>
            {
                var terms = new PredictionTerms();
                var classes = new List<PredictedClass>();
                foreach (var token in result.Tokens)
                {
                    if (PredictedClass.Parse(token.Value, terms, out var problem) is { } one)
                        classes.Add(one);
                    else
                        result.AddError($"--predict-class: {problem}.");
                }
                if ((terms with { Classes = classes }).FirstProblem() is { } together)
                    result.AddError($"--predict-class: {together}.");
            },
        },
    };

    public static Option<double?> Reserve() => new("--reserve")
    {
        Description = "Share of a machine that predictions leave free, 0 to 0.9 (default 0.1)",
        Validators =
        {
            result =>
            {
                if (result.Given<double?>() is not (null or (>= 0 and <= 0.9)))
                    result.AddError("--reserve wants a share from 0 to 0.9.");
            },
        },
    };

    /// <param name="name">Of the option.</param>
    /// <param name="what">It is.</param>
    /// <param name="otherwise">What holds where it is not given.</param>
    public static Option<double?> Ratio(string name, string what, string otherwise) => new(name)
    {
        Description = $"{what} (default {otherwise})",
        Validators =
        {
            result =>
            {
                if (result.Given<double?>() is not (null or (>= 0.1 and <= 100)))
                    result.AddError($"{name} wants a number from 0.1 to 100.");
            },
        },
    };

    /// <param name="name">Of the option.</param>
    /// <param name="otherwise">The predictor where it is not given.</param>
    /// <param name="fold">Of the samples that it predicts from.</param>
    public static Option<string?> Predictor(string name, string otherwise, Fold fold) => new(name)
    {
        Description = $"{PredictorSettings.Grammar} (default {otherwise})",
        Validators =
        {
            result =>
            {
                if (result.Given<string?>() is { } text && PredictorSettings.Parse(text, fold) is null)
                    result.AddError($"{name} wants {PredictorSettings.Grammar}; not '{text}'.");
            },
        },
    };
}
