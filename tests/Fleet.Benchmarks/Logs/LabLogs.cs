using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Benchmarks.Lab;
using Fleet.Host.Lab;
using Fleet.Tests;

namespace Fleet.Benchmarks.Logs;

/// <summary>
/// The same by the whole of Fleet: a microVM under fleet-vmm on a lab host, whose agent runs there too, under emulation as everything in it. When it has ended it is asked how much
/// came and how much is missing; what is kept, the newest, is checked line by line, and the rate is by the host's times of these.
/// </summary>
internal static class LabLogs
{
    private const int LinesOfRound = 20_000, Rounds = 25;

    /// <summary>Behind each number. Lines cost the agent, which is emulated too, far more than bytes do when they are told.</summary>
    private static readonly string Rest = ' ' + new string('x', 90);

    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(5);

    private const int MostStuck = 2;

    /// <summary>Beside it what a bare connection over vsock carries from a guest under fleet-vmm in a lab node, where nothing is framed, written down or told on.</summary>
    public static async Task<IReadOnlyList<Measurement>> RunAsync()
    {
        var vsock = await VsockAsync();
        return [.. await LogsAsync(), new Measurement("lab_vsock_mb_s", vsock, "MB/s")];
    }

    private static async Task<double> VsockAsync()
    {
        for (var stuck = 0; ; stuck++)
        {
            await using var bench = await LabBench.StartAsync();
            const string socket = "/tmp/fleet-bench.sock";
            var vmm = await bench.CommandAsync(
                "fleet", "modprobe vmw_vsock_virtio_transport; /load vsend 5005 4; reboot -f",
                new JsonObject { ["vsock"] = new JsonObject { ["guest_cid"] = 3, ["uds_path"] = socket } }, "");
            try
            {
                return LabBench.Results(await bench.RunAsync($"{bench.Load} take {socket}_5005 & {vmm} </dev/null >/dev/null; wait $!", TimeSpan.FromSeconds(90)))[0][0];
            }
            catch (LabException stoodStill) when (stuck < MostStuck)
            {
                await Console.Error.WriteLineAsync($"vsock: the lab node or its guest stood still ({stoodStill.Code}); going on in another node");
            }
        }
    }

    private static async Task<IReadOnlyList<Measurement>> LogsAsync()
    {
        for (var stuck = 0; ; stuck++)
        {
            if (await OnceAsync() is { } found)
                return found;
            if (stuck == MostStuck)
                throw new BenchmarkException($"in none of {MostStuck + 1} lab nodes did the microVM end");
        }
    }

