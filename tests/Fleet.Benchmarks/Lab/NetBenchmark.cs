using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Fleet.Host.Lab;

namespace Fleet.Benchmarks.Lab;

/// <summary><c>fleet bench net</c>: TCP both ways and ping between Linux and its host over a tap, under fleet-vmm and under QEMU's microvm.</summary>
internal static partial class NetBenchmark
{
    private const int Rounds = 5;

    private const string Script =
        "modprobe virtio_net; ip link set eth0 up; ip address add 10.77.0.2/24 dev eth0; /load receive 10.77.0.1 8078 4; /load send 10.77.0.1 8078 4; ping -i 0.01 -c 300 -q 10.77.0.1";

    public static IReadOnlyList<Measurement> Run() => RunAsync().GetAwaiter().GetResult();

    /// <summary>A guest that takes longer than three times what it needs has come to a stop, under either monitor: see docs/benchmarks.md.</summary>
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(90);

    private const int MostStuck = 3;

    private static async Task<IReadOnlyList<Measurement>> RunAsync()
    {
        List<double[]> first = [], second = [];
        for (var stuck = 0; first.Count < Rounds;)
        {
            try
            {
                await MeasureAsync(first, second);
            }
            catch (LabException) when (stuck++ < MostStuck)
            {
                // The round that was begun is over for both, and the next one has a node of its own.
                first.RemoveRange(second.Count, first.Count - second.Count);
                Console.Error.WriteLine($"net: a guest of round {first.Count + 1} stood still; going on in another lab node");
            }
        }

        return
        [
            .. Pair("tcp_rx", 0, "MB/s", higherIsBetter: true), .. Pair("tcp_tx", 1, "MB/s", higherIsBetter: true), .. Pair("ping", 2, "ms", higherIsBetter: false),
        ];

        IEnumerable<Measurement> Pair(string name, int index, string unit, bool higherIsBetter)
        {
            var (own, peer) = (LabBench.Median(first.Select(one => one[index])), LabBench.Median(second.Select(one => one[index])));
            yield return new($"{name}_ratio", higherIsBetter ? own / peer : peer / own, "");
            yield return new(name, own, unit, "QEMU microvm, KVM, no vhost", peer);
        }
    }

    /// <summary>Adds rounds of both until there are enough.</summary>
    private static async Task MeasureAsync(List<double[]> first, List<double[]> second)
    {
        await using var bench = await LabBench.StartAsync();
        await bench.RunAsync(
            "busybox tunctl -t fleet0 >/dev/null; busybox ip address add 10.77.0.1/24 dev fleet0; busybox ip link set fleet0 up; "
            + $"{bench.Load} serve 8078 >/dev/null 2>&1 </dev/null &");
        var ours = await bench.CommandAsync(
            "fleet", Script,
            new JsonObject
            {
                ["network-interfaces"] = new JsonArray(new JsonObject { ["iface_id"] = "eth0", ["host_dev_name"] = "fleet0", ["guest_mac"] = "06:00:0a:4d:00:02" }),
            },
            "");
        var theirs = await bench.CommandAsync(
            null, Script, [], "-netdev tap,id=n,ifname=fleet0,script=no,downscript=no,vhost=off -device virtio-net-device,netdev=n,mac=06:00:0a:4d:00:02");
        while (first.Count < Rounds)
        {
            first.Add(Parse(await bench.RunAsync($"{ours} </dev/null", Limit)));
            second.Add(Parse(await bench.RunAsync($"{theirs} </dev/null", Limit)));
        }
    }

    private static double[] Parse(string output)
    {
        var tcp = LabBench.Results(output);
        var ping = PingTimes().Match(output);
        return tcp.Length == 2 && ping.Success
            ? [tcp[0][0], tcp[1][0], double.Parse(ping.Groups[1].Value, CultureInfo.InvariantCulture)]
            : throw new BenchmarkException($"no figures in: {output}");
    }

    [GeneratedRegex("min/avg/max = [0-9.]+/([0-9.]+)/")]
    private static partial Regex PingTimes();
}
