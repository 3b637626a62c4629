using System.Diagnostics;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>A guest's console at a real terminal, by script(1). The guest echoes, as Linux's terminals do.</summary>
public sealed class InteractiveTests
{
    [SkippableFact]
    public async Task Should_show_what_is_typed_once_and_leave_the_terminal_as_it_was()
    {
        Skip.IfNot(File.Exists("/dev/kvm"), "needs /dev/kvm");
        await using var fleet = await RunningFleet.StartAsync();
        var kernel = fleet.Kernel(SmallGuest.Echo);

        var run = await AtTerminalAsync(fleet, $"vm run -i --name echoes --driver kvm --stop-grace 1 --kernel {kernel}", "first");
        Assert.Contains("fleet: stopping the microVM", run, StringComparison.Ordinal);

        Assert.Equal(0, (await fleet.CliAsync("vm", "start", "echoes")).Exit);
        await AtTerminalAsync(fleet, "vm console -i echoes", "second");
    }

    /// <summary>Types a line when the guest has written its mark, and Ctrl-C when another reader of its console has seen that; all that was on the screen.</summary>
    private static async Task<string> AtTerminalAsync(RunningFleet fleet, string arguments, string line)
    {
        var commands = $"trap : INT; dotnet '{RunningFleet.Program}' --api {fleet.Http.BaseAddress} {arguments}; stty -a | grep -q ' echo ' && echo terminal as before";
        // Whoever is started in the background ignores SIGINT, and so would this.
        using var shell = Process.Start(new ProcessStartInfo("env", ["--default-signal=INT", "script", "-qec", commands, "/dev/null"])
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, Environment = { ["FLEET_DATA"] = fleet.Data, ["TERM"] = "xterm" },
        })!;
        try
        {
            var screen = "";
            var buffer = new char[4096];
            using var bound = new CancellationTokenSource(TimeSpan.FromSeconds(60));
            await UntilAsync(() => screen.Contains('!', StringComparison.Ordinal));
            await TypeAsync(line + "\r");
            await UntilAsync(() => screen.Contains(line, StringComparison.Ordinal));
            await RunningFleet.WaitAsync("the guest's echo", async () => (await fleet.CliAsync("vm", "console", "--no-follow", "echoes")).Output.Contains(line, StringComparison.Ordinal));
            await TypeAsync("\x03");
            await UntilAsync(() => false);
            Assert.Contains("terminal as before", screen, StringComparison.Ordinal);
            Assert.Equal(2, screen.Split(line).Length);
            return screen;

            async Task TypeAsync(string keys)
            {
                await shell.StandardInput.WriteAsync(keys);
                await shell.StandardInput.FlushAsync();
            }

            // Or to the end.
            async Task UntilAsync(Func<bool> met)
            {
                try
                {
                    while (!met() && await shell.StandardOutput.ReadAsync(buffer, bound.Token) is > 0 and var count)
                        screen += new string(buffer, 0, count);
                }
                catch (OperationCanceledException)
                {
                    throw new TimeoutException($"it did not go on; there is: {screen}\n{fleet.Log()}");
                }
            }
        }
        finally
        {
            if (!shell.HasExited)
                shell.Kill(entireProcessTree: true);
        }
    }
}
