using System.Net.Sockets;
using System.Text.Json;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests.EndToEnd;

/// <summary>Networks of microVMs on a host that is a namespace of the test.</summary>
[Trait("Kind", "Slow")]
public sealed class NetworkTests
{
    private const string Serving = "while :; do echo served | nc -l -p 80; done";

    [SkippableFact]
    public async Task Should_join_a_tenants_guests_by_name_keep_others_out_and_leave_no_trace()
    {
        Skip.IfNot(NetworkLab.IsPossible, "needs root, /dev/net/tun and nft");
        await using var fleet = await NetworkedFleet.StartAsync(linux: true);
        var before = fleet.State();
        var (acme, umbrella) = (await fleet.TenantAsync("acme"), await fleet.TenantAsync("umbrella"));

        await fleet.DoAsync(acme, "vm", "run", "--detach", "--name", "web", "--publish", "8080:80", "--", "sh", "-c", Serving);
        var web = JsonDocument.Parse(await fleet.DoAsync(acme, "vm", "show", "web", "--json")).RootElement;
        var address = web.GetProperty("addresses").GetProperty("ipv4").GetString()!;
        var address6 = web.GetProperty("addresses").GetProperty("ipv6").GetString()!;
        Assert.Contains(address, await fleet.DoAsync(acme, "vm", "show", "web"), StringComparison.Ordinal);
        await RunningFleet.WaitAsync("the guest to serve", () => Task.FromResult(Serves(fleet, NetworkedFleet.HostAddress, 8080)), TimeSpan.FromMinutes(2));

        // A neighbour finds it by its name, in both forms and both kinds of address, and gets out by the host.
        await fleet.DoAsync(acme, "vm", "run", "--rm", "--name", "friend", "--network", "tenant", "--", "sh", "-c",
            $"set -e; ping -c 2 web; ping -c 1 web.fleet; ping -6 -c 1 {address6}; ping -c 1 friend; nc -w 3 web 80 </dev/null | grep served; ping -c 1 {NetworkedFleet.OutsideAddress}; ! nslookup nobody");

        // Another tenant's neither finds nor reaches it, but by the port that it has published.
        await fleet.DoAsync(umbrella, "vm", "run", "--rm", "--network", "tenant", "--", "sh", "-c",
            $"! ping -c 1 -W 2 {address} && ! nslookup web && ! nc -w 2 {address} 80 </dev/null && ! nc -w 2 {NetworkedFleet.HostAddress} 7070 </dev/null && nc -w 3 {NetworkedFleet.HostAddress} 8080 </dev/null | grep served");

        // A port leads to one place only.
        var (exit, _, error) = await fleet.CliAsync(umbrella, ["vm", "run", "--rm", "--publish", "8080:80", "--", "true"]);
        Assert.NotEqual(0, exit);
        Assert.Contains("port_taken", error, StringComparison.Ordinal);
        (exit, _, error) = await fleet.CliAsync("vm", "run", "--rm", "--publish", "7070:80", "--", "true");
        Assert.NotEqual(0, exit);
        Assert.Contains("port_taken", error, StringComparison.Ordinal);

        // Killed, and everything that can be damaged is, beside what a launch that was cut off leaves: the next agent puts it right.
        fleet.Kill();
        var bridge = fleet.Lab.In(fleet.Host, "sh", "-c", "ip -o link | grep -o 'fl....b0a900001' | sort -u").Trim();
        fleet.Lab.In(fleet.Host, "nft", "flush", "ruleset");
        fleet.Lab.In(fleet.Host, "ip", "link", "delete", bridge);
        fleet.Lab.In(fleet.Host, "ip", "tuntap", "add", "dev", $"{bridge[..6]}t0a900399", "mode", "tap");
        fleet.Lab.In(fleet.Host, "ip", "link", "add", $"{bridge[..6]}b0a90fc01", "type", "bridge");
        await fleet.UpAsync();
        await RunningFleet.WaitAsync("the guest to be reached again", () => Task.FromResult(Serves(fleet, NetworkedFleet.HostAddress, 8080)));
        Assert.DoesNotContain("0a900399", fleet.State(), StringComparison.Ordinal);
        Assert.DoesNotContain("0a90fc01", fleet.State(), StringComparison.Ordinal);

        await fleet.DoAsync(acme, "vm", "delete", "web");
        Assert.Equal(before, fleet.State());
    }

