using System.Text.Json.Nodes;

namespace Fleet.Benchmarks.Lab;

/// <summary><c>fleet bench boot</c>: Linux from the VMM's start to a line from user space.</summary>
internal static class BootBenchmark
{
    private const int Rounds = 9;
    private const string Metrics = "/tmp/boot.metrics";

    public static IReadOnlyList<Measurement> Run() => RunAsync().GetAwaiter().GetResult();

    private static async Task<IReadOnlyList<Measurement>> RunAsync()
    {
        await using var bench = await LabBench.StartAsync();
        var metrics = new JsonObject { ["metrics"] = new JsonObject { ["metrics_path"] = Metrics } };
        var fleet = $"rm -f {Metrics}; {bench.Load} until USERSPACE {await bench.CommandAsync("fleet", "echo USER'SPACE'", metrics, "")} && cat {Metrics}";
        var qemu = $"{bench.Load} until USERSPACE {await bench.CommandAsync(null, "echo USER'SPACE'", [], "")}";
        List<double[]> ours = [], theirs = [];
        List<double> shares = [];
        for (var round = 0; round <= Rounds; round++)
        {
            var output = await bench.RunAsync(fleet);
            var first = LabBench.Results(output)[0];
            var second = LabBench.Results(await bench.RunAsync(qemu))[0];
            if (round == 0)
                continue; // fills the page cache, for both
            ours.Add(first);
            theirs.Add(second);
            shares.Add(100 * HandlingMilliseconds(output) / first[0]);
        }

        var boot = LabBench.Median(ours.Select(one => one[0]));
        var peer = LabBench.Median(theirs.Select(one => one[0]));

        return
        [
            new("boot_ratio", LabBench.Median(ours.Zip(theirs, (one, other) => one[0] / other[0])), ""),
            new("boot_ms", boot, "ms", "QEMU microvm, KVM", peer),
            new("vmm_share", LabBench.Median(shares), "%"),
            Part("guest_cpu_ms", 1),
            Part("vmm_cpu_ms", 2),
            Part("kernel_cpu_ms", 3),
        ];

        Measurement Part(string metric, int index) =>
            new(metric, LabBench.Median(ours.Select(one => one[index])), "ms", "QEMU microvm, KVM", LabBench.Median(theirs.Select(one => one[index])));
    }

    /// <summary>What fleet-vmm took over its guest's exits, by its own metrics: the guest waits meanwhile.</summary>
    private static double HandlingMilliseconds(string output) => output.Split('\n').Where(line => line.StartsWith('{')).Sum(line =>
    {
        var vcpu = JsonNode.Parse(line)!["vcpu"]!;
        return ((string[])["exit_io_in_agg", "exit_io_out_agg", "exit_mmio_read_agg", "exit_mmio_write_agg"]).Sum(kind => (double)vcpu[kind]!["sum_us"]!) / 1000;
    });
}
