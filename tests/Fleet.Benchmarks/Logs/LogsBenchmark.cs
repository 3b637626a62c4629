using System.Buffers.Text;
using System.Diagnostics;
using System.Net.Sockets;
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
/// beside it looks at every line. Loss is found by content: each line must be the one behind the line before it. Beside it what the bare port carries from such a guest.
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
            return [.. await LogsAsync(folder.FullName, images, rounds), new Measurement("port_mb_s", await PortAsync(folder.FullName, images, rounds), "MB/s")];
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

    private static async Task<IReadOnlyList<Measurement>> LogsAsync(string folder, DefaultImageStore images, int rounds)
    {
        var driver = new QemuDriver(new DriverOptions("/nonexistent/fleet-vmm", DriverOptions.DefaultQemu, images));
        var launch = new VmmLaunch("vm-bench", 1, Spec("", "cat /tmp/lines", rounds), Path.Combine(folder, "vm"));
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

    /// <summary>
    /// The same guest, whose command writes to the port itself: nothing is framed, shown on the console, checked or written down. The port has another name, or fleet-init would have it.
    /// </summary>
    private static async Task<double> PortAsync(string folder, DefaultImageStore images, int rounds)
    {
        var qemu = Path.Combine(folder, "qemu");
        await File.WriteAllTextAsync(qemu, $"#!/bin/bash\nexec {DriverOptions.DefaultQemu} \"${{@/#virtserialport,*/virtserialport,chardev=guest,name=bench}}\"\n");
        File.SetUnixFileMode(qemu, UnixFileMode.UserRead | UnixFileMode.UserExecute);
        var driver = new QemuDriver(new DriverOptions("/nonexistent/fleet-vmm", qemu, images));
        var launch = new VmmLaunch("vm-port", 1, Spec("port=/dev/$(ls /sys/class/virtio-ports);", "dd if=/tmp/lines of=$port bs=256k", rounds), Path.Combine(folder, "port"));
        await using var vmm = await driver.LaunchAsync(launch, default);
        try
        {
            using var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            await socket.ConnectAsync(new UnixDomainSocketEndPoint(Path.Combine(launch.Directory, VmmFiles.GuestSocket)));
            using var late = new CancellationTokenSource(Limit);
            using var ended = CancellationTokenSource.CreateLinkedTokenSource(late.Token);
            var watching = vmm.Completion.ContinueWith(_ => ended.Cancel(), late.Token, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
            var buffer = new byte[1 << 18];
            long first = 0, last = 0, bytes = 0;
            try
            {
                while (await socket.ReceiveAsync(buffer, ended.Token) is > 0 and var read)
                {
                    last = Stopwatch.GetTimestamp();
                    if (first == 0) first = last;
                    bytes += read;
                }
            }
            catch (OperationCanceledException) when (!late.IsCancellationRequested)
            {
                // The guest has ended.
            }
            await watching;
            if (bytes < (long)rounds * LinesOfRound) throw new BenchmarkException($"{bytes} bytes came over the bare port");
            return bytes / 1e6 / Stopwatch.GetElapsedTime(first, last).TotalSeconds;
        }
        finally
        {
            await vmm.StopAsync(TimeSpan.Zero);
        }
    }

    // The lines are written once and then only copied: the guest's programs are emulated, and to make numbers is not what is measured.
    private static VmSpec Spec(string prepare, string copy, int rounds) => new()
    {
        Name = "bench", Cpus = 1, MemoryMib = 512, Driver = "qemu",
        Command = { "sh", "-c", $"seq 1 {LinesOfRound} > /tmp/lines; {prepare} i=0; while [ $i -lt {rounds} ]; do {copy}; i=$((i+1)); done" },
    };

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
