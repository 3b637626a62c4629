using System.Text.Json;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>The README's first session, on whatever this machine's <c>auto</c> is.</summary>
[Trait("Kind", "Slow")]
public sealed class LinuxTests
{
    [Fact]
    public async Task Should_run_a_command_under_linux_and_end_with_its_status()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var (exit, output, error) = await fleet.CliAsync(
            "vm", "run", "--name", "hello", "--cpus", "2", "--memory", "256", "--", "sh", "-c", "echo hello from $(uname -r) on $(nproc) cpus; exit 7");
        Assert.True(exit == 7, $"exit {exit}\n{output}\n{error}\n{fleet.Log()}");
        Assert.Matches(@"^hello from 6\.1\S* on 2 cpus\r?\n$", output);

        (exit, output, _) = await fleet.CliAsync("vm", "show", "hello", "--json");
        Assert.Equal(0, exit);
        var vm = JsonDocument.Parse(output).RootElement;
        Assert.Equal("stopped", vm.GetProperty("state").GetString());
        Assert.Equal(7, vm.GetProperty("exit_status").GetInt32());

        (exit, output, _) = await fleet.CliAsync("vm", "console", "hello", "--no-follow");
        Assert.Equal(0, exit);
        Assert.Contains("on 2 cpus", output, StringComparison.Ordinal);

        // Sent long before anybody in the guest listens, and with an end that is told.
        (exit, output, error) = await fleet.CliWithInputAsync("typed early\n", "vm", "run", "--rm", "-i", "--", "sh", "-c", "stty -echo; cat; echo over");
        Assert.True(exit == 0, error);
        Assert.EndsWith("typed early\nover\n", output.ReplaceLineEndings("\n"), StringComparison.Ordinal);

        (exit, output, _) = await fleet.CliAsync("vm", "list");
        Assert.Equal(0, exit);
        Assert.Contains("stopped (7)", output, StringComparison.Ordinal);

        (exit, _, error) = await fleet.CliAsync("vm", "delete", "hello");
        Assert.True(exit == 0, error);
        Assert.Empty(fleet.Leftovers(vm.GetProperty("id").GetString()!));
        (exit, _, error) = await fleet.CliAsync("vm", "show", "hello");
        Assert.Equal(3, exit);
        Assert.Contains("not_found", error, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_keep_a_linux_guest_over_kill_9_and_stop_it_in_order()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var (exit, output, error) = await fleet.CliAsync("vm", "run", "-d", "--name", "stays", "--json", "--", "sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 1; done");
        Assert.True(exit == 0, $"{output}\n{error}\n{fleet.Log()}");
        var started = JsonDocument.Parse(output).RootElement;
        Assert.True(started.GetProperty("state").GetString() == "running", $"{output}\n{fleet.Log()}");
        var pid = started.GetProperty("vmm_pid").GetInt32();
        await RunningFleet.WaitAsync("the command's first line", async () => (await fleet.CliAsync("vm", "console", "stays", "--no-follow")).Output.Contains("up", StringComparison.Ordinal));

        fleet.Kill();
        await fleet.UpAsync();
        var now = await fleet.WaitForAsync("stays", "running");
        Assert.Equal(pid, now.GetProperty("vmm_pid").GetInt32());

        (exit, _, error) = await fleet.CliAsync("vm", "stop", "stays");
        Assert.True(exit == 0, error);
        var stopped = await fleet.WaitForAsync("stays", "stopped,failed");
        Assert.Equal("stopped", stopped.GetProperty("state").GetString());
        Assert.Equal(3, stopped.GetProperty("exit_status").GetInt32());

        (exit, output, error) = await fleet.CliAsync("vm", "start", "stays");
        Assert.True(exit == 0, error);
        Assert.Equal(2, (await fleet.WaitForAsync("stays", "running")).GetProperty("epoch").GetInt32());
        await fleet.DeleteAsync(stopped);
    }
}
