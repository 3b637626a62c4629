using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;
using Fleet.Host.Snapshots;
using Fleet.Host.State;
using Fleet.Tests;

namespace Fleet.Host.Tests.Drivers;

/// <summary>The driver kvm with the real fleet-vmm, jailed, and a small kernel that counts in its memory: saved, gone on with, and found by another agent at every step.</summary>
public sealed class KvmSuspendTests
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);

    private static DriverOptions Options() =>
        new(Path.Combine(Checkout.Artifacts, "vmm", "fleet-vmm"), DriverOptions.DefaultQemu, new Scratch.NoImage());

    private static async Task<KvmDriver> DriverAsync()
    {
        var driver = new KvmDriver(Options());
        var status = await driver.ProbeAsync(default);
        Skip.IfNot(status.Usable, "kvm: " + status.Detail);
        return driver;
    }

    private static async Task<IVmm> CountToTwoAsync(KvmDriver driver, VmmLaunch launch)
    {
        var vmm = await driver.LaunchAsync(launch, default);
        await vmm.GuestReady.WaitAsync(Soon);
        await StepAsync(vmm, launch, "12");
        return vmm;
    }

    // One byte in for each digit that is new on the console.
    private static async Task StepAsync(IVmm vmm, VmmLaunch launch, string console)
    {
        string path = Path.Combine(launch.Directory, ConsoleLog.FileName);
        for (long there = new FileInfo(path).Length; there < console.Length; there++)
        {
            long before = there;
            await vmm.WriteConsoleAsync("a"u8.ToArray(), default);
            await Scratch.Until(() => new FileInfo(path).Length > before, $"digit {before + 1} of {console}");
        }
        Assert.Equal(console, File.ReadAllText(path));
    }

    private static VmmLaunch After(VmmLaunch launch) => launch with { Epoch = launch.Epoch + 1, SnapshotEpoch = launch.Epoch };

    private static string[] Snapshots(VmmLaunch launch) => [.. Directory.GetFiles(launch.Directory, "snapshot.*").Select(path => Path.GetFileName(path)).Order()];

    [SkippableFact]
    public async Task Should_end_the_vmm_for_good_and_go_on_where_it_was_with_memory_and_console()
    {
        await DriverAsync();
        await using var scratch = new Scratch();
        var runs = Path.Combine(scratch.Folder, "runs");
        var driver = new KvmDriver(Options() with { Runs = new RunLogs(runs, "box") });
        var launch = scratch.Launch(TinyKernel.Counting(), cpus: 2);
        await using var first = await CountToTwoAsync(driver, launch);
        await first.SuspendAsync().WaitAsync(Soon);
        Assert.True((await first.Completion.WaitAsync(Soon)).Saved);
        Assert.False(Directory.Exists($"/proc/{first.Pid}"));
        Assert.Equal(["snapshot.1.memory", "snapshot.1.pb", "snapshot.1.state"], Snapshots(launch));
        Assert.Equal(64UL << 20, SnapshotFiles.Find(launch.Directory, 1)!.MemoryBytes);
        Assert.EndsWith(""","event":"end"}""", File.ReadLines(Assert.Single(Directory.GetFiles(runs))).Last(), StringComparison.Ordinal);

        var lease = Posix.BootTime + Soon;
        launch = After(launch) with { Lease = new(lease, lease) };
        await using var second = await driver.LaunchAsync(launch, default);
        // What it was saved in is gone before it runs, and ready is what it was.
        Assert.Null(SnapshotFiles.Find(launch.Directory, 1));
        await second.GuestReady.WaitAsync(Soon);
        Assert.Equal(2, (await second.VcpuThreads.WaitAsync(Soon)).Count);
        await StepAsync(second, launch, "1234");
        await second.SuspendAsync().WaitAsync(Soon);

        launch = After(launch);
        await using var third = await driver.LaunchAsync(launch, default);
        await StepAsync(third, launch, "12345");
        await third.StopAsync(TimeSpan.Zero).WaitAsync(Soon);
        Assert.Equal("stop_requested", (await third.Completion).Reason.Code);
    }

    [SkippableFact]
    public async Task Should_run_on_when_it_could_not_be_saved_and_be_saved_later()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Counting());
        await using var vmm = await CountToTwoAsync(driver, launch);
        string hindrance = Path.Combine(launch.Directory, SnapshotFiles.RecordName(1) + ".new");
        Directory.CreateDirectory(hindrance);
        await Assert.ThrowsAsync<SnapshotFailedException>(() => vmm.SuspendAsync());
        Directory.Delete(hindrance);
        Assert.Equal((0L, 0L), (new FileInfo(Path.Combine(launch.Directory, SnapshotFiles.StateName(1))).Length, new FileInfo(Path.Combine(launch.Directory, SnapshotFiles.MemoryName(1))).Length));
        await StepAsync(vmm, launch, "123");
        await vmm.SuspendAsync().WaitAsync(Soon);
        await using var second = await driver.LaunchAsync(After(launch), default);
        await StepAsync(second, launch, "1234");
    }

    /// <summary>An agent was killed between the pause and the record: half of a snapshot, and a guest that stands.</summary>
    [SkippableFact]
    public async Task Should_have_a_guest_go_on_that_an_earlier_agent_left_paused()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Counting());
        var first = (KvmVmm)await CountToTwoAsync(driver, launch);
        await first.PauseAsync(default);
        await first.DisposeAsync();
        await using (var half = new FileStream(Path.Combine(launch.Directory, SnapshotFiles.MemoryName(1)), FileMode.Open, FileAccess.Write, FileShare.ReadWrite))
            half.SetLength(4 << 20);
        await using var second = await new KvmDriver(Options()).AdoptAsync(launch, default);
        Assert.Equal(first.Pid, second!.Pid);
        await StepAsync(second, launch, "123");
        await Scratch.Until(() => new FileInfo(Path.Combine(launch.Directory, SnapshotFiles.MemoryName(1))).Length == 0, "the half to go");
        await second.SuspendAsync().WaitAsync(Soon);
        await using var third = await driver.LaunchAsync(After(launch), default);
        await StepAsync(third, launch, "1234");
    }

    /// <summary>Killed between the record and the end of the VMM: the snapshot counts, and that VMM never runs again.</summary>
    [SkippableFact]
    public async Task Should_end_a_vmm_whose_snapshot_is_complete()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Counting());
        var first = await CountToTwoAsync(driver, launch);
        int pid = first.Pid;
        await first.DisposeAsync();
        SnapshotFiles.Complete(launch.Directory, new SnapshotRecord { VmId = launch.VmId, Epoch = 1, Driver = "kvm" });
        await using var second = await new KvmDriver(Options()).AdoptAsync(launch, default);
        Assert.True((await second!.Completion).Saved);
        Assert.False(Directory.Exists($"/proc/{pid}"));
    }

    /// <summary>Killed between the start of the new VMM and its guest's: begun anew, from the same snapshot.</summary>
    [SkippableFact]
    public async Task Should_begin_anew_what_had_not_gone_on_yet()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Counting());
        await using (var first = await CountToTwoAsync(driver, launch))
            await first.SuspendAsync().WaitAsync(Soon);
        string[] parts = [SnapshotFiles.StateName(1), SnapshotFiles.MemoryName(1), SnapshotFiles.RecordName(1)];
        foreach (string part in parts)
            File.Copy(Path.Combine(launch.Directory, part), Path.Combine(scratch.Folder, part));
        launch = After(launch);
        var second = await driver.LaunchAsync(launch, default);
        int pid = second.Pid;
        await second.DisposeAsync();
        foreach (string part in parts)
            File.Copy(Path.Combine(scratch.Folder, part), Path.Combine(launch.Directory, part));
        Assert.Null(await new KvmDriver(Options()).AdoptAsync(launch, default));
        Assert.False(Directory.Exists($"/proc/{pid}"));
        await using var third = await driver.LaunchAsync(launch, default);
        await StepAsync(third, launch, "123");
        await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(scratch.Launch(TinyKernel.Counting()) with { SnapshotEpoch = 1, Epoch = 2 }, default));
    }

    [SkippableFact]
    public async Task Should_keep_a_snapshot_that_could_not_be_gone_on_with()
    {
        var driver = await DriverAsync();
        await using var scratch = new Scratch();
        var launch = scratch.Launch(TinyKernel.Counting());
        await using (var first = await CountToTwoAsync(driver, launch))
            await first.SuspendAsync().WaitAsync(Soon);
        string state = Path.Combine(launch.Directory, SnapshotFiles.StateName(1));
        byte[] whole = File.ReadAllBytes(state);
        File.WriteAllBytes(state, [.. whole[..^1], (byte)(whole[^1] ^ 1)]);
        var failed = await Assert.ThrowsAsync<LaunchFailedException>(() => driver.LaunchAsync(After(launch), default));
        Assert.Equal("snapshot_invalid", failed.Code);
        File.WriteAllBytes(state, whole);
        await using var second = await driver.LaunchAsync(After(launch) with { Epoch = 3 }, default);
        await StepAsync(second, launch, "123");
    }
}
