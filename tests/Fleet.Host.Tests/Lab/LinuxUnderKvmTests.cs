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
public sealed class LinuxUnderKvmTests(LabNodeFixture fixture) : IClassFixture<LabNodeFixture>
{
    /// <summary>A boot takes 5–12 s on an idle machine of 2 cores.</summary>
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(90);

    /// <summary>For a script beside a running VMM: its resident KiB, and a request to its API (perl-base is in every Debian).</summary>
    private const string Functions =
        """
        resident() { awk '/VmRSS/ { print $2 }' /proc/$vmm/status; }
        api() { perl -MIO::Socket::UNIX -e '
          my ($method, $path, $body) = @ARGV;
          my $socket = IO::Socket::UNIX->new("api.sock") or die "api.sock: $!";
          printf $socket "%s %s HTTP/1.1\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s", $method, $path, length $body, $body;
          $socket->flush; local $/; my $answer = <$socket>; $answer =~ s/.*?\r\n\r\n//s; print $answer;' "$@"; }

        """;

    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(4)]
    public async Task Should_boot_run_a_command_and_tell_its_status(int cpus)
    {
        var result = await BootAsync(cpus, "echo hello from $(uname -r) on $(nproc) cpus; exit 7", []);
        Assert.Matches($@"hello from 6\.\S+ on {cpus} cpus\r?\n(.*\n)*FLEET 1 ready\n(.*\n)*FLEET 1 exit 7\n", result.Output);
        Assert.Equal(0, result.ExitStatus);
    }

    [Fact]
    public async Task Should_give_linux_the_randomness_of_its_host()
    {
        var result = await BootAsync(
            1,
            "cat /sys/class/misc/hw_random/rng_current; head -c 4096 /dev/hwrng | wc -c; head -c 64 /dev/hwrng | od -An -tx1 | tr -d ' \\n'; echo; grep virtio /proc/interrupts",
            new JsonObject { ["entropy"] = new JsonObject() });
        Assert.True(Regex.IsMatch(result.Output, @"virtio_rng\.0\r?\n4096\r?\n[0-9a-f]{128}\r?\n *[0-9]+: .*IO-APIC +5-edge +virtio0\r?\n(.*\n)*FLEET 1 exit 0\n"), result.Output);
    }

    [Fact]
    public async Task Should_give_linux_disks_that_it_reads_and_writes()
    {
        var disk = new byte[1 << 20];
        new Random(3).NextBytes(disk);
        var result = await BootAsync(
            2,
            "cat /sys/block/vda/size /sys/block/vda/serial; echo; sha256sum </dev/vda; echo fleet was here | dd of=/dev/vda bs=512 seek=5 conv=notrunc,fsync 2>/dev/null; "
                + "cat /sys/block/vdb/ro; sha256sum </dev/vdb; echo x >/dev/vdb; sync; grep -c 'virtio[01]$' /proc/interrupts",
            new JsonObject
            {
                ["drives"] = new JsonArray(
                    new JsonObject { ["drive_id"] = "data", ["is_root_device"] = false, ["path_on_host"] = "/dev/fd/9", ["cache_type"] = "Writeback", ["io_engine"] = "Async" },
                    new JsonObject { ["drive_id"] = "fixed", ["is_root_device"] = false, ["path_on_host"] = "/dev/fd/10", ["is_read_only"] = true }),
            },
            folder =>
            {
                File.WriteAllBytes(Path.Combine(folder, "data.img"), disk);
                File.WriteAllBytes(Path.Combine(folder, "fixed.img"), disk);
            },
            // Read in the node, whose changes to our files stay there.
            after: "dd if=data.img bs=512 skip=5 count=1 2>/dev/null | head -c 15; sha256sum <fixed.img; ",
            jail: "--fd 9=edit:data.img --fd 10=read:fixed.img");
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
        var result = await BootAsync(
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
            },
            folder => File.WriteAllBytes(Path.Combine(folder, "data"), data),
            before: "busybox tunctl -t fleet0 >/dev/null; busybox ip address add 10.77.0.1/24 dev fleet0; busybox ip link set fleet0 mtu 1420 up; "
                + "busybox httpd -p 8077 -h . ; busybox nc -l -p 8078 -e dd of=back bs=64k 2>/dev/null & ",
            after: "wait; sha256sum <back; busybox ip link set fleet0 down; busybox tunctl -d fleet0 >/dev/null; kill $(busybox pidof httpd); ",
            jail: "--device net/tun --netns /proc/self/ns/net");
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
        var result = await BootAsync(
            1,
            $"modprobe virtio_balloon; mount -t tmpfs -o size=150m tmpfs /tmp; {Use}",
            new JsonObject { ["balloon"] = new JsonObject { ["amount_mib"] = 0, ["deflate_on_oom"] = false, ["stats_polling_interval_s"] = 1, ["free_page_reporting"] = true } },
            before: "mkfifo in; exec 9<>in; ",
            during: "until grep -q used console.log; do sleep 0.2; done; full=$(resident); echo >&9; until grep -q free console.log; do sleep 0.2; done; "
                + "for i in $(seq 100); do [ $(resident) -lt $((full - 60000)) ] && break; sleep 0.2; done; reported=$(resident); "
                + "api PATCH /balloon '{\"amount_mib\": 150}'; for i in $(seq 100); do [ $(resident) -lt $((full - 90000)) ] && break; sleep 0.2; done; "
                + "api GET /balloon/statistics >statistics; echo $full $reported $(resident) >figures; echo >&9; ",
            after: "cat figures statistics; ");
        var figures = Regex.Match(result.Output, @"\n(\d+) (\d+) (\d+)\n");
        Assert.True(figures.Success && result.Output.Contains("FLEET 1 exit 0", StringComparison.Ordinal), result.Output + result.Errors);
        var resident = figures.Groups.Values.Skip(1).Select(group => int.Parse(group.Value, CultureInfo.InvariantCulture)).ToArray();
        Assert.True(resident[1] < resident[0] - 60_000, result.Output);
        Assert.True(resident[2] < resident[0] - 90_000, result.Output);
        Assert.Matches("\"target_mib\":150.*\"free_memory\":[0-9]", result.Output);
    }

    /// <summary>
    /// Counts on in a new process, with another disk behind its drive, and hears of its new generation id (Debian's kernel
    /// has no driver that would take it up, but counts the interrupt).
    /// </summary>
    [Fact]
    public async Task Should_go_on_with_linux_in_another_process_and_with_another_disk()
    {
        const string Count =
            "modprobe virtio_blk; i=0; others=0; while [ $others -lt 3 ]; do i=$((i+1)); echo 3 >/proc/sys/vm/drop_caches; disk=$(head -c 5 /dev/vda); "
            + "echo tick $i $disk; [ \"$disk\" != other ] || others=$((others+1)); sleep 0.2; done; cat /sys/bus/acpi/devices/VMGENCTR:00/path; grep ACPI:Ged /proc/interrupts; exit 9";
        var result = await BootAsync(
            2,
            Count,
            new JsonObject
            {
                ["drives"] = new JsonArray(new JsonObject { ["drive_id"] = "d", ["is_root_device"] = false, ["path_on_host"] = "first.img", ["io_engine"] = "Async" }),
                ["entropy"] = new JsonObject(),
            },
            folder =>
            {
                File.WriteAllText(Path.Combine(folder, "first.img"), "first" + new string('.', 4091));
                File.WriteAllText(Path.Combine(folder, "other.img"), "other" + new string('.', 4091));
            },
            before: "mkfifo in; exec 9<>in; ",
            during: "until grep -q 'tick 4' console.log; do sleep 0.2; done; api PATCH /vm '{\"state\": \"Paused\"}'; "
                + "api PUT /snapshot/create '{\"snapshot_path\": \"state\", \"mem_file_path\": \"memory\"}'; kill $vmm; wait $vmm; "
                + "$program --api-sock api.sock <in >second.log & vmm=$!; until [ -S api.sock ]; do sleep 0.1; done; "
                + "api PUT /snapshot/load '{\"snapshot_path\": \"state\", \"mem_file_path\": \"memory\", \"resume_vm\": true, "
                + "\"drive_overrides\": [{\"drive_id\": \"d\", \"path_on_host\": \"other.img\"}]}'; ",
            after: "echo second; cat second.log; ");
        var ticks = Regex.Matches(result.Output, @"tick (\d+) (first|other)").Select(tick => (int.Parse(tick.Groups[1].Value, CultureInfo.InvariantCulture), tick.Groups[2].Value)).ToArray();
        Assert.True(result.Output.Contains("FLEET 1 exit 9", StringComparison.Ordinal), result.Output + result.Errors);
        Assert.Equal(Enumerable.Range(1, ticks.Length), ticks.Select(tick => tick.Item1));
        Assert.Equal("first", ticks[0].Item2);
        Assert.Equal(["other", "other", "other"], ticks[^3..].Select(tick => tick.Item2));
        Assert.True(Regex.IsMatch(result.Output, @"second\n(tick \d+ \w+\r?\n)+.*VGEN\r?\n *\d+: +(1 +0|0 +1) .*23-edge +ACPI:Ged"), result.Output);
    }

    /// <summary>50 connections at once each way, every one with bytes of its own that come back as they were.</summary>
    [Fact]
    public async Task Should_connect_sockets_of_linux_with_those_of_its_host()
    {
        var result = await BootAsync(
            2,
            "modprobe vmw_vsock_virtio_transport; /sockets echo vsock 52 & /sockets check vsock 77 50 100000; "
                + "until /sockets check vsock 78 1 1 >/dev/null 2>&1; do sleep 0.2; done",
            new JsonObject { ["vsock"] = new JsonObject { ["guest_cid"] = 42, ["uds_path"] = "v.sock" } },
            // The guest goes on until there is somebody at 78: when the host has had its turn.
            before: "mkfifo in; exec 9<>in; ./sockets echo unix v.sock_77 & first=$!; { until ./sockets check unix v.sock 52 1 1 >/dev/null 2>&1; do sleep 0.2; done; "
                + "./sockets check unix v.sock 52 50 100000 >from-host; exec ./sockets echo unix v.sock_78; } & second=$!; ",
            after: "kill $first $second; cat from-host; ls v.sock; ",
            program: "sockets",
            during: ":; ");
        Assert.True(
            Regex.IsMatch(result.Output, @"50 of 50 came back\r?\n(.*\n)*FLEET 1 exit 0\n50 of 50 came back\n$"), result.Output + result.Errors);
        Assert.Contains("No such file", result.Errors, StringComparison.Ordinal);
    }

    private async Task<LabResult> BootAsync(
        int cpus, string script, JsonObject devices, Action<string>? prepare = null, string before = "", string after = "", string jail = "",
        string? program = null, string? during = null)
    {
        var vmm = Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm");
        Assert.True(File.Exists(vmm), $"{vmm} is missing; build it with: ./fleet build");
        var folder = Directory.CreateTempSubdirectory("fleet-lab-").FullName;
        try
        {
            using var images = new DefaultImageStore(
                new ImageOptions(fixture.Options.CacheDirectory, Path.Combine(Checkout.Artifacts, "guest", "fleet-init")), Logger.None);
            var image = await images.GetDefaultAsync(default);
            var guest = new GuestRun(["sh", "-c", script], new Dictionary<string, string>(), "guest");
            await images.WriteInitrdAsync(image, guest, Path.Combine(folder, "initrd"), default);
            if (program is not null)
                AddProgram(program, folder);
            devices["boot-source"] = new JsonObject
            {
                ["kernel_image_path"] = during is null ? JailCommand.Kernel : image.KernelPath,
                ["initrd_path"] = during is null ? JailCommand.Initrd : "initrd",
                ["boot_args"] = BootFiles.DefaultArguments,
            };
            devices["machine-config"] = new JsonObject { ["vcpu_count"] = cpus, ["mem_size_mib"] = 256 };
            devices["fleet-status-port"] = new JsonObject { ["output_path"] = during is null ? JailCommand.Status : "status.log" };
            await File.WriteAllTextAsync(Path.Combine(folder, "vm.json"), devices.ToJsonString());
            prepare?.Invoke(folder);

            // Jailed, as the agent does it: the jailer ends when the VMM begins, and the VMM is not the shell's to wait for.
            var jailed = $"{vmm} jail --id lab --uid 65534 --gid 65534 --pid-file pid --cgroup memory.max=400000000 --cgroup pids.max=64 --fd 4=read:vm.json --fd 5=write:exit.json "
                + $"--fd 6=append:status.log --fd 7=read:{image.KernelPath} --fd 8=read:initrd {jail} -- --no-api --config-file /dev/fd/4 --exit-file /dev/fd/5 2>vmm.log >console.log || cat vmm.log; "
                + "pid=$(tail -n 1 pid | cut -d' ' -f1); until [ -s exit.json ] || grep -q ') Z ' /proc/$pid/stat || [ ! -e /proc/$pid ]; do sleep 0.1; done; ";
            var free = $"{Functions}program={vmm}; $program --api-sock api.sock --config-file vm.json --exit-file exit.json <in >console.log 2>vmm.log & vmm=$!; {during} wait $vmm; ";
            const string End = "cat console.log status.log; grep -q '\"code\":0' exit.json; status=$?; [ $status = 0 ] || cat vmm.log exit.json; ";
            return await fixture.RunAsync(
                LabCommand.Shell($"{before}{(during is null ? jailed : free)}{End}{after}exit $status") with { WorkingDirectory = folder }, Limit);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    // For the node and for the guest, from a source file beside this one.
    private static void AddProgram(string name, string folder)
    {
        var source = Path.Combine(Checkout.Root, "tests", "Fleet.Host.Tests", "Lab", name + ".c");
        var path = Path.Combine(folder, name);
        using var compiler = Process.Start("gcc", ["-O2", "-static", "-o", path, source]);
        compiler.WaitForExit();
        Assert.Equal(0, compiler.ExitCode);
        using var initrd = new FileStream(Path.Combine(folder, "initrd"), FileMode.Append, FileAccess.Write);
        new CpioWriter().AddFileFrom(name, path, 0x1ED).WriteTo(initrd);
    }
}