    [SkippableFact]
    public async Task Should_give_a_jailed_guest_its_interface_its_limits_and_its_metadata()
    {
        Skip.IfNot(NetworkLab.IsPossible && File.Exists("/dev/kvm"), "needs root, /dev/kvm, /dev/net/tun and nft");
        await using var fleet = await NetworkedFleet.StartAsync(linux: false);
        var before = fleet.State();
        var kernel = Path.Combine(fleet.Files, "kernel");
        SmallGuest.Write(kernel, SmallGuest.Silent);
        string[] run = ["vm", "run", "--detach", "--driver", "kvm", "--kernel", kernel, "--network", "tenant", "--json"];
        var one = JsonDocument.Parse(await fleet.DoAsync(null, [.. run, "--name", "one", "--env", "SECRET=word", "--env", $"BIG={new string('é', 15_000)}", "--limit", "net.rx=1MiB/s", "-p", "9000:90/udp"])).RootElement;
        var id = one.GetProperty("id").GetString()!;

        // Somebody holds the tap: the VMM, which is in a network of its own and has no way to open it.
        Assert.Matches(@"fl....t0a900002.*LOWER_UP", fleet.Lab.In(fleet.Host, "ip", "-o", "link"));
        Assert.Contains("udp4", fleet.Lab.In(fleet.Host, "nft", "list", "ruleset"), StringComparison.Ordinal);
        await fleet.DoAsync(null, "vm", "limits", "one", "net.tx=2MiB/s");
        await RunningFleet.WaitAsync("both limits to be in force", async () =>
        {
            var text = await fleet.DoAsync(null, "vm", "limits", "one");
            return text.Contains("net.rx", StringComparison.Ordinal) && text.Split('\n').Count(line => line.StartsWith("net.", StringComparison.Ordinal) && line.Contains(" yes ", StringComparison.Ordinal)) == 2;
        });
        var document = await MetadataAsync(Path.Combine(fleet.Data, "host", "vms", id, "api.sock"));
        Assert.Equal(15_000, document.GetProperty("env").GetProperty("BIG").GetString()!.Length);
        Assert.Equal(("word", "one", "10.144.0.2/22"), (document.GetProperty("env").GetProperty("SECRET").GetString(), document.GetProperty("name").GetString(), document.GetProperty("network").GetProperty("ipv4").GetString()));
        var (exit, _, error) = await fleet.CliAsync("vm", "run", "--driver", "kvm", "--kernel", kernel, "--limit", "net.rx=1MiB/s");
        Assert.NotEqual(0, exit);
        Assert.Contains("has none", error, StringComparison.Ordinal);

        // A VMM that dies takes its interface along, and its address and port are free; the record stays.
        fleet.Lab.In(fleet.Host, "kill", "-9", one.GetProperty("vmm_pid").GetInt32().ToString(System.Globalization.CultureInfo.InvariantCulture));
        await fleet.DoAsync(null, "vm", "wait", "one", "--state", "failed");
        await RunningFleet.WaitAsync("the interface to be gone", () => Task.FromResult(fleet.State() == before));
        await fleet.DoAsync(null, [.. run, "--name", "two", "-p", "9000:90/udp"]);

        // Deleted while the agent is dead in the middle of it all.
        fleet.Kill();
        await fleet.UpAsync();
        await fleet.DoAsync(null, "down", "--vms");
        Assert.Equal(before, fleet.State());
    }

    private static bool Serves(NetworkedFleet fleet, string address, int port) =>
        NetworkLab.Works(fleet.Outside, "sh", "-c", $"busybox nc -w 2 {address} {port} </dev/null 2>/dev/null | grep -q served");

    private static async Task<JsonElement> MetadataAsync(string socket)
    {
        using var http = new HttpClient(new SocketsHttpHandler
        {
            ConnectCallback = async (_, cancellation) =>
            {
                var client = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
                await client.ConnectAsync(new UnixDomainSocketEndPoint(socket), cancellation);
                return new NetworkStream(client, ownsSocket: true);
            },
        });
        return JsonDocument.Parse(await http.GetStringAsync(new Uri("http://fleet-vmm/mmds"))).RootElement;
    }
}
