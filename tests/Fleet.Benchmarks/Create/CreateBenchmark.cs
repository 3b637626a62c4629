using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using Fleet.Tests;

namespace Fleet.Benchmarks.Create;

/// <summary>
/// <c>fleet bench create</c>: jailed microVMs a second, each from its jailer's start to its guest's first instruction, as
/// many at once as there are CPUs. Each is ended when it has said its first byte.
/// </summary>
internal static class CreateBenchmark
{
    private const int MicroVms = 500;
    private const int GuestMib = 128;
    private const int FirstUser = 800_000;
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    public static IReadOnlyList<Measurement> Run()
    {
        if (Environment.UserName != "root")
            throw new BenchmarkException("a jail needs root");
        var program = VmmProcess.Program;
        var folder = Directory.CreateTempSubdirectory("fleet-bench-").FullName;
        try
        {
            var kernel = Path.Combine(folder, "kernel");
            SmallGuest.Write(kernel, SmallGuest.MarkAndIdle);
            var config = Path.Combine(folder, "vm.json");
            File.WriteAllText(config, $$$"""{"boot-source": {"kernel_image_path": "/dev/fd/4", "boot_args": "x"}, "machine-config": {"vcpu_count": 1, "mem_size_mib": {{{GuestMib}}} } }""");
            _ = Create(program, folder, kernel, config, 0); // fills the page cache
            var times = new ConcurrentBag<double>();
            var next = 0;
            var began = Stopwatch.GetTimestamp();
            var workers = Enumerable.Range(0, Environment.ProcessorCount).Select(_ => new Thread(() =>
            {
                for (int index; (index = Interlocked.Increment(ref next)) <= MicroVms;)
                    times.Add(Create(program, folder, kernel, config, index));
            })).ToArray();
            foreach (var worker in workers)
                worker.Start();
            foreach (var worker in workers)
                worker.Join();
            var elapsed = Stopwatch.GetElapsedTime(began).TotalSeconds;
            var sorted = times.Order().ToArray();
            return
            [
                new("microvms_per_s", MicroVms / elapsed, "/s"),
                new("create_p50_ms", sorted[sorted.Length / 2], "ms"),
                new("create_p99_ms", sorted[sorted.Length * 99 / 100], "ms"),
            ];
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    // Milliseconds to the guest's first byte.
    private static double Create(string program, string folder, string kernel, string config, int index)
    {
        var began = Stopwatch.GetTimestamp();
        var user = (FirstUser + index).ToString(CultureInfo.InvariantCulture);
        var pidFile = Path.Combine(folder, $"pid-{index}");
        using var jailer = Process.Start(new ProcessStartInfo(
            program,
            ["jail", "--id", $"bench-{index}", "--uid", user, "--gid", user, "--pid-file", pidFile, "--fd", $"3=read:{config}", "--fd", $"4=read:{kernel}", "--", "--no-api", "--config-file", "/dev/fd/3"])
        {
            RedirectStandardInput = true, RedirectStandardOutput = true, RedirectStandardError = true,
        })!;
        var reading = Task.Run(() => jailer.StandardOutput.BaseStream.ReadByte());
        if (!reading.Wait(Patience) || reading.Result != SmallGuest.Mark)
            throw new BenchmarkException($"a jailed VMM did not bring its guest to its first byte: {jailer.StandardError.ReadToEnd()}");
        var time = Stopwatch.GetElapsedTime(began).TotalMilliseconds;
        var pid = int.Parse(File.ReadLines(pidFile).Last().Split(' ')[0], CultureInfo.InvariantCulture);
        using var vmm = Process.GetProcessById(pid);
        vmm.Kill();
        jailer.WaitForExit();
        return time;
    }
}
