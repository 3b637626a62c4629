using System.CommandLine;
using System.Text.Json;
using System.Xml.Linq;
using Fleet.Cli.Output;
using Fleet.Cli.Simulate;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class SimulateCommandTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-simulate-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private static async Task<(int Exit, string Output, string Error)> RunAsync(params string[] words)
    {
        var root = new RootCommand { SimulateCommand.Create(), CommandContext.Json };
        using var output = new StringWriter();
        using var error = new StringWriter();
        var exit = await root.Parse(["simulate", .. words]).InvokeAsync(new InvocationConfiguration { Output = output, Error = error });
        return (exit, output.ToString(), error.ToString());
    }

    [Fact]
    public async Task Should_tell_each_policy_and_seed_in_json_and_draw_them()
    {
        var picture = Path.Combine(_folder, "fleet.svg");
        var (exit, output, _) = await RunAsync(
            "--microvms", "300", "--policy", "fleet", "first_fit", "--seed", "1", "2", "--hosts", "2x64x128G", "1x32x65536", "--usage", "generated", "--predict", "--cpu-ratio", "2", "--picture", picture, "--json");
        Assert.Equal(ExitCodes.Ok, exit);
        var runs = JsonDocument.Parse(output).RootElement.EnumerateArray().ToList();
        Assert.Equal(["fleet 1", "first_fit 1", "fleet 2", "first_fit 2"], runs.Select(run => $"{run.Text("policy")} {run.Text("seed")}"));
        Assert.All(runs, run => Assert.Equal((3, 300), (run.GetProperty("hosts").GetInt32(), run.GetProperty("arrived").GetInt32())));
        Assert.True(runs[0].GetProperty("cpu_used").GetDouble() < runs[0].GetProperty("cpu_promised").GetDouble());
        Assert.Equal(4, XDocument.Load(picture).Root!.Elements().Count(one => one.Name.LocalName == "g"));
    }

    [Fact]
    public async Task Should_print_a_table()
    {
        var (exit, output, _) = await RunAsync("--microvms", "200", "--hosts", "3");
        Assert.Equal(ExitCodes.Ok, exit);
        Assert.Contains("200 microVMs", output, StringComparison.Ordinal);
        Assert.Contains("3 hosts of 64 x 262144", output, StringComparison.Ordinal);
        Assert.Contains("fleet", output.Split('\n')[2], StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_tell_where_a_trace_is_broken()
    {
        var path = Path.Combine(_folder, "broken.csv");
        await File.WriteAllTextAsync(path, "vmId,tenantId,cores,ram,vmTypeId,starttime,endtime\n1,1,1\n");
        var (exit, _, error) = await RunAsync("--arrivals", path);
        Assert.Equal(ExitCodes.Failed, exit);
        Assert.Contains("line 2:", error, StringComparison.Ordinal);
        Assert.Contains("(trace_malformed)", error, StringComparison.Ordinal);
        Assert.Equal(ExitCodes.NotFound, (await RunAsync("--arrivals", Path.Combine(_folder, "nowhere"))).Exit);
        Assert.Equal(ExitCodes.Failed, (await RunAsync("--microvms", "10", "--picture", Path.Combine(_folder, "no", "where.svg"))).Exit);
    }

    [Theory]
    [InlineData("--policy", "luck")]
    [InlineData("--hosts", "0")]
    [InlineData("--hosts", "3x4")]
    [InlineData("--hosts", "1x2x3x4")]
    [InlineData("--hosts", "1x-2x3")]
    [InlineData("--microvms", "0")]
    [InlineData("--cpu-ratio", "0")]
    [InlineData("--reserve", "1")]
    [InlineData("--cpu-predictor", "hunch")]
    [InlineData("--predict")]
    public void Should_refuse_what_makes_no_sense(params string[] words) =>
        Assert.NotEmpty(new RootCommand { SimulateCommand.Create() }.Parse(["simulate", .. words]).Errors);
}
