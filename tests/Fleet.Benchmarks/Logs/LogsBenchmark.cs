using System.Buffers.Text;
using System.Diagnostics;
using Fleet.Host.Drivers;
using Fleet.Host.Guests;
using Fleet.Host.Images;
using Fleet.Host.Logs;
using Fleet.Shared.Contracts;
using Fleet.Tests;
using Serilog.Core;

namespace Fleet.Benchmarks.Logs;

/// <summary>
/// <c>fleet bench logs</c>: a guest under the driver <c>qemu</c> writes numbered lines as fast as it can; the agent's part takes and writes them down, and a reader
/// beside it looks at every line. Loss is found by content: each line must be the one behind the line before it.
/// </summary>
internal static class LogsBenchmark
{
    private const int LinesOfRound = 1_000_000;

    private static readonly TimeSpan Limit = TimeSpan.FromMinutes(8);

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options) => [
        .. RunAsync((int)options.Number("rounds", 60)).GetAwaiter().GetResult(),
        .. options.Number("lab", 0) > 0 ? LabLogs.RunAsync().GetAwaiter().GetResult() : [],
    ];

    private static async Task<IReadOnlyList<Measurement>> RunAsync(int rounds)
    {
        var folder = Directory.CreateTempSubdirectory("fleet-bench-logs-");
        try
        {
            var init = Path.Combine(Checkout.Artifacts, "guest", "fleet-init");
            if (!File.Exists(init)) throw new BenchmarkException("fleet-init is missing; run ./fleet build");
            using var images = new DefaultImageStore(new ImageOptions(Path.Combine(Checkout.Artifacts, "test-images"), init), Logger.None);
            var driver = new QemuDriver(new DriverOptions("/nonexistent/fleet-vmm", DriverOptions.DefaultQemu, images));
            var spec = new VmSpec { Name = "bench", Cpus = 1, MemoryMib = 512, Driver = "qemu" };
            // Written once and then only copied: the guest's programs are emulated, and to make numbers is not what is measured.
            spec.Command.AddRange(["sh", "-c", $"seq 1 {LinesOfRound} > /tmp/lines; i=0; while [ $i -lt {rounds} ]; do cat /tmp/lines; i=$((i+1)); done"]);
            var launch = new VmmLaunch("vm-bench", 1, spec, Path.Combine(folder.FullName, "vm"));
            await using var vmm = await driver.LaunchAsync(launch, default);
            var streams = new GuestStreams(TimeProvider.System, Logger.None);
            streams.KeepLog(vmm, launch.Directory, new LogPace(TimeProvider.System), _ => { });
            try
            {
                var found = await Task.Run(() => Check(launch.Directory, vmm.Completion)).WaitAsync(Limit);
                if (found.Lines != (long)rounds * LinesOfRound || found.Lost > 0)
                    throw new BenchmarkException($"{found.Lines} of {(long)rounds * LinesOfRound} lines came in order, {found.Lost} bytes are missing: {found.Wrong}");
                return
                [
                    new Measurement("logs_mb_s", found.Bytes / 1e6 / found.Time.TotalSeconds, "MB/s"),
                    new Measurement("logs_mb", found.Bytes / 1e6, "MB"),
                    new Measurement("logs_lost_bytes", found.Lost, "bytes"),
                ];
            }
            finally
            {
                await vmm.StopAsync(TimeSpan.Zero);
                await streams.EndAsync("The benchmark is over.");
            }
        }
        catch (LaunchFailedException failed)
        {
            throw new BenchmarkException(failed.Message);
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private sealed record Found(long Lines, double Bytes, TimeSpan Time, ulong Lost, string Wrong);

    private static Found Check(string directory, Task<VmmEnd> ended)
    {
        long count = 0, first = 0, bytes = 0;
        ulong lost = 0;
        var wrong = "nothing";
        var lines = new LogLines(line =>
        {
            lost += line.Lost;
            if (line.Lost > 0) return;
            if (!Utf8Parser.TryParse(line.Bytes.Span, out long number, out var used) || used != line.Bytes.Length || number != (count % LinesOfRound) + 1)
            {
                if (wrong == "nothing") wrong = $"line {count} is '{System.Text.Encoding.UTF8.GetString(line.Bytes.Span)}'";
                return;
            }
            count++;
            bytes = (long)line.Position + line.Bytes.Length + 1;
        });
        using var cursor = new LogCursor(directory);
        var last = 0L;
        while (true)
        {
            var over = ended.IsCompleted;
            while (cursor.TryRead(out var header, out var payload))
            {
                if (first == 0) first = Stopwatch.GetTimestamp();
                lines.Take(header, payload);
                last = Stopwatch.GetTimestamp();
            }
            if (over) return new Found(count, bytes, Stopwatch.GetElapsedTime(first, last), lost, wrong);
            Thread.Sleep(5);
        }
    }
}
