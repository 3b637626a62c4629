using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Fleet.Benchmarks;

/// <summary>One figure: a median, and where a peer was measured in the same run, the peer's.</summary>
/// <param name="Metric">Stable name, unit as suffix.</param>
/// <param name="Beside">What it stands beside, or null.</param>
internal sealed record Measurement(string Metric, double Value, string Unit, string? Beside = null, double? BesideValue = null);

/// <summary>A benchmark that can't run here; the message says what is missing.</summary>
internal sealed class BenchmarkException(string message) : Exception(message);

/// <summary>The one form in which every benchmark tells its figures.</summary>
internal static class Report
{
    private static readonly JsonSerializerOptions Options = new()
    {
        WriteIndented = true,
        Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping,
    };

    public static void Print(TextWriter output, string name, IReadOnlyList<Measurement> results, bool json)
    {
        if (json)
        {
            output.WriteLine(Json(name, Machine.Describe(), results).ToJsonString(Options));
            return;
        }

        output.WriteLine($"{name} on {Machine.Describe()}");
        foreach (var result in results)
        {
            var beside = result.Beside is null ? "" : string.Create(
                CultureInfo.InvariantCulture, $"   {result.Beside}: {result.BesideValue:0.###} {result.Unit} (ratio {Ratio(result):0.###})");
            output.WriteLine(string.Create(CultureInfo.InvariantCulture, $"  {result.Metric,-24} {result.Value,10:0.###} {result.Unit}{beside}"));
        }
    }

    public static JsonObject Json(string name, string machine, IReadOnlyList<Measurement> results) => new()
    {
        ["name"] = name,
        ["machine"] = machine,
        ["results"] = new JsonArray([.. results.Select(result =>
        {
            var line = new JsonObject { ["metric"] = result.Metric, ["value"] = Math.Round(result.Value, 4), ["unit"] = result.Unit };
            if (result.Beside is not null && result.BesideValue is { } value)
            {
                line["beside"] = result.Beside;
                line["beside_value"] = Math.Round(value, 4);
                line["ratio"] = Math.Round(Ratio(result)!.Value, 4);
            }

            return (JsonNode)line;
        })]),
    };

    private static double? Ratio(Measurement result) => result.BesideValue is > 0 ? result.Value / result.BesideValue : null;
}
