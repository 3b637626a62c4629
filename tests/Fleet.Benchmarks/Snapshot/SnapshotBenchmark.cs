using System.Diagnostics;
using Fleet.Tests;

namespace Fleet.Benchmarks.Snapshot;

/// <summary>
/// <c>fleet bench snapshot</c>: a new process takes up a saved microVM, from the request to the answer that it runs. The
/// memory file is sparse and in the page cache, so that the monitor is measured and not a disk.
/// </summary>
internal static class SnapshotBenchmark
{
    private const int Rounds = 15;

    public static IReadOnlyList<Measurement> Run() => [.. Sizes.SelectMany(Measure)];

    private static readonly int[] Sizes = [128, 1024];

    private static IEnumerable<Measurement> Measure(int mebibytes)
    {
        using var saved = new VmmProcess();
        SmallGuest.Write(saved.File("kernel"), SmallGuest.MarkAndIdle);
        saved.Put("/boot-source", $$"""{"kernel_image_path": "{{saved.File("kernel")}}", "boot_args": "x"}""");
        saved.Put("/machine-config", $$"""{"vcpu_count": 1, "mem_size_mib": {{mebibytes}}}""");
        saved.Put("/entropy", "{}");
        saved.Put("/actions", """{"action_type": "InstanceStart"}""");
        saved.Patch("/vm", """{"state": "Paused"}""");
        var began = Stopwatch.GetTimestamp();
        saved.Put("/snapshot/create", $$"""{"snapshot_path": "{{saved.File("state")}}", "mem_file_path": "{{saved.File("memory")}}"}""");
        var create = Stopwatch.GetElapsedTime(began).TotalMilliseconds;
        var times = new List<double>();
        for (var round = 0; round <= Rounds; round++)
        {
            using var restored = new VmmProcess();

            // The client's own first request costs more than the restore.
            _ = restored.Get("/");
            began = Stopwatch.GetTimestamp();
            restored.Put("/snapshot/load", $$"""{"snapshot_path": "{{saved.File("state")}}", "mem_backend": {"backend_type": "File", "backend_path": "{{saved.File("memory")}}"}, "resume_vm": true}""");
            if (round > 0)
                times.Add(Stopwatch.GetElapsedTime(began).TotalMilliseconds);
        }

        var sorted = times.Order().ToArray();
        yield return new($"restore_ms_{mebibytes}", sorted[sorted.Length / 2], "ms");
        yield return new($"create_ms_{mebibytes}", create, "ms");
    }
}