    /// <summary>Null: the microVM did not end in its time, and why is told.</summary>
    private static async Task<IReadOnlyList<Measurement>?> OnceAsync()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-bench-logs-");
        var data = Path.Combine(folder.FullName, "data");
        string api = $"http://127.0.0.1:{FreePort.Next()}", link = $"127.0.0.1:{FreePort.Next()}";
        try
        {
            await FleetAsync(data, api, "up", "--detach", "--data", data, "--link", link, "--id", "box");
            await FleetAsync(data, api, "lab", "up", "--nodes", "1", "--data", data, "--link", link);
            // It waits until somebody surely takes what it writes.
            await FleetAsync(data, api, "vm", "run", "--detach", "--name", "writes", "--driver", "kvm", "--memory", "512", "--boot-timeout", "240", "--", "sh", "-c",
                $"seq 1 {LinesOfRound} | sed 's/$/{Rest}/' > /tmp/lines; sleep 5; i=0; while [ $i -lt {Rounds} ]; do cat /tmp/lines; i=$((i+1)); done");
            try
            {
                await FleetAsync(data, api, "vm", "wait", "writes", "--state", "stopped", "--timeout", "150");
            }
            catch (BenchmarkException late)
            {
                var now = await TryAsync(data, api, "vm", "show", "writes") + await TryAsync(data, api, "vm", "console", "writes", "--no-follow");
                await Console.Error.WriteLineAsync($"logs: {late.Message}; going on in another lab node. There is:\n{now[..Math.Min(now.Length, 4000)]}");
                return null;
            }
            var log = JsonNode.Parse(await FleetAsync(data, api, "vm", "show", "writes", "--json"))!["log"]!;
            var (end, lost) = ((double)log["end"]!, (double)log["lost_bytes"]!);
            if (end != BytesOfRound * Rounds || lost != 0) throw new BenchmarkException($"{end} of {BytesOfRound * Rounds} bytes came, {lost} are missing");
            var rate = Check((await FleetAsync(data, api, "vm", "logs", "writes", "--json")).Split('\n', StringSplitOptions.RemoveEmptyEntries));
            return [new Measurement("lab_logs_mb_s", rate, "MB/s"), new Measurement("lab_logs_mb", end / 1e6, "MB"), new Measurement("lab_logs_lost_bytes", lost, "bytes")];
        }
        finally
        {
            await TryAsync(data, api, "lab", "down", "--data", data);
            await TryAsync(data, api, "vm", "delete", "writes", "--no-wait");
            await TryAsync(data, api, "down", "--data", data);
            folder.Delete(recursive: true);
        }
    }

    private static readonly double BytesOfRound = Enumerable.Range(1, LinesOfRound).Sum(number => number.ToString(CultureInfo.InvariantCulture).Length + Rest.Length + 1);

    /// <summary>MB a second, from the first line that is kept to the last.</summary>
    private static double Check(string[] lines)
    {
        DateTimeOffset first = default, last = default;
        double from = 0, to = 0;
        // The oldest is cut somewhere, and its line is the end of one.
        for (var i = 1; i < lines.Length; i++)
        {
            using var line = JsonDocument.Parse(lines[i]);
            var (position, text) = (line.RootElement.GetProperty("position").GetDouble(), line.RootElement.TryGetProperty("line", out var written) ? written.GetString() : null);
            last = line.RootElement.GetProperty("time").GetDateTimeOffset();
            if (i == 1) (first, from) = (last, position);
            var number = (int)((LinesOfRound * Rounds) - lines.Length + i) % LinesOfRound + 1;
            if (text != number.ToString(CultureInfo.InvariantCulture) + Rest || (i > 1 && position != to)) throw new BenchmarkException($"line {i} of {lines.Length} is {lines[i]}");
            to = position + text.Length + 1;
        }
        return (to - from) / 1e6 / (last - first).TotalSeconds;
    }

    /// <summary>For what the others do not depend on; what it prints, or why it did not.</summary>
    private static async Task<string> TryAsync(string data, string api, params string[] arguments)
    {
        try
        {
            return await FleetAsync(data, api, arguments);
        }
        catch (BenchmarkException failed)
        {
            return failed.Message;
        }
    }

    private static async Task<string> FleetAsync(string data, string api, params string[] arguments)
    {
        var start = new ProcessStartInfo("dotnet", [Path.Combine(Checkout.Artifacts, "cli", "fleet.dll"), "--api", api, .. arguments])
        {
            RedirectStandardOutput = true, RedirectStandardError = true, Environment = { ["FLEET_DATA"] = data },
        };
        using var process = Process.Start(start)!;
        using var bound = new CancellationTokenSource(Limit);
        var (output, error) = (process.StandardOutput.ReadToEndAsync(bound.Token), process.StandardError.ReadToEndAsync(bound.Token));
        try
        {
            await process.WaitForExitAsync(bound.Token);
            var said = await output;
            return process.ExitCode == 0 ? said : throw new BenchmarkException($"fleet {string.Join(' ', arguments)}: {said} {await error}");
        }
        catch (OperationCanceledException)
        {
            process.Kill();
            throw new BenchmarkException($"fleet {string.Join(' ', arguments)} did not end within {Limit.TotalMinutes:0} min");
        }
    }
}
