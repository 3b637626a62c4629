using System.CommandLine;
using System.CommandLine.Parsing;
using System.Globalization;
using System.Text.Json.Nodes;
using Fleet.Cli.Node;
using Fleet.Cli.Output;
using Fleet.Scheduler.Placement;
using Fleet.Scheduler.Prediction;
using Fleet.Scheduler.Simulation;

namespace Fleet.Cli.Simulate;

/// <summary><c>fleet simulate</c>: a trace on made-up hosts, by the engine and the predictors of a real control plane. Needs no fleet.</summary>
internal static class SimulateCommand
{
    /// <summary>Policies times seeds.</summary>
    private const int MostRuns = 100;

    /// <summary>Made-up curves, where use is wanted and none was recorded.</summary>
    private const int Generated = 1000;

    private const string GeneratedUsage = "generated";

    private const string NoRatio = "1: no oversubscription";

    private static readonly Option<string?> Arrivals = new("--arrivals") { Description = "A Protean CSV, or the folder of Azure's trace of 2017 (default: generated)" };
    private static readonly Option<int> MicroVms = Bounded("--microvms", "How many to generate", 20_000, 1, ArrivalTrace.MostVms);
    private static readonly Option<string?> Usage = new("--usage") { Description = $"Curves of use: a .tar.gz of PlanetLab or GCD, a folder of them, or '{GeneratedUsage}' (default: use is not simulated)" };
    private static readonly Option<string[]> Policies = new("--policy")
    {
        Description = $"{string.Join(", ", PlacementPolicies.Names)}, or all; may be repeated",
        AllowMultipleArgumentsPerToken = true,
        DefaultValueFactory = _ => [PlacementPolicies.Engine],
        Validators =
        {
            result =>
            {
                foreach (var name in result.Tokens.Select(token => token.Value).Where(name => name != "all" && !PlacementPolicies.Names.Contains(name)))
                    result.AddError($"--policy wants {string.Join(", ", PlacementPolicies.Names)} or all; not '{name}'.");
            },
        },
    };

    private static readonly Option<HostShape[]> Hosts = new("--hosts")
    {
        Description = "Hosts as COUNT, or COUNTxCPUSxMEMORY with MiB or G (40x64x256G), may be repeated; default: as many of the trace's first shape as its volume, and 5 %",
        AllowMultipleArgumentsPerToken = true,
        CustomParser = result => [.. result.Tokens.Select(token => Shape(token.Value, result)).OfType<HostShape>()],
    };

    private static readonly Option<int[]> Seeds = new("--seed")
    {
        Description = "For whatever is chance; may be repeated, for a run each (default 1)",
        AllowMultipleArgumentsPerToken = true,
        DefaultValueFactory = _ => [1],
    };

    private static readonly Option<double?> CpuRatio = OversubscriptionOptions.Ratio("--cpu-ratio", "vCPUs that a host may promise per CPU", NoRatio);
    private static readonly Option<double?> MemoryRatio = OversubscriptionOptions.Ratio("--memory-ratio", "MiB that it may promise per MiB", NoRatio);
    private static readonly Option<bool> Predict = new("--predict") { Description = "Within the ratios promise only what the peak of use leaves free; wants --usage" };
    private static readonly Option<string?> CpuPredictor = OversubscriptionOptions.Predictor("--cpu-predictor", PredictorSettings.DefaultCpu, Fold.P90);
    private static readonly Option<string?> MemoryPredictor = OversubscriptionOptions.Predictor("--memory-predictor", PredictorSettings.DefaultMemory, Fold.Max);
    private static readonly Option<double?> Reserve = OversubscriptionOptions.Reserve();
    private static readonly Option<string[]> Classes = OversubscriptionOptions.Classes();

    private static readonly Option<FileInfo?> Picture = new("--picture") { Description = "Draw how full the fleet was over time into this file (SVG)" };

    public static Command Create()
    {
        var command = new Command("simulate", "Play a trace of microVMs on made-up hosts (docs/placement.md)")
        {
            Arrivals, MicroVms, Usage, Policies, Hosts, Seeds, CpuRatio, MemoryRatio, Predict, CpuPredictor, MemoryPredictor, Reserve, Classes, Picture,
        };
        command.Validators.Add(result =>
        {
            if (result.Given(Predict) && result.GetResult(Usage) is null)
                result.AddError("--predict goes with --usage.");
        });
        command.SetAction((parsed, cancellation) => Task.Run(() => Run(parsed, cancellation), CancellationToken.None));
        return command;
    }

