using Fleet.Host.Drivers;
using Fleet.Host.Tests.Drivers;
using Fleet.Host.Volumes;
using Fleet.Shared.Contracts;
using Fleet.Tests;
using Serilog.Core;

namespace Fleet.Host.Tests.Volumes;

/// <summary>A volume under the real, jailed fleet-vmm, with a small kernel that any /dev/kvm runs.</summary>
public sealed class VolumeUnderKvmTests
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);

    [SkippableFact]
    public async Task A_jailed_VMM_holds_its_volume_until_a_newer_placement_gets_it()
    {
        var driver = new KvmDriver(new DriverOptions(Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm"), DriverOptions.DefaultQemu, new Scratch.NoImage()));
        var status = await driver.ProbeAsync(default);
        Skip.IfNot(status.Usable, "kvm: " + status.Detail);
        await using var scratch = new Scratch();
        var launch = With(scratch.Launch(TinyKernel.Spinning()));
        // One that is in the way has the name of the microVM that it was given to.
        var store = new VolumeStore(Path.Combine(scratch.Folder, "volumes"), _ => launch.Directory, TimeProvider.System, Logger.None);
        IVmm older;
        string disk;
        using (var given = await store.GiveAsync(Order(launch, generation: 1), default))
        {
            disk = Assert.Single(given.Disks);
            older = await driver.LaunchAsync(launch with { VolumeDisks = given.Disks }, default);
        }
        await using (older)
        {
            Assert.Equal("volume_in_use", (await store.CarryOutAsync(new VolumeOrder { Name = "data" }, default))?.Code);
            // Another VMM does not begin beside it, even if somebody started one.
            var rival = With(scratch.Launch(TinyKernel.Spinning())) with { VolumeDisks = [disk], VmId = "vm-02test" };
            var refused = await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(rival, default));
            Assert.Contains("can't be opened for the VMM", refused.Message, StringComparison.Ordinal);
            Assert.False(older.Completion.IsCompleted);

            (await store.GiveAsync(Order(launch, generation: 2), default)).Dispose();
            Assert.Equal("vmm_killed", (await older.Completion.WaitAsync(Soon)).Reason.Code);
        }
        Assert.Equal("volume_stale", (await Assert.ThrowsAsync<LaunchFailedException>(() => store.GiveAsync(Order(launch, generation: 1), default))).Code);
    }

    private static VmmLaunch With(VmmLaunch launch)
    {
        launch.Spec.Volumes.Add(new VolumeMount { Name = "data", SizeMib = 32 });
        return launch;
    }

    private static LaunchVm Order(VmmLaunch launch, ulong generation) => new()
    {
        VmId = Id,
        Epoch = generation,
        Spec = launch.Spec,
        Volumes = { new VolumeGrant { Name = "data", SizeMib = 32, Generation = generation } },
    };

    private const string Id = "vm-01jd8mbr4v3s6q8k2n0x5t7w9z";
}
