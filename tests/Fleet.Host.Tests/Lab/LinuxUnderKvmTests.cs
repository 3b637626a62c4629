using System.Diagnostics;
using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Jail;
using Fleet.Host.Images;
using Fleet.Host.Lab;
using Fleet.Tests;
using Serilog.Core;

namespace Fleet.Host.Tests.Lab;

/// <summary>The default image under fleet-vmm in its jail, on a kernel with hardware KVM: that of a lab node.</summary>
[Trait("Kind", "Slow")]
[Collection(NodeForGuests.Name)]
public sealed class LinuxUnderKvmTests(LabNodeFixture fixture)
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task Should_boot_run_a_command_and_tell_its_status(int cpus)
    {
        var result = await new GuestInNode(fixture, cpus, "echo hello from $(uname -r) on $(nproc) cpus; exit 7", []).RunAsync();
        Assert.True(Regex.IsMatch(result.Output, $@"hello from 6\.\S+ on {cpus} cpus\r?\n(.*\n)*FLEET 1 ready\n(.*\n)*FLEET 1 exit 7\n"), result.Output + result.Errors);
        Assert.Equal(0, result.ExitStatus);
    }

    [Fact]
    public async Task Should_give_linux_the_randomness_of_its_host()
    {
        var result = await new GuestInNode(
            fixture,
            1,
            "cat /sys/class/misc/hw_random/rng_current; head -c 4096 /dev/hwrng | wc -c; head -c 64 /dev/hwrng | od -An -tx1 | tr -d ' \\n'; echo; grep virtio /proc/interrupts",
            new JsonObject { ["entropy"] = new JsonObject() }).RunAsync();
        Assert.True(Regex.IsMatch(result.Output, @"virtio_rng\.0\r?\n4096\r?\n[0-9a-f]{128}\r?\n *[0-9]+: .*IO-APIC +5-edge +virtio0\r?\n(.*\n)*FLEET 1 exit 0\n"), result.Output);
    }

    [Fact]
    public async Task Should_give_linux_disks_that_it_reads_and_writes()
    {
        var disk = new byte[1 << 20];
        new Random(3).NextBytes(disk);
        var result = await new GuestInNode(
            fixture,
            2,
            "cat /sys/block/vda/size /sys/block/vda/serial; echo; sha256sum </dev/vda; echo fleet was here | dd of=/dev/vda bs=512 seek=5 conv=notrunc,fsync 2>/dev/null; "
                + "cat /sys/block/vdb/ro; sha256sum </dev/vdb; echo x >/dev/vdb; sync; grep -c 'virtio[01]$' /proc/interrupts",
            new JsonObject
            {
                ["drives"] = new JsonArray(
                    new JsonObject { ["drive_id"] = "data", ["is_root_device"] = false, ["path_on_host"] = "/dev/fd/9", ["cache_type"] = "Writeback", ["io_engine"] = "Async" },
                    new JsonObject { ["drive_id"] = "fixed", ["is_root_device"] = false, ["path_on_host"] = "/dev/fd/10", ["is_read_only"] = true }),
            })
        {
            Prepare = folder =>
            {
                File.WriteAllBytes(Path.Combine(folder, "data.img"), disk);
                File.WriteAllBytes(Path.Combine(folder, "fixed.img"), disk);
            },
            // Read in the node, whose changes to our files stay there.
            After = "dd if=data.img bs=512 skip=5 count=1 2>/dev/null | head -c 15; sha256sum <fixed.img; ",
            Jail = "--fd 9=edit:data.img --fd 10=read:fixed.img",
        }.RunAsync();
        var hash = Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(disk));
        Assert.True(
            Regex.IsMatch(result.Output, $@"2048\r?\ndata\r?\n{hash}  -\r?\n1\r?\n{hash}  -\r?\n(.*\n)*FLEET 1 exit 0\nfleet was here\n{hash}  -\n"), result.Output);
    }

    /// <summary>Check sums and segmentation are left to the tap both ways; hashes tell whether every byte came through.</summary>
    [Fact]
    public async Task Should_connect_linux_with_its_host_over_a_tap()
    {
        var data = new byte[8 << 20];
        new Random(4).NextBytes(data);
        var result = await new GuestInNode(
            fixture,
            2,
            "modprobe virtio_net; ip link set eth0 up; ip address add 10.77.0.2/24 dev eth0; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu; "
                + "ping -c 3 10.77.0.1 | grep received; wget -q -O /tmp/got http://10.77.0.1:8077/data; sha256sum </tmp/got; "
                + "nc 10.77.0.1 8078 </tmp/got",
            new JsonObject
            {
                ["network-interfaces"] = new JsonArray(new JsonObject
                {
                    ["iface_id"] = "eth0", ["host_dev_name"] = "fleet0", ["guest_mac"] = "06:00:0a:4d:00:02", ["mtu"] = 1420,
                }),
            })
        {
            Prepare = folder => File.WriteAllBytes(Path.Combine(folder, "data"), data),
            Before = "busybox tunctl -t fleet0 >/dev/null; busybox ip address add 10.77.0.1/24 dev fleet0; busybox ip link set fleet0 mtu 1420 up; "
                + "busybox httpd -f -p 8077 -h . & server=$!; busybox nc -l -p 8078 -e dd of=back bs=64k 2>/dev/null & back=$!; ",
            After = "wait $back; sha256sum <back; busybox ip link set fleet0 down; busybox tunctl -d fleet0 >/dev/null; kill $server; ",
            Jail = "--device net/tun --netns /proc/self/ns/net",
        }.RunAsync();
        var hash = Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(data));
        Assert.True(
            Regex.IsMatch(
                result.Output,
                $@"06:00:0a:4d:00:02\r?\n1420\r?\n3 packets transmitted, 3 packets received, 0% packet loss\r?\n{hash}  -\r?\n(.*\n)*FLEET 1 exit 0\n{hash}  -\n"),
            result.Output);
    }

    /// <summary>What Linux used and gave back is the host's again: asked for by the balloon's target, and by free page reporting.</summary>
    [Fact]
    public async Task Should_take_memory_back_from_linux()
    {
        const string Use = "dd if=/dev/zero of=/tmp/used bs=1M count=120 2>/dev/null; echo used; read line; rm /tmp/used; echo free; read line";
        var result = await new GuestInNode(
            fixture,
            1,
            $"modprobe virtio_balloon; mount -t tmpfs -o size=150m tmpfs /tmp; {Use}",
            new JsonObject { ["balloon"] = new JsonObject { ["amount_mib"] = 0, ["deflate_on_oom"] = false, ["stats_polling_interval_s"] = 1, ["free_page_reporting"] = true } })
        {
            Jailed = false,
            Before = "mkfifo in; exec 9<>in; ",
            During = "until grep -q used console.log; do sleep 0.2; done; full=$(resident); echo >&9; until grep -q free console.log; do sleep 0.2; done; "
                + "for i in $(seq 100); do [ $(resident) -lt $((full - 60000)) ] && break; sleep 0.2; done; reported=$(resident); "
                + "api PATCH /balloon '{\"amount_mib\": 150}'; for i in $(seq 100); do [ $(resident) -lt $((full - 90000)) ] && break; sleep 0.2; done; "
                + "api GET /balloon/statistics >statistics; echo $full $reported $(resident) >figures; echo >&9; ",
            After = "cat figures statistics; ",
        }.RunAsync();
        var figures = Regex.Match(result.Output, @"\n(\d+) (\d+) (\d+)\n");
        Assert.True(figures.Success && result.Output.Contains("FLEET 1 exit 0", StringComparison.Ordinal), result.Output + result.Errors);
        var resident = figures.Groups.Values.Skip(1).Select(group => int.Parse(group.Value, CultureInfo.InvariantCulture)).ToArray();
        Assert.True(resident[1] < resident[0] - 60_000, result.Output);
        Assert.True(resident[2] < resident[0] - 90_000, result.Output);
        Assert.Matches("\"target_mib\":150.*\"free_memory\":[0-9]", result.Output);
    }

    /// <summary>
    /// Counts on in a new process, with another disk behind its drive and another tap, in a network of its own where its address
    /// is free, and other metadata; the first goes on as if nothing had been. Both tell what they read of disk, network and metadata.
    /// </summary>
    [Fact]
    public async Task Should_go_on_with_linux_in_another_process_with_another_disk_and_tap()
    {
        const string Count =
            "modprobe virtio_blk; modprobe virtio_net; ip link set eth0 up; ip address add 10.77.0.2/24 dev eth0; ip route add 169.254.169.254 dev eth0; get() { timeout 5 wget -q -O - http://$1 || echo nothing; }; i=0; "
            + "while [ \"$net\" != stop ]; do i=$((i+1)); echo 3 >/proc/sys/vm/drop_caches; disk=$(head -c 5 /dev/vda); "
            + "net=$(get 10.77.0.1:8077/who); echo tick $i $disk $net $(get 169.254.169.254/who); sleep 0.2; done; exit 9";

        // The hosts' ends have one hardware address, as the guest knows it.
        const string Connect =
            """
            connect() { busybox tunctl -t $1 >/dev/null; busybox ip link set $1 address 02:00:0a:4d:00:01; busybox ip address add 10.77.0.1/24 dev $1
              busybox ip link set $1 up; busybox httpd -f -p 10.77.0.1:8077 -h $2 & server=$!; }
            disconnect() { kill $server; busybox ip link set $1 down; busybox tunctl -d $1 >/dev/null; }

            """;
        const string Clone =
            """
            . ./functions; . ./connect; connect fleet1 other
            $program --api-sock clone.sock </dev/null >clone.console 2>clone.log & vmm=$!
            tries=0; until [ -S clone.sock ] || [ $tries = 100 ]; do tries=$((tries+1)); sleep 0.1; done
            api_of clone.sock PUT /snapshot/load '{"snapshot_path": "state", "mem_file_path": "memory", "drive_overrides": [{"drive_id": "d", "path_on_host": "other.img"}], "network_overrides": [{"iface_id": "eth0", "host_dev_name": "fleet1"}],
              "fleet_status_port_override": {"output_path": "clone.status"}}'
            api_of clone.sock PUT /mmds '{"who": "other"}'; api_of clone.sock PATCH /vm '{"state": "Resumed"}'
            wait $vmm; disconnect fleet1

            """;
        var result = await new GuestInNode(
            fixture,
            2,
            Count,
            new JsonObject
            {
                ["drives"] = new JsonArray(new JsonObject { ["drive_id"] = "d", ["is_root_device"] = false, ["path_on_host"] = "first.img", ["io_engine"] = "Async" }),
                ["network-interfaces"] = new JsonArray(new JsonObject { ["iface_id"] = "eth0", ["host_dev_name"] = "fleet0" }),
                ["mmds-config"] = new JsonObject { ["network_interfaces"] = new JsonArray("eth0") },
                ["entropy"] = new JsonObject(),
            })
        {
            Jailed = false,
            Options = "--api-sock api.sock --metadata metadata.json",
            Prepare = folder =>
            {
                foreach (var name in (string[])["first", "other"])
                {
                    File.WriteAllText(Path.Combine(folder, name + ".img"), name + new string('.', 4091));
                    Directory.CreateDirectory(Path.Combine(folder, name));
                    File.WriteAllText(Path.Combine(folder, name, "who"), name);
                }
                File.WriteAllText(Path.Combine(folder, "metadata.json"), """{"who": "first"}""");
                File.WriteAllText(Path.Combine(folder, "connect"), Connect);
                File.WriteAllText(Path.Combine(folder, "clone.sh"), Clone);
            },
            Before = "mkfifo in; exec 9<>in; . ./connect; connect fleet0 first; ",
            During = "wait_for 'tick 4 first first first' console.log; api PATCH /vm '{\"state\": \"Paused\"}'; echo saved $(grep -c tick console.log); "
                + "api PUT /snapshot/create '{\"snapshot_path\": \"state\", \"mem_file_path\": \"memory\"}'; api PATCH /vm '{\"state\": \"Resumed\"}'; "
                + "unshare -n sh clone.sh & clone=$!; wait_for 'other other other' clone.console; at=$(grep -c tick console.log); wait_for \"tick $((at+3)) first first first\" console.log; "
                + "echo stop >other/who; wait $clone; echo stop >first/who; ",
            After = "disconnect fleet0; echo clone; cat clone.console clone.status clone.log; ",
        }.RunAsync();
        var parts = Regex.Split(result.Output, @"^clone\r?\n", RegexOptions.Multiline);
        Assert.True(parts.Length == 2 && parts.All(part => part.Contains("FLEET 1 exit 9", StringComparison.Ordinal)), result.Output + result.Errors);
        var (first, clone) = (Ticks(parts[0]), Ticks(parts[1]));
        Assert.Equal(Enumerable.Range(1, first.Count), first.Select(tick => tick.Number));
        Assert.All(first.SkipLast(1), tick => Assert.Equal("first first first", tick.Read));

        // The line that was under way is in two parts. What it had read when it was saved it still tells; a connection of then is lost.
        var saved = int.Parse(Regex.Match(parts[0], @"^saved (\d+)", RegexOptions.Multiline).Groups[1].ValueSpan, CultureInfo.InvariantCulture);
        Assert.InRange(clone[0].Number, saved + 1, saved + 2);
        Assert.Equal(Enumerable.Range(clone[0].Number, clone.Count), clone.Select(tick => tick.Number));
        Assert.All(clone.Skip(1).SkipLast(1), tick => Assert.Equal("other other other", tick.Read));
        Assert.Equal("other stop other", clone[^1].Read);
    }

    private static List<(int Number, string Read)> Ticks(string console) =>
        [.. Regex.Matches(console, @"tick (\d+) (\w+ \w+ \w+)").Select(tick => (
            int.Parse(tick.Groups[1].Value, CultureInfo.InvariantCulture), tick.Groups[2].Value))];

    /// <summary>50 connections at once each way, every one with bytes of its own that come back as they were.</summary>
    [Fact]
    public async Task Should_connect_sockets_of_linux_with_those_of_its_host()
    {
        var result = await new GuestInNode(
            fixture,
            2,
            "modprobe vmw_vsock_virtio_transport; /sockets echo vsock 52 & /sockets check vsock 77 50 100000; "
                + "until /sockets check vsock 78 1 1 >/dev/null 2>&1; do sleep 0.2; done",
            new JsonObject { ["vsock"] = new JsonObject { ["guest_cid"] = 42, ["uds_path"] = "v.sock" } })
        {
            Jailed = false,
            // The guest goes on until there is somebody at 78: when the host has had its turn.
            Before = "mkfifo in; exec 9<>in; ./sockets echo unix v.sock_77 & first=$!; { until ./sockets check unix v.sock 52 1 1 >/dev/null 2>&1; do sleep 0.2; done; "
                + "./sockets check unix v.sock 52 50 100000 >from-host; exec ./sockets echo unix v.sock_78; } & second=$!; ",
            After = "kill $first $second; cat from-host; ls v.sock; ",
            Program = "sockets",
        }.RunAsync();
        Assert.True(
            Regex.IsMatch(result.Output, @"50 of 50 came back\r?\n(.*\n)*FLEET 1 exit 0\n50 of 50 came back\n$"), result.Output + result.Errors);
        Assert.Contains("No such file", result.Errors, StringComparison.Ordinal);
    }
}
