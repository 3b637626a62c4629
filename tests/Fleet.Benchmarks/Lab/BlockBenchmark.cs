using System.Text.Json.Nodes;

namespace Fleet.Benchmarks.Lab;

/// <summary>
/// <c>fleet bench block</c>: reads of a disk by Linux in the lab, past the guest's page cache, under fleet-vmm's two engines
/// and under QEMU's microvm. The disk's file is in the node's memory, so that the monitor is measured and not a disk.
/// </summary>
internal static class BlockBenchmark
{
    private const int Rounds = 3;
    private const string Seconds = "3";

    private static readonly (string Name, string Load)[] Loads =
    [
        ("randread_qd1", $"4096 1 {Seconds} r"),
        ("randread_qd32", $"4096 32 {Seconds} r"),
        ("seqread_qd1", $"131072 1 {Seconds} s"),
        ("seqread_qd32", $"131072 32 {Seconds} s"),
    ];

    public static IReadOnlyList<Measurement> Run() => RunAsync().GetAwaiter().GetResult();

    private static async Task<IReadOnlyList<Measurement>> RunAsync()
    {
        await using var bench = await LabBench.StartAsync();
        const string Disk = "/run/disk.img";
        await bench.RunAsync($"mount -t tmpfs -o size=200m disk /mnt && dd if=/dev/urandom of=/mnt/disk.img bs=1M count=128 2>/dev/null && ln -s /mnt/disk.img {Disk}");
        var script = string.Join("; ", Loads.Select(load => $"/load disk /dev/vda {load.Load}"));
        var commands = new[]
        {
            await bench.CommandAsync("sync", script, Drive("Sync"), ""),
            await bench.CommandAsync("async", script, Drive("Async"), ""),
            await bench.CommandAsync(null, script, [], $"-drive id=d,file={Disk},format=raw,if=none,cache=writeback -device virtio-blk-device,drive=d"),
        };
        var figures = commands.Select(_ => new List<double[]>()).ToArray();
        for (var round = 0; round < Rounds; round++)
        {
            for (var i = 0; i < commands.Length; i++)
            {
                var output = await bench.RunAsync($"{commands[i]} </dev/null");
                var results = LabBench.Results(output);
                if (results.Length != Loads.Length)
                    throw new BenchmarkException($"{results.Length} of {Loads.Length} loads of round {round} came to an end under {commands[i].Split(' ')[0]} ({i}): {output}");
                figures[i].Add([.. results.Select(one => one[0])]);
            }
        }

        var measured = new List<Measurement>();
        for (var load = 0; load < Loads.Length; load++)
        {
            var name = Loads[load].Name;
            var (sync, async, peer) = (Figure(0), Figure(1), Figure(2));
            measured.Add(new($"{name}_ratio", Math.Max(sync, async) / peer, ""));
            measured.Add(new($"{name} Sync", sync, "/s", "QEMU microvm, KVM", peer));
            measured.Add(new($"{name} Async", async, "/s", "QEMU microvm, KVM", peer));

            double Figure(int command) => LabBench.Median(figures[command].Select(one => one[load]));
        }

        return measured;

        static JsonObject Drive(string engine) => new()
        {
            ["drives"] = new JsonArray(new JsonObject { ["drive_id"] = "d", ["is_root_device"] = false, ["path_on_host"] = Disk, ["io_engine"] = engine }),
        };
    }
}