    private static int Run(ParseResult parsed, CancellationToken cancellation)
    {
        try
        {
            var plans = Plans(parsed);
            if (plans.Count > MostRuns)
            {
                CommandContext.Tell(parsed, "invalid_command", $"{plans.Count} runs are more than {MostRuns}: name fewer policies or seeds.");
                return ExitCodes.Usage;
            }
            var results = new List<SimulationResult>();
            foreach (var plan in plans)
            {
                if (plans.Count > 1 && !Console.IsErrorRedirected)
                    parsed.InvocationConfiguration.Error.WriteLine($"fleet: {plan.Policy}, seed {plan.Seed} ({results.Count + 1} of {plans.Count})");
                results.Add(FleetSimulation.Run(plan, cancellation));
            }
            if (parsed.GetValue(Picture) is { } file)
                File.WriteAllText(file.FullName, SimulationPicture.Draw(results));
            if (parsed.GetValue(CommandContext.Json))
                Render.Json(parsed.InvocationConfiguration.Output, Json(results));
            else
                Print(parsed.InvocationConfiguration.Output, results);
            return ExitCodes.Ok;
        }
        catch (TraceException broken)
        {
            CommandContext.Tell(parsed, broken.Code, broken.Message);
            return broken.Code == TraceException.NotFound ? ExitCodes.NotFound : ExitCodes.Failed;
        }
        catch (Exception cannot) when (cannot is IOException or UnauthorizedAccessException)
        {
            CommandContext.Tell(parsed, "file_failed", cannot.Message);
            return ExitCodes.Failed;
        }
        catch (OperationCanceledException)
        {
            return ExitCodes.Interrupted;
        }
    }

    private static List<SimulationPlan> Plans(ParseResult parsed)
    {
        var policies = parsed.GetRequiredValue(Policies).Contains("all") ? PlacementPolicies.Names : [.. parsed.GetRequiredValue(Policies).Distinct()];
        var terms = parsed.GetValue(Predict)
            ? OversubscriptionOptions.Terms(parsed.GetValue(CpuPredictor), parsed.GetValue(MemoryPredictor), parsed.GetValue(Reserve), parsed.GetValue(Classes))
            : null;
        IReadOnlyList<UsageCurve>? recorded = parsed.GetValue(Usage) is { } usage && usage != GeneratedUsage ? [.. UsageCurves.Read(usage)] : null;
        if (recorded is { Count: 0 })
            throw new TraceException(TraceException.Malformed, $"'{parsed.GetValue(Usage)}' has no curve of a whole day.");
        var plans = new List<SimulationPlan>();
        foreach (var seed in parsed.GetRequiredValue(Seeds).Distinct())
        {
            var trace = parsed.GetValue(Arrivals) is { } path ? ArrivalTrace.Read(path, seed) : ArrivalTrace.Generate(parsed.GetValue(MicroVms), seed);
            var hosts = HostsFor(trace, parsed.GetValue(Hosts) ?? []);
            var curves = parsed.GetValue(Usage) is null ? [] : recorded ?? UsageCurves.Generate(Generated, seed);
            plans.AddRange(policies.Select(policy => new SimulationPlan(trace, hosts, policy, seed)
            {
                Usage = curves,
                CpuRatio = parsed.GetValue(CpuRatio) ?? 1,
                MemoryRatio = parsed.GetValue(MemoryRatio) ?? 1,
                Prediction = terms,
            }));
        }
        return plans;
    }

    private static List<HostShape> HostsFor(ArrivalTrace trace, HostShape[] wanted)
    {
        var shape = trace.Shapes[0];
        return wanted.Length == 0
            ? [new(shape, Math.Clamp((int)Math.Ceiling(trace.VolumeBound(shape) * 1.05), 1, FleetSimulation.MostHosts))]
            : [.. wanted.Select(one => one.Size == default ? one with { Size = shape } : one)];
    }

