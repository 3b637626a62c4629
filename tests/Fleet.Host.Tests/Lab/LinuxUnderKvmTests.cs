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

    private async Task<LabResult> BootAsync(
        int cpus, string script, JsonObject devices, Action<string>? prepare = null, string before = "", string after = "", string jail = "")
    {
        var program = Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm");
        Assert.True(File.Exists(program), $"{program} is missing; build it with: ./fleet build");
        var folder = Directory.CreateTempSubdirectory("fleet-lab-").FullName;
        try
        {
            using var images = new DefaultImageStore(
                new ImageOptions(fixture.Options.CacheDirectory, Path.Combine(Checkout.Artifacts, "guest", "fleet-init")), Logger.None);
            var image = await images.GetDefaultAsync(default);
            var run = new GuestRun(["sh", "-c", script], new Dictionary<string, string>(), "guest");
            await images.WriteInitrdAsync(image, run, Path.Combine(folder, "initrd"), default);
            devices["boot-source"] = new JsonObject
            {
                ["kernel_image_path"] = JailCommand.Kernel,
                ["initrd_path"] = JailCommand.Initrd,
                ["boot_args"] = BootFiles.DefaultArguments,
            };
            devices["machine-config"] = new JsonObject { ["vcpu_count"] = cpus, ["mem_size_mib"] = 256 };
            devices["fleet-status-port"] = new JsonObject { ["output_path"] = JailCommand.Status };
            await File.WriteAllTextAsync(Path.Combine(folder, "vm.json"), devices.ToJsonString());
            prepare?.Invoke(folder);

            // The jailer ends when the VMM begins, and the VMM is not the shell's to wait for.
            var jailed = $"{program} jail --id lab --uid 65534 --gid 65534 --pid-file pid --cgroup memory.max=400000000 --cgroup pids.max=64 --fd 4=read:vm.json --fd 5=write:exit.json "
                + $"--fd 6=append:status.log --fd 7=read:{image.KernelPath} --fd 8=read:initrd {jail} -- --no-api --config-file /dev/fd/4 --exit-file /dev/fd/5 2>vmm.log >console.log";
            const string End = "pid=$(tail -n 1 pid | cut -d' ' -f1); until [ -s exit.json ] || grep -q ') Z ' /proc/$pid/stat || [ ! -e /proc/$pid ]; do sleep 0.1; done; "
                + "cat console.log status.log; grep -q '\"code\":0' exit.json; status=$?; [ $status = 0 ] || cat vmm.log exit.json; ";
            return await fixture.RunAsync(LabCommand.Shell($"{before}{jailed} || cat vmm.log; {End}{after}exit $status") with { WorkingDirectory = folder }, Limit);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }
}
