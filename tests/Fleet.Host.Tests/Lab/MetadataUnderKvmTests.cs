using System.Security.Cryptography;
using System.Text;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;

namespace Fleet.Host.Tests.Lab;

/// <summary>
/// Debian's Linux asks the metadata service of a jailed fleet-vmm, by wget. The tap's other end has the service's address
/// too, and a web server that tells something else: what is meant for the service must not get there, and all else must.
/// </summary>
[Trait("Kind", "Slow")]
[Collection(NodeForGuests.Name)]
public sealed class MetadataUnderKvmTests(LabNodeFixture fixture)
{
    /// <summary>Some 140 segments, more than the guest's first window takes.</summary>
    private static readonly string Large = Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(100_000));

    private static readonly string Hash = Convert.ToHexStringLower(SHA256.HashData(Encoding.ASCII.GetBytes(Large)));

    [Fact]
    public async Task Should_tell_linux_what_the_host_stored()
    {
        var output = await AskAsync(
            "169.254.169.254",
            new JsonObject { ["network_interfaces"] = new JsonArray("eth0") },
            """
            wget -q -O - $url/latest/meta-data/; echo; wget -q -O - $url/latest/meta-data/name; echo
            wget -q -O - --header 'Accept: application/json' $url/latest/meta-data/; echo
            wget -q -O - $url/latest/large | sha256sum
            for i in 1 2 3 4; do wget -q -O - $url/latest/large | sha256sum >/tmp/sum$i & done; wait; sort -u /tmp/sum*
            wget -O - $url/latest/nothing 2>&1 | grep -o 'HTTP.*'
            echo asked; for i in $(seq 100); do name=$(wget -q -O - $url/latest/meta-data/name); [ "$name" = later ] && break; sleep 0.1; done; echo $name
            """);
        Assert.True(Regex.IsMatch(
            output,
            $@"\nname\r?\nplace/\r?\nfirst\r?\n{Regex.Escape("""{"name":"first","place":{"room":"7"}}""")}\r?\n{Hash}  -\r?\n{Hash}  -\r?\nHTTP/1.1 404 Not Found\r?\nasked\r?\nlater\r?\n"), output);
    }

    [Fact]
    public async Task Should_tell_linux_nothing_without_a_token_in_version_2()
    {
        var output = await AskAsync(
            "169.254.170.2",
            new JsonObject { ["network_interfaces"] = new JsonArray("eth0"), ["version"] = "V2", ["ipv4_address"] = "169.254.170.2" },
            """
            wget -O - $url/latest/meta-data/name 2>&1 | grep -o 'HTTP.*'
            wget -O - --header 'X-metadata-token: 12' $url/latest/meta-data/name 2>&1 | grep -o 'HTTP.*'
            printf 'PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nX-metadata-token-ttl-seconds: 600\r\nConnection: close\r\n\r\n' | nc $address 80 >/tmp/answer
            head -n 1 /tmp/answer; token=$(tail -n 1 /tmp/answer); echo ${#token}
            get() { wget -q -O - --header "X-metadata-token: $token" $url/latest/$1; }
            get meta-data/name; echo; get large | sha256sum
            echo asked; for i in $(seq 100); do name=$(get meta-data/name); [ "$name" = later ] && break; sleep 0.1; done; echo $name
            """);
        Assert.True(Regex.IsMatch(
            output,
            $@"\nHTTP/1.1 401 Unauthorized\r?\nHTTP/1.1 401 Unauthorized\r?\nHTTP/1.1 200 OK\r*\n64\r?\nfirst\r?\n{Hash}  -\r?\nasked\r?\nlater\r?\n"), output);
    }

    /// <summary>The guest's script has <c>$address</c> and <c>$url</c>; when it says that it has asked, the host changes the name.</summary>
    private async Task<string> AskAsync(string address, JsonObject settings, string questions)
    {
        var result = await new GuestInNode(
            fixture,
            2,
            $"modprobe virtio_net; ip link set eth0 up; ip address add 10.77.0.2/24 dev eth0; ip route add {address} dev eth0; address={address}; url=http://$address; "
                + $"echo; {questions}; ping -c 3 10.77.0.1 | grep received; wget -q -O - http://10.77.0.1/latest/meta-data/name",
            new JsonObject
            {
                ["network-interfaces"] = new JsonArray(new JsonObject { ["iface_id"] = "eth0", ["host_dev_name"] = "fleet0" }),
                ["mmds-config"] = settings,
            })
        {
            Prepare = folder =>
            {
                var elsewhere = Path.Combine(folder, "web", "latest", "meta-data");
                Directory.CreateDirectory(elsewhere);
                File.WriteAllText(Path.Combine(elsewhere, "name"), "of the host\n");
                File.WriteAllText(Path.Combine(folder, "metadata.json"), new JsonObject
                {
                    ["latest"] = new JsonObject
                    {
                        ["meta-data"] = new JsonObject { ["name"] = "first", ["place"] = new JsonObject { ["room"] = "7" } },
                        ["large"] = Large,
                    },
                }.ToJsonString());
            },
            Before = $"busybox tunctl -t fleet0 >/dev/null; busybox ip address add 10.77.0.1/24 dev fleet0; busybox ip address add {address}/32 dev fleet0; "
                + "busybox ip link set fleet0 up; busybox httpd -f -p 80 -h web & server=$!; ",
            During = "wait_for asked console.log; api PATCH /mmds '{\"latest\": {\"meta-data\": {\"name\": \"later\"}}}'; ",
            After = "kill $server; busybox ip link set fleet0 down; busybox tunctl -d fleet0 >/dev/null; ",
            Jail = "--device net/tun --netns /proc/self/ns/net --fd 3=listen:api.sock --fd 9=read:metadata.json",
            Options = "--api-sock /dev/fd/3 --metadata /dev/fd/9 --mmds-size-limit 300000",
        }.RunAsync();
        Assert.True(
            Regex.IsMatch(result.Output, @"\n3 packets transmitted, 3 packets received, 0% packet loss\r?\nof the host\r?\n(.*\n)*FLEET 1 exit 0\n"), result.Output + result.Errors);
        return result.Output;
    }
}
