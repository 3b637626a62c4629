using System.Diagnostics;
using System.Text.Json.Nodes;
using Fleet.Shared.Admin;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary><c>fleet admin</c> as an operator has it: the built program, a running fleet, pipes and a terminal.</summary>
public sealed class AdminTests
{
    [Fact]
    public async Task Should_run_single_commands_scripts_and_a_shell()
    {
        await using var fleet = await RunningFleet.StartAsync();
        await SingleAsync(fleet);
        await PipedAsync(fleet);
        await AtTerminalAsync(fleet);
        await CutOffAsync(fleet);
    }

    private static async Task SingleAsync(RunningFleet fleet)
    {
        var (exit, output, error) = await fleet.CliAsync("admin", "host", "list");
        Assert.True(exit == 0, error);
        Assert.Matches(@"(?m)^HOST +STATE .*\nbox +connected +no ", output);
        (exit, output, _) = await fleet.CliAsync("admin", "--json", "host", "show", "box");
        Assert.Equal((0, "box"), (exit, (string)JsonNode.Parse(output)!["host"]!));
        (exit, output, _) = await fleet.CliAsync("admin", "actor", "hierarchy", "-s", "/user", "-d", "1");
        Assert.Equal(0, exit);
        Assert.Contains("  placement  PlacementActor\n", output, StringComparison.Ordinal);
        (exit, output, _) = await fleet.CliAsync("admin", "help", "cluster", "down");
        Assert.Equal(0, exit);
        Assert.StartsWith("cluster down ADDRESS [--yes]\n", output, StringComparison.Ordinal);

        (exit, output, _) = await fleet.CliAsync("admin", "cluster-sharding", "help");
        Assert.Equal(0, exit);
        Assert.StartsWith("cluster-sharding: ", output, StringComparison.Ordinal);

        Assert.Equal(3, (await fleet.CliAsync("admin", "host", "show", "nobody")).Exit);
        (exit, output, error) = await fleet.CliAsync("admin", "host", "list", "-x", "1");
        Assert.Equal((2, "", "fleet: host list does not take '-x'. It takes -n, --most. (invalid_command)\n"), (exit, output, error));
        (exit, _, error) = await fleet.CliAsync("admin", "cluster", "down", "127.0.0.1:1");
        Assert.Equal(2, exit);
        Assert.EndsWith("Say it again with --yes. (confirmation_required)\n", error, StringComparison.Ordinal);
        (exit, _, error) = await fleet.CliAsync("admin", "--node", $"127.0.0.1:{FreePort.Next()}", "system", "version");
        Assert.Equal(5, exit);
        Assert.Contains("No Fleet API at", error, StringComparison.Ordinal);
    }

    private static async Task PipedAsync(RunningFleet fleet)
    {
        var script = $"""
            host cordon box

            host show nobody
            {new string('x', CommandWords.MaxLine * 5)}
            host 'show' "box"
            log tail extra
            host uncordon box
            exit
            host cordon box
            """;
        var (exit, output, error) = await fleet.CliWithInputAsync(script, "admin");
        // The status is that of the last one that failed.
        Assert.Equal(2, exit);
        Assert.StartsWith("box is cordoned: it takes no new microVM; the 0 that it has stay.\nhost ", output, StringComparison.Ordinal);
        Assert.Matches("(?m)^cordoned +yes$", output);
        Assert.EndsWith("box takes microVMs.\n", output, StringComparison.Ordinal);
        Assert.Equal(3, error.Split('\n', StringSplitOptions.RemoveEmptyEntries).Length);
        Assert.Contains("(not_found)\nfleet: A line is longer than", error, StringComparison.Ordinal);
        Assert.Equal((0, "", ""), await fleet.CliWithInputAsync("", "admin"));
    }

