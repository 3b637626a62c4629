using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Fleet.Host.Tests.Drivers;
using Fleet.Host.Volumes;
using Fleet.Shared.Contracts;
using Serilog.Core;

namespace Fleet.Host.Tests.Volumes;

/// <summary>A volume in real guests under QEMU, one after the other.</summary>
[Trait("Kind", "Slow")]
public sealed class VolumeBootTests
{
    private static readonly TimeSpan Boot = TimeSpan.FromSeconds(120);

    [SkippableFact]
    public async Task A_volume_keeps_a_file_for_the_next_microVM_and_is_its_VMMs_alone()
    {
        using var images = Scratch.Images();
        await using var scratch = new Scratch();
        var store = new VolumeStore(Path.Combine(scratch.Folder, "volumes"), vmId => Path.Combine(scratch.Folder, vmId), TimeProvider.System, Logger.None);

        Assert.Equal((3, "ext4\n"), await RunAsync(scratch, images, store, 1, "echo kept >/data/deep/file; mount | grep ' /data/deep ' | cut -d' ' -f5; exit 3"));
        Assert.Equal((4, "kept\n"), await RunAsync(scratch, images, store, 2, "cat /data/deep/file; exit 4"));
    }

    [SkippableFact]
    public async Task Where_the_hosts_disk_is_full_writes_fail_and_the_guest_goes_on()
    {
        Skip.If(Environment.UserName != "root", "only root mounts a small disk");
        using var images = Scratch.Images();
        await using var scratch = new Scratch();
        var root = Directory.CreateDirectory(Path.Combine(scratch.Folder, "volumes")).FullName;
        await ExternalCommand.RunAsync("mount", ["-t", "tmpfs", "-o", "size=20m", "tmpfs", root], null, Boot, default);
        try
        {
            // As if others had filled the disk since it was looked at.
            var store = new VolumeStore(root, vmId => Path.Combine(scratch.Folder, vmId), TimeProvider.System, Logger.None, _ => long.MaxValue / 2);
            Assert.Equal((3, "written\nnot written\n"), await RunAsync(scratch, images, store, 1,
                "dd if=/dev/zero of=/data/deep/small bs=1M count=1 conv=fsync 2>/dev/null && echo written; dd if=/dev/zero of=/data/deep/large bs=1M count=24 conv=fsync 2>/dev/null || echo not written; exit 3"));
        }
        finally
        {
            await ExternalCommand.RunAsync("umount", [root], null, Boot, default);
        }
    }

    private static async Task<(int? Status, string Console)> RunAsync(Scratch scratch, IImageSource images, VolumeStore store, ulong generation, string script)
    {
        var spec = new VmSpec { Name = "hello", Cpus = 1, MemoryMib = 256, Command = { "sh", "-c", script }, Volumes = { new VolumeMount { Name = "data", Path = "/data/deep", SizeMib = 32 } } };
        var launch = scratch.Launch(spec);
        var order = new LaunchVm { VmId = launch.VmId, Epoch = generation, Spec = spec, Volumes = { new VolumeGrant { Name = "data", SizeMib = 32, Generation = generation } } };
        IVmm vmm;
        using (var given = await store.GiveAsync(order, default))
            vmm = await new QemuDriver(Scratch.Options(images)).LaunchAsync(launch with { VolumeDisks = given.Disks }, default);
        await using (vmm)
        {
            // The lock is the VMM's own by now.
            Assert.Equal("volume_in_use", (await store.CarryOutAsync(new VolumeOrder { Name = "data" }, default))?.Code);
            var end = await vmm.Completion.WaitAsync(Boot);
            return (end.Exit?.Status, File.ReadAllText(Path.Combine(launch.Directory, ConsoleLog.FileName)).Replace("\r", "", StringComparison.Ordinal));
        }
    }
}
