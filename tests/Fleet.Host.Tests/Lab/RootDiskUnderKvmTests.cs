using System.Text;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using Fleet.Host.Images;

namespace Fleet.Host.Tests.Lab;

/// <summary>Debian's Linux under a jailed fleet-vmm, with its root on a disk.</summary>
[Trait("Kind", "Slow")]
[Collection(NodeForGuests.Name)]
public sealed class RootDiskUnderKvmTests(LabNodeFixture fixture)
{
    // In front of fleet-init, as a distribution's initramfs does it: the command line names the disk. The kernel knows ext4.
    private const string Init =
        """
        #!/bin/sh
        mount -t proc proc /proc; mount -t devtmpfs dev /dev
        modprobe virtio_mmio; modprobe virtio_blk
        mount -t ext4 $(sed 's/.*root=\([^ ]*\) \(r[ow]\).*/-o \2 \1/' /proc/cmdline) /mnt
        mkdir -p /mnt/fleet; cp /fleet/run.json /mnt/fleet/run.json
        umount /dev; umount /proc
        exec switch_root /mnt /init

        """;

    // The first boot writes, the second one finds it.
    private const string Script =
        """
        grep ' / ext4 ' /proc/mounts; cat /sys/block/vda/serial; echo
        if [ -e /kept.sum ]; then sha256sum -c /kept.sum; cat /many/*/n | sort -n | sha256sum; rm -r /many /kept
        else
          dd if=/dev/urandom of=/kept bs=64k count=256 2>/dev/null; sha256sum /kept >/kept.sum
          for i in $(seq 300); do mkdir -p /many/$i; echo $i >/many/$i/n; done; ls -d /many/* | wc -l
        fi
        sync; mount -o remount,ro /
        """;

    [SkippableFact]
    public async Task Should_have_its_root_on_ext4_and_find_in_the_next_boot_what_it_wrote()
    {
        Skip.IfNot(File.Exists("/sbin/mkfs.ext4"), "the package e2fsprogs is not installed");
        var result = await new GuestInNode(
            fixture,
            2,
            Script,
            new JsonObject
            {
                ["drives"] = new JsonArray(new JsonObject { ["drive_id"] = "rootfs", ["is_root_device"] = true, ["path_on_host"] = "/dev/fd/9", ["cache_type"] = "Writeback" }),
            })
        {
            Prepare = folder => GuestInNode.AddToInitrd(folder, new CpioWriter().AddFile("init", Encoding.ASCII.GetBytes(Init), 0x1ED)),
            // The image's own tree, on a disk.
            Before = "mkdir tree; (cd tree; busybox cpio -idm <$image 2>/dev/null); /sbin/mkfs.ext4 -q -d tree root.img 96M; ",
            During = "finish; cat exit.json console.log status.log; /sbin/e2fsck -fn root.img >checked 2>&1 && echo whole || cat checked; echo second; rm exit.json status.log; start; ",
            After = "/sbin/e2fsck -fn root.img >checked 2>&1 && echo whole || cat checked; ",
            Jail = "--fd 9=edit:root.img",
        }.RunAsync();
        const string Root = @"/dev/\S+ / ext4 rw,.*\r?\nrootfs\r?\n";
        Assert.True(
            Regex.IsMatch(result.Output, $@"{Root}300\r?\n(.*\n)*FLEET 1 exit 0\nwhole\nsecond\n(.*\n)*{Root}/kept: OK\r?\n{Numbers()}  -\r?\n(.*\n)*FLEET 1 exit 0\nwhole\n"),
            result.Output + result.Errors);
        Assert.Equal(0, result.ExitStatus);
    }

    private static string Numbers()
    {
        var lines = string.Concat(Enumerable.Range(1, 300).Select(number => $"{number}\n"));
        return Convert.ToHexStringLower(System.Security.Cryptography.SHA256.HashData(Encoding.ASCII.GetBytes(lines)));
    }
}
