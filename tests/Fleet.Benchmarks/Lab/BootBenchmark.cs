using System.Text.Json.Nodes;

namespace Fleet.Benchmarks.Lab;

/// <summary><c>fleet bench boot</c>: Linux from the VMM's start to a line from user space.</summary>
internal static class BootBenchmark
{
    private const int Rounds = 5;

    public static IReadOnlyList<Measurement> Run() => RunAsync().GetAwaiter().GetResult();

    private static async Task<IReadOnlyList<Measurement>> RunAsync()
    {
        await using var bench = await LabBench.StartAsync();
        var fleet = $"{bench.Load} until USERSPACE {await bench.CommandAsync("fleet", "echo USER'SPACE'", [], "")}";
        var qemu = $"{bench.Load} until USERSPACE {await bench.CommandAsync(null, "echo USER'SPACE'", [], "")}";
        List<double[]> ours = [], theirs = [];
        for (var round = 0; round <= Rounds; round++)
        {
            var first = LabBench.Results(await bench.RunAsync(fleet))[0];
            var second = LabBench.Results(await bench.RunAsync(qemu))[0];
            if (round == 0)
                continue; // fills the page cache, for both
            ours.Add(first);
            theirs.Add(second);
        }

        var boot = LabBench.Median(ours.Select(one => one[0]));
        var peer = LabBench.Median(theirs.Select(one => one[0]));

        // Of the process's whole CPU time, what it spent in its own code: neither in the guest nor in the kernel.
        var share = LabBench.Median(ours.Select(one => 100 * one[2] / (one[1] + one[2] + one[3])));
        return
        [
            new("boot_ratio", LabBench.Median(ours.Zip(theirs, (one, other) => one[0] / other[0])), ""),
            new("boot_ms", boot, "ms", "QEMU microvm, KVM", peer),
            new("vmm_share", share, "%"),
            Part("guest_cpu_ms", 1),
            Part("vmm_cpu_ms", 2),
            Part("kernel_cpu_ms", 3),
        ];

        Measurement Part(string metric, int index) =>
            new(metric, LabBench.Median(ours.Select(one => one[index])), "ms", "QEMU microvm, KVM", LabBench.Median(theirs.Select(one => one[index])));
    }
}
