using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text.Json;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>Commands in a guest that says more than is read, stands still, goes on, and dies.</summary>
[Trait("Kind", "Slow")]
public sealed partial class ExecFaultTests
{
    private const int Interrupt = 2, Kill = 9, Continue = 18, Stop = 19;

    private static readonly TimeSpan Boot = TimeSpan.FromSeconds(120);

    /// <summary>Far more than the windows and pipes between the guest's command and who reads: 64 KiB of pipe at both ends, 256 KiB of the stream.</summary>
    private const long MostUnderWay = 2 << 20;

    [Fact]
    public async Task Should_hold_back_a_flood_and_end_commands_of_a_guest_that_is_frozen_or_killed()
    {
        await using var fleet = await RunningFleet.StartAsync();
        var (exit, output, error) = await fleet.CliAsync("vm", "run", "-d", "--name", "box", "--driver", "qemu", "--memory", "256", "--json", "--", "sleep", "10000");
        Assert.True(exit == 0, $"{output}\n{error}\n{fleet.Log()}");
        var vmm = JsonDocument.Parse(output).RootElement.GetProperty("vmm_pid").GetInt32();
        await RunningFleet.WaitAsync("the guest's first answer", async () => (await ExecAsync("true")).Exit == 0, Boot);

        // A flood that nobody reads stands still with little under way, and other commands run beside it.
        using (var flood = Started("echo $$ >/tmp/flood; truncate -s 64G /tmp/zeros; exec cat /tmp/zeros"))
        {
            long before, now = -1;
            await RunningFleet.WaitAsync("the flood to stand still", async () =>
            {
                (before, now) = (now, await ReadSoFarAsync());
                return now > 0 && now == before;
            }, onTimeout: () => $"it has read {now} bytes\n{fleet.Log()}");
            Assert.InRange(now, 1, MostUnderWay);
            // Who reads after all has it go on.
            var reading = flood.StandardOutput.BaseStream.CopyToAsync(Stream.Null);
            await RunningFleet.WaitAsync("the flood to go on", async () => await ReadSoFarAsync() > 2 * MostUnderWay, onTimeout: fleet.Log);
            Signal(flood.Id, Interrupt);
            Assert.Equal(128 + Interrupt, await EndAsync(flood));
            await reading;
        }

        // Frozen: what has not begun is given up in a while, or at the first Ctrl-C; what runs, at the second, as its guest does not answer the first.
        using var begun = Started("echo began; exec sleep 10000");
        Assert.Equal("began", await begun.StandardOutput.ReadLineAsync());
        Signal(vmm, Stop);
        try
        {
            using var givenUp = Started("true");
            var silent = ExecAsync("true");
            await IsWaitingAsync(givenUp);
            Signal(givenUp.Id, Interrupt);
            Assert.Equal(130, await EndAsync(givenUp));
            Signal(begun.Id, Interrupt);
            (exit, _, error) = await silent;
            Assert.True(exit == 125 && error.Contains("guest_silent", StringComparison.Ordinal), $"{exit}: {error}\n{fleet.Log()}");
            // Many seconds after the first.
            Assert.False(begun.HasExited);
            Signal(begun.Id, Interrupt);
            Assert.Equal(130, await EndAsync(begun));
        }
        finally
        {
            Signal(vmm, Continue);
        }

        await RunningFleet.WaitAsync("the guest's answer after it went on", async () => (await ExecAsync("true")).Exit == 0, onTimeout: fleet.Log);

        using var cut = Started("echo began; exec sleep 10000");
        Assert.Equal("began", await cut.StandardOutput.ReadLineAsync());
        Signal(vmm, Kill);
        Assert.Equal(125, await EndAsync(cut));
        Assert.Contains("guest_gone", await cut.StandardError.ReadToEndAsync(), StringComparison.Ordinal);
        Assert.Equal("vmm_killed", (await fleet.WaitForAsync("box", "failed")).GetProperty("reason").GetProperty("code").GetString());
        (exit, _, error) = await ExecAsync("true");
        Assert.True(exit == 125 && error.Contains("wrong_state", StringComparison.Ordinal), $"{exit}: {error}");

        Task<(int Exit, string Output, string Error)> ExecAsync(params string[] command) => fleet.CliAsync(["vm", "exec", "box", "--", .. command]);

        // Whoever is started in the background ignores SIGINT, and so would this.
        Process Started(string script) => Process.Start(new ProcessStartInfo("env",
        [
            "--default-signal=INT", "dotnet", RunningFleet.Program, "--api", fleet.Http.BaseAddress!.ToString(), "vm", "exec", "box", "--", "sh", "-c", script,
        ])
        {
            RedirectStandardOutput = true, RedirectStandardError = true, Environment = { ["FLEET_DATA"] = fleet.Data },
        })!;

        // Of the file that the flood is made of; below zero: it does not run yet.
        async Task<long> ReadSoFarAsync()
        {
            var (status, words, _) = await ExecAsync("sh", "-c", "cat /proc/$(cat /tmp/flood)/fdinfo/3");
            return status == 0 && words.Split('\n')[0].Split('\t') is ["pos:", var position] ? long.Parse(position, CultureInfo.InvariantCulture) : -1;
        }
    }

    private static async Task<int> EndAsync(Process process)
    {
        await process.WaitForExitAsync().WaitAsync(TimeSpan.FromSeconds(10));
        return process.ExitCode;
    }

    /// <summary>It has connected, and does nothing more by itself.</summary>
    private static async Task IsWaitingAsync(Process process)
    {
        var (ticks, still) = (-1L, 0);
        await RunningFleet.WaitAsync("the command line to wait", () =>
        {
            var now = JoinedHost.CpuTicks(process.Id);
            still = now == ticks && Directory.EnumerateFiles($"/proc/{process.Id}/fd").Any(fd => new FileInfo(fd).LinkTarget?.StartsWith("socket:", StringComparison.Ordinal) == true) ? still + 1 : 0;
            ticks = now;
            return Task.FromResult(still == 4);
        });
    }

    private static void Signal(int pid, int signal) => Assert.Equal(0, kill(pid, signal));

    [LibraryImport("libc")]
    private static partial int kill(int pid, int signal);
}