    // Without a size: of the trace's own.
    private static HostShape? Shape(string text, ArgumentResult result)
    {
        var words = text.Split('x');
        if (words.Length is 1 or 3 && int.TryParse(words[0], NumberStyles.None, CultureInfo.InvariantCulture, out var count) && count is >= 1 and <= FleetSimulation.MostHosts)
        {
            if (words.Length == 1)
                return new(default, count);
            var inGib = words[2].EndsWith('G');
            if (long.TryParse(words[1], NumberStyles.None, CultureInfo.InvariantCulture, out var cpus) && cpus is >= 1 and <= 1_000_000
                && long.TryParse(inGib ? words[2][..^1] : words[2], NumberStyles.None, CultureInfo.InvariantCulture, out var memory) && memory is >= 1 and <= 1_000_000_000)
                return new(new(cpus, inGib ? memory * 1024 : memory), count);
        }
        result.AddError($"--hosts wants COUNT or COUNTxCPUSxMEMORY, such as 40 or 40x64x256G, of at most {FleetSimulation.MostHosts} hosts; not '{text}'.");
        return null;
    }

    private static void Print(TextWriter output, List<SimulationResult> results)
    {
        var first = results[0];
        output.WriteLine($"{first.Plan.Trace.Name}: {first.Arrived} microVMs in {Number(first.Points[^1].At / 3600)} h on {string.Join(", ", first.Plan.Hosts.Select(one => $"{one.Count} hosts of {one.Size.Cpus} x {one.Size.MemoryMib}"))}");
        Render.Table(
            output,
            ["POLICY", "SEED", "REFUSED", "BEFORE THE FIRST", "MOST HOSTS", "CPU PROMISED", "MEMORY PROMISED", "CPU USED", "MEMORY USED", "CPU SHORT", "MEMORY SHORT"],
            results.Select(one => (IReadOnlyList<string>)
            [
                one.Plan.Policy, Number(one.Plan.Seed), Number(one.Refused), Number(one.PlacedBeforeRefusal), Number(one.MostHostsUsed),
                Percent(one.CpuPromised), Percent(one.MemoryPromised), Percent(one.CpuUsed), Percent(one.MemoryUsed), Percent(one.CpuShort), Percent(one.MemoryShort),
            ]));
    }

    private static JsonArray Json(List<SimulationResult> results) => new([.. results.Select(one => (JsonNode)new JsonObject
    {
        ["trace"] = one.Plan.Trace.Name,
        ["policy"] = one.Plan.Policy,
        ["seed"] = one.Plan.Seed,
        ["hosts"] = one.Hosts,
        ["arrived"] = one.Arrived,
        ["refused"] = one.Refused,
        ["placed_before_refusal"] = one.PlacedBeforeRefusal,
        ["most_hosts_used"] = one.MostHostsUsed,
        ["cpu_promised"] = Rounded(one.CpuPromised),
        ["memory_promised"] = Rounded(one.MemoryPromised),
        ["cpu_used"] = Rounded(one.CpuUsed),
        ["memory_used"] = Rounded(one.MemoryUsed),
        ["cpu_short"] = Rounded(one.CpuShort),
        ["memory_short"] = Rounded(one.MemoryShort),
        ["points"] = new JsonArray([.. one.Points.Select(point => (JsonNode)new JsonObject
        {
            ["at_s"] = Math.Round(point.At),
            ["cpu_promised"] = Rounded(point.CpuPromised),
            ["memory_promised"] = Rounded(point.MemoryPromised),
            ["cpu_used"] = Rounded(point.CpuUsed),
            ["memory_used"] = Rounded(point.MemoryUsed),
            ["hosts_used"] = point.HostsUsed,
            ["refused"] = point.Refused,
        })]),
    })]);

    private static double? Rounded(double? share) => share is { } number ? Math.Round(number, 5) : null;

    private static string Percent(double? share) => share is { } number ? string.Create(CultureInfo.InvariantCulture, $"{100 * number:0.##} %") : "-";

    private static string Number(double number) => number.ToString("0.#", CultureInfo.InvariantCulture);

    private static Option<int> Bounded(string name, string what, int otherwise, int least, int most) => new(name)
    {
        Description = $"{what} (default {otherwise})",
        DefaultValueFactory = _ => otherwise,
        Validators =
        {
            result =>
            {
                if (result.Given<int?>() is { } number && (number < least || number > most))
                    result.AddError($"{name} wants a number from {least} to {most}.");
            },
        },
    };
}
