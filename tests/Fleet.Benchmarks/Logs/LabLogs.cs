using System.Diagnostics;
using System.Globalization;
using System.Text.Json;
using Fleet.Tests;

namespace Fleet.Benchmarks.Logs;

/// <summary>
/// The same by the whole of Fleet: a microVM under fleet-vmm on a lab host, whose agent runs there too, under emulation as everything in it. What it writes is small enough to be
/// kept whole, and is checked when it has ended; the rate is by the host's times of its lines.
/// </summary>
internal static class LabLogs
{
    private const int LinesOfRound = 100_000, Rounds = 16;

    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(5);

    public static async Task<IReadOnlyList<Measurement>> RunAsync()
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
                $"seq 1 {LinesOfRound} > /tmp/lines; sleep 5; i=0; while [ $i -lt {Rounds} ]; do cat /tmp/lines; i=$((i+1)); done");
            await FleetAsync(data, api, "vm", "wait", "writes", "--state", "stopped", "--timeout", "280");
            var lines = (await FleetAsync(data, api, "vm", "logs", "writes", "--json")).Split('\n', StringSplitOptions.RemoveEmptyEntries);
            return Check(lines);
        }
        finally
        {
            await TryAsync(data, api, "lab", "down", "--data", data);
            await TryAsync(data, api, "vm", "delete", "writes", "--no-wait");
            await TryAsync(data, api, "down", "--data", data);
            folder.Delete(recursive: true);
        }
    }

    private static IReadOnlyList<Measurement> Check(string[] lines)
    {
        if (lines.Length != LinesOfRound * Rounds) throw new BenchmarkException($"{lines.Length} of {LinesOfRound * Rounds} lines came");
        DateTimeOffset first = default, last = default;
        double bytes = 0;
        for (var i = 0; i < lines.Length; i++)
        {
            using var line = JsonDocument.Parse(lines[i]);
            if (!line.RootElement.TryGetProperty("line", out var text) || text.GetString() != ((i % LinesOfRound) + 1).ToString(CultureInfo.InvariantCulture))
                throw new BenchmarkException($"line {i} is {lines[i]}");
            last = line.RootElement.GetProperty("time").GetDateTimeOffset();
            if (i == 0) first = last;
            bytes = line.RootElement.GetProperty("position").GetDouble() + text.GetString()!.Length + 1;
        }
        return [new Measurement("lab_logs_mb_s", bytes / 1e6 / (last - first).TotalSeconds, "MB/s"), new Measurement("lab_logs_mb", bytes / 1e6, "MB"), new Measurement("lab_logs_lost_bytes", 0, "bytes")];
    }

    private static async Task TryAsync(string data, string api, params string[] arguments)
    {
        try
        {
            await FleetAsync(data, api, arguments);
        }
        catch (BenchmarkException)
        {
            // The others are still to be ended.
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
