using System.Globalization;
using System.Net;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Fleet.Host.Lab;
using Fleet.Host.Networks;

namespace Fleet.Benchmarks.Lab;

/// <summary>
/// TCP both ways and ping of Linux in a lab node, under fleet-vmm and under QEMU's microvm. <c>fleet bench net</c>: with its host over a tap.
/// <c>fleet bench network</c>: with a network outside of its host, by tap, bridge and rules of a tenant's network.
/// </summary>
internal static partial class NetBenchmark
{
    private const int Rounds = 5;

    /// <summary>How a guest is connected.</summary>
    /// <param name="SetUp">Shell of the node, before the other side serves.</param>
    /// <param name="Serve">What to put before the other side's command.</param>
    /// <param name="Tap">The interface that both monitors get, one after the other.</param>
    /// <param name="Mac">The guest's.</param>
    /// <param name="InGuest">Shell of the guest, when its interface is up.</param>
    /// <param name="Server">Address of the other side.</param>
    private sealed record Connection(string SetUp, string Serve, string Tap, string Mac, string InGuest, string Server)
    {
        public string Script => $"modprobe virtio_net; ip link set eth0 up; {InGuest}; /load receive {Server} 8078 4; /load send {Server} 8078 4; ping -i 0.01 -c 300 -q {Server}";
    }

    private static readonly Connection Alone = new(
        "busybox tunctl -t fleet0 >/dev/null; busybox ip address add 10.77.0.1/24 dev fleet0; busybox ip link set fleet0 up; ", "", "fleet0", "06:00:0a:4d:00:02",
        "ip address add 10.77.0.2/24 dev eth0", "10.77.0.1");

    public static IReadOnlyList<Measurement> Run() => RunAsync(Alone).GetAwaiter().GetResult();

    public static IReadOnlyList<Measurement> RunInTenantsNetwork()
    {
        var results = RunAsync(InTenantsNetwork()).GetAwaiter().GetResult();
        return [new("net_ratio", results.Where(one => one.Metric is "tcp_rx_ratio" or "tcp_tx_ratio").Min(one => one.Value), ""), .. results];
    }

    /// <summary>A guest that takes longer than three times what it needs has come to a stop, under either monitor: see docs/benchmarks.md.</summary>
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(90);

    private const int MostStuck = 3;

    private static async Task<IReadOnlyList<Measurement>> RunAsync(Connection connection)
    {
        List<double[]> first = [], second = [];
        for (var stuck = 0; first.Count < Rounds;)
        {
            try
            {
                await MeasureAsync(connection, first, second);
            }
            catch (LabException stoodStill) when (stuck++ < MostStuck)
            {
                // The round that was begun is over for both, and the next one has a node of its own.
                var whose = first.Count > second.Count ? "QEMU" : "fleet-vmm";
                first.RemoveRange(second.Count, first.Count - second.Count);
                Console.Error.WriteLine($"round {first.Count + 1}: the lab node or its guest under {whose} stood still ({stoodStill.Code}); going on in another node");
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
    private static async Task MeasureAsync(Connection connection, List<double[]> first, List<double[]> second)
    {
        await using var bench = await LabBench.StartAsync();
        await bench.RunAsync($"{connection.SetUp}{connection.Serve}{bench.Load} serve 8078 >/dev/null 2>&1 </dev/null &");
        var ours = await bench.CommandAsync(
            "fleet", connection.Script,
            new JsonObject
            {
                ["network-interfaces"] = new JsonArray(new JsonObject { ["iface_id"] = "eth0", ["host_dev_name"] = connection.Tap, ["guest_mac"] = connection.Mac }),
            },
            "");
        var theirs = await bench.CommandAsync(
            null, connection.Script, [], $"-netdev tap,id=n,ifname={connection.Tap},script=no,downscript=no,vhost=off -device virtio-net-device,netdev=n,mac={connection.Mac}");
        while (first.Count < Rounds)
        {
            first.Add(Parse(await bench.RunAsync(UntilMeasured(ours), Limit)));
            second.Add(Parse(await bench.RunAsync(UntilMeasured(theirs), Limit)));
        }

        // Ended with the last figure: without its clock and its interrupt controller QEMU's serial port never says that it is empty, for which fleet-init waits 40 s.
        static string UntilMeasured(string vmm) =>
            $"{vmm} </dev/null >/tmp/measured & while kill -0 $! && ! grep -q round-trip /tmp/measured; do sleep 0.1; done; kill $!; wait; cat /tmp/measured";
    }

    /// <summary>What an agent makes for a microVM: the same links and the same rules, and beyond them a network of their host's.</summary>
    private static Connection InTenantsNetwork()
    {
        const string outside = "192.0.2.2";
        var links = new LinkPlan("/bench");
        var one = new Attachment("vm", "acme", "bench", IPNetwork.Parse("10.144.0.0/22"), IPNetwork.Parse("fd00:1:2:3::/64"), 2, []);
        var batch = string.Join('\n', links.Make([one], new HashSet<string>(), ipv6: true, whole: true));
        var setUp = $"""
            set -e
            ip netns add outside
            ip link add up0 type veth peer name up0 netns outside
            ip address add 192.0.2.1/24 dev up0; ip link set up0 up
            ip -n outside address add {outside}/24 dev up0; ip -n outside link set up0 up
            ip -batch - <<'end'
            {batch}
            end
            nft -f - <<'end'
            {Ruleset.Write([one], links, [], CountedConnections.Each([one], Ruleset.MostConnections), null)}
            end
            echo 1 >/proc/sys/net/ipv4/ip_forward

            """;
        return new(
            setUp, "ip netns exec outside ", links.TapOf(one), one.Mac,
            $"ip address add {one.Address4}/{one.Subnet4.PrefixLength} dev eth0; ip route add default via {one.Gateway4}", outside);
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