    /// <summary>A real terminal, by script(1) of Debian's own set: keys in, screen out.</summary>
    private static async Task AtTerminalAsync(RunningFleet fleet)
    {
        var start = new ProcessStartInfo("script", ["-qec", $"exec dotnet '{RunningFleet.Program}' admin --node {fleet.Http.BaseAddress}", "/dev/null"])
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            Environment = { ["XDG_STATE_HOME"] = Path.Combine(fleet.Files, "state"), ["TERM"] = "xterm", ["FLEET_DATA"] = fleet.Data },
        };
        using var shell = Process.Start(start)!;
        try
        {
            var screen = new Screen(shell.StandardOutput);
            await screen.WaitAsync("fleet> ");
            await TypeAsync(shell, "sys\tver\t\r");
            await screen.WaitAsync("runtime ");
            await TypeAsync(shell, "host cordon b\x7f" + "box\r");
            await screen.WaitAsync("box is cordoned");
            // Ctrl-C ends the command and not the shell.
            var before = await TailsAsync(fleet);
            await TypeAsync(shell, "log tail\r");
            await RunningFleet.WaitAsync("the tail to run", async () => await TailsAsync(fleet) > before);
            Assert.Equal(0, (await fleet.CliAsync("admin", "host", "uncordon", "box")).Exit);
            await screen.WaitAsync("Operator's command host uncordon");
            await TypeAsync(shell, "\x03");
            await screen.WaitAsync("fleet> ");
            await TypeAsync(shell, "cluster leave\r");
            await screen.WaitAsync("[y/N] ");
            await TypeAsync(shell, "n\r");
            await screen.WaitAsync("Nothing was done.");
            // The third line from the end is that of the cordon.
            await TypeAsync(shell, "\x1b[A\x1b[A\x1b[A\r");
            await screen.WaitAsync("box is cordoned");
            await TypeAsync(shell, "host uncordon box\rexit\r");
            await screen.WaitAsync("takes microVMs");
            await shell.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(30));
            Assert.Equal(0, shell.ExitCode);
        }
        finally
        {
            if (!shell.HasExited)
                shell.Kill(entireProcessTree: true);
        }
        var history = Path.Combine(fleet.Files, "state", "fleet", "admin_history");
        Assert.Equal("system version ", File.ReadLines(history).First());
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(history));
    }

    private static async Task CutOffAsync(RunningFleet fleet)
    {
        var before = await TailsAsync(fleet);
        var tail = fleet.CliAsync("admin", "log", "tail");
        await RunningFleet.WaitAsync("the tail to run", async () => await TailsAsync(fleet) > before);
        fleet.Kill();
        var (exit, _, error) = await tail;
        Assert.Equal(5, exit);
        Assert.Contains("broke off", error, StringComparison.Ordinal);
        await fleet.UpAsync();
    }

    /// <summary>Tails that the node has taken so far.</summary>
    private static async Task<int> TailsAsync(RunningFleet fleet) =>
        (await fleet.CliAsync("admin", "log", "peek", "-n", "2000")).Output.Split("Operator's command log tail ").Length - 1;

    private static async Task TypeAsync(Process shell, string keys)
    {
        await shell.StandardInput.WriteAsync(keys);
        await shell.StandardInput.FlushAsync();
    }

    private sealed class Screen(StreamReader output)
    {
        private readonly char[] _buffer = new char[4096];
        private string _text = "";

        /// <summary>Reads until the text comes; what stands before it is gone then.</summary>
        public async Task WaitAsync(string text)
        {
            using var bound = new CancellationTokenSource(TimeSpan.FromSeconds(60));
            int at;
            while ((at = _text.IndexOf(text, StringComparison.Ordinal)) < 0)
            {
                int count;
                try
                {
                    count = await output.ReadAsync(_buffer, bound.Token);
                }
                catch (OperationCanceledException)
                {
                    throw new TimeoutException($"'{text}' never came; there is: {_text}");
                }
                if (count == 0)
                    throw new Xunit.Sdk.XunitException($"The shell ended before '{text}': {_text}");
                _text += new string(_buffer, 0, count);
            }
            _text = _text[(at + text.Length)..];
        }
    }
}
