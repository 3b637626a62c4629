using System.Diagnostics;
using System.Text.RegularExpressions;
using Fleet.Cli.Tests.EndToEnd;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests;

/// <summary>The units that docs/operating.md ships: whole, understood by systemd, and with words that the program takes.</summary>
public sealed partial class SystemdUnitTests
{
    [GeneratedRegex("```ini\n# /etc/systemd/system/(?<name>\\S+)\n(?<text>.*?)```", RegexOptions.Singleline)]
    private static partial Regex Unit();

    [GeneratedRegex("^ExecStart=/opt/fleet/fleet (?<words>.*)$", RegexOptions.Multiline)]
    private static partial Regex Start();

    private static List<(string Name, string Text)> Units() =>
        [.. Unit().Matches(File.ReadAllText(Path.Combine(Checkout.Root, "docs", "operating.md"))).Select(match => (match.Groups["name"].Value, match.Groups["text"].Value))];

    [Fact]
    public void Should_leave_microvms_alone_and_start_again_for_ever()
    {
        Assert.Equal(["fleet-host.service", "fleet-scheduler.service", "fleet.service"], Units().Select(unit => unit.Name).Order(StringComparer.Ordinal));
        foreach (var (name, text) in Units())
        {
            Assert.Contains("\nRestart=always\n", text, StringComparison.Ordinal);
            Assert.Contains("\nStartLimitIntervalSec=0\n", text, StringComparison.Ordinal);
            // Where VMMs run in the unit.
            Assert.Equal(name != "fleet-scheduler.service", text.Contains("\nKillMode=process\nOOMPolicy=continue\n", StringComparison.Ordinal));
        }
    }

    [Fact]
    public async Task Should_have_words_that_the_program_takes()
    {
        foreach (var (name, text) in Units())
        {
            var words = Assert.Single(Start().Matches(text)).Groups["words"].Value.Split(' ');
            var (exit, output) = await RunAsync("dotnet", [RunningFleet.Program, .. words, "--help"], ("FLEET_DATABASE", "postgresql://fleet@db/fleet"));
            Assert.True(exit == 0, $"{name}: {output}");
        }
    }

    /// <summary>Help is shown without a look at what goes with what: only a start shows that the words of the unit are enough.</summary>
    [Fact]
    public async Task Should_start_with_the_database_of_the_environment()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-units-");
        try
        {
            string[] words = ["scheduler", "--data", folder.FullName, "--api", $"127.0.0.1:{FreePort.Next()}", "--link", $"127.0.0.1:{FreePort.Next()}"];
            var database = ("FLEET_DATABASE", $"postgresql://fleet@127.0.0.1:{FreePort.Next()}/fleet");
            var (exit, output) = await RunAsync("dotnet", [RunningFleet.Program, .. words, "--cluster", $"127.0.0.1:{FreePort.Next()}"], database);
            Assert.True(exit == 1 && output.Contains("can't be used", StringComparison.Ordinal), $"{exit}: {output}");

            (exit, output) = await RunAsync("dotnet", [RunningFleet.Program, .. words], database);
            Assert.True(exit == 2 && output.Contains("go together", StringComparison.Ordinal), $"{exit}: {output}");
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Fact]
    public async Task Should_be_understood_by_systemd_where_it_is_installed()
    {
        if (!File.Exists("/usr/bin/systemd-analyze"))
            return;
        var folder = Directory.CreateTempSubdirectory("fleet-units-");
        try
        {
            foreach (var (name, text) in Units())
            {
                var file = Path.Combine(folder.FullName, name);
                await File.WriteAllTextAsync(file, text.Replace("/opt/fleet/fleet", Path.Combine(Checkout.Root, "fleet"), StringComparison.Ordinal));
                var (exit, output) = await RunAsync("/usr/bin/systemd-analyze", ["verify", file]);
                Assert.True(exit == 0 && !output.Contains(name, StringComparison.Ordinal), $"{name}: {exit} {output}");
            }
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static async Task<(int Exit, string Output)> RunAsync(string program, string[] words, params (string Name, string Value)[] environment)
    {
        var start = new ProcessStartInfo(program, words) { RedirectStandardError = true, RedirectStandardOutput = true };
        foreach (var (name, value) in environment)
            start.Environment[name] = value;
        using var process = Process.Start(start)!;
        var (output, error) = (process.StandardOutput.ReadToEndAsync(), process.StandardError.ReadToEndAsync());
        await process.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(60));
        return (process.ExitCode, await output + await error);
    }
}
