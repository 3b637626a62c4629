using Fleet.Host.Consoles;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Drivers.Simulated;
using Fleet.Host.Fencing;
using Fleet.Host.Tests.Agent;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Simulated;

public sealed class SimulatedDriverTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-simulated-").FullName;
    private readonly ManualClock _clock = new();

    public void Dispose() => Directory.Delete(_folder, true);

    [Fact]
    public async Task Should_boot_run_and_exit_by_its_script()
    {
        var vmm = await LaunchAsync(new SimulatedGuest { BootMs = 100, RunMs = 1000, ExitStatus = 7 });
        Advance(99);
        Assert.False(vmm.GuestReady.IsCompleted);
        Advance(1);
        Assert.True(vmm.GuestReady.IsCompletedSuccessfully);
        Advance(999);
        Assert.False(vmm.Completion.IsCompleted);
        Advance(1);
        var end = await vmm.Completion;
        Assert.Equal((true, 7, "command_exited"), (end.InOrder, end.Exit!.Status, end.Reason.Code));
        Assert.Equal("simulated guest\n", await File.ReadAllTextAsync(Path.Combine(_folder, ConsoleLog.FileName)));
    }

    [Fact]
    public async Task Should_go_on_where_its_script_was_when_it_was_saved()
    {
        var first = await LaunchAsync(new SimulatedGuest { BootMs = 100, RunMs = 1000, ExitStatus = 7 });
        Advance(600);
        await first.SuspendAsync();
        Assert.True((await first.Completion).Saved);
        Advance(3_600_000);
        var saved = new VmmLaunch("vm-1", 1, new VmSpec(), _folder);
        Assert.True((await (await new SimulatedDriver(_clock).AdoptAsync(saved, default))!.Completion).Saved);
        var second = await new SimulatedDriver(_clock).LaunchAsync(
            saved with { Epoch = 2, SnapshotEpoch = 1, Spec = new VmSpec { Cpus = 1, MemoryMib = 64, Simulated = new SimulatedGuest { BootMs = 100, RunMs = 1000, ExitStatus = 7 } } }, default);
        Assert.True(second.GuestReady.IsCompletedSuccessfully);
        Advance(499);
        Assert.False(second.Completion.IsCompleted);
        Advance(1);
        Assert.Equal(7, (await second.Completion).Exit!.Status);
    }

    [Fact]
    public async Task Should_run_until_stopped()
    {
        var vmm = await LaunchAsync(new SimulatedGuest());
        Advance(3_600_000);
        Assert.False(vmm.Completion.IsCompleted);
        await vmm.StopAsync(TimeSpan.FromSeconds(10));
        Assert.Equal("stop_requested", (await vmm.Completion).Reason.Code);
    }

    [Fact]
    public async Task Should_never_boot_when_its_script_says_so()
    {
        var vmm = await LaunchAsync(new SimulatedGuest { RunMs = 1, Fault = "never_boots" });
        Advance(3_600_000);
        Assert.False(vmm.GuestReady.IsCompleted || vmm.Completion.IsCompleted);
        await vmm.StopAsync(TimeSpan.Zero);
        Assert.True(vmm.GuestReady.IsCanceled);
    }

    [Fact]
    public async Task Should_die_when_its_script_says_so()
    {
        var vmm = await LaunchAsync(new SimulatedGuest { BootMs = 5, RunMs = 10, Fault = "vmm_dies" });
        Advance(15);
        Assert.Equal((false, "vmm_killed"), ((await vmm.Completion).InOrder, (await vmm.Completion).Reason.Code));
    }

    [Fact]
    public async Task Should_fail_to_launch_when_its_script_says_so() =>
        Assert.Equal("launch_failed", (await Assert.ThrowsAsync<LaunchFailedException>(() => LaunchAsync(new SimulatedGuest { Fault = "launch_fails" }))).Code);

    [Fact]
    public async Task Should_be_found_by_the_next_agent_as_if_it_had_gone_on()
    {
        var script = new SimulatedGuest { BootMs = 100, RunMs = 1000, ExitStatus = 3 };
        await (await LaunchAsync(script)).DisposeAsync();
        Advance(500);
        var running = await AdoptAsync(script);
        Assert.True(running!.GuestReady.IsCompletedSuccessfully);
        Assert.False(running.Completion.IsCompleted);
        await running.DisposeAsync();
        Advance(600);
        Assert.False(running.Completion.IsCompleted); // let go: nobody looks any more
        var over = await AdoptAsync(script);
        Assert.Equal(3, (await over!.Completion).Exit!.Status);
    }

    [Fact]
    public async Task Should_stay_stopped()
    {
        var vmm = await LaunchAsync(new SimulatedGuest { RunMs = 1000 });
        await vmm.StopAsync(TimeSpan.Zero);
        Advance(5000);
        Assert.Equal("stop_requested", (await (await AdoptAsync(new SimulatedGuest { RunMs = 1000 }))!.Completion).Reason.Code);
    }

    [Fact]
    public async Task Should_say_that_nothing_was_started() => Assert.Null(await AdoptAsync(new SimulatedGuest()));

    [Fact]
    public async Task Should_end_what_can_no_longer_be_known()
    {
        await File.WriteAllTextAsync(Path.Combine(_folder, "simulated"), "garbage");
        Assert.Equal("vmm_failed", (await (await AdoptAsync(new SimulatedGuest()))!.Completion).Reason.Code);
    }

    [Fact]
    public async Task Should_wait_longer_than_a_timer_can()
    {
        const uint Days30 = 30u * 24 * 3600 * 1000;
        var vmm = await LaunchAsync(new SimulatedGuest { BootMs = Days30, RunMs = Days30 });
        _clock.Advance(TimeSpan.FromDays(60) - TimeSpan.FromMilliseconds(1));
        Assert.False(vmm.Completion.IsCompleted);
        Advance(1);
        Assert.True(vmm.Completion.IsCompleted);
    }

    [Fact]
    public async Task Should_end_although_its_folder_is_gone()
    {
        var folder = Directory.CreateDirectory(Path.Combine(_folder, "inner")).FullName;
        var vmm = await new SimulatedDriver(_clock).LaunchAsync(Launch(new SimulatedGuest(), folder), default);
        Directory.Delete(folder, true);
        await vmm.StopAsync(TimeSpan.Zero);
        Assert.True(vmm.Completion.IsCompleted);
    }

    [Fact]
    public async Task Should_stand_still_without_a_lease_and_say_so_whenever_it_is_looked_at()
    {
        var logs = new RunLogs(Path.Combine(_folder, "runs"), "box");
        var script = new SimulatedGuest { RunMs = 1000 };
        var soon = Posix.BootTime + TimeSpan.FromMilliseconds(100);
        var vmm = await new SimulatedDriver(_clock, logs).LaunchAsync(
            Launch(script, _folder) with { Lease = new VmmLease(soon, soon + TimeSpan.FromHours(1)) }, default);
        Advance(500);
        SpinWait.SpinUntil(() => Posix.BootTime > soon);
        Advance(5000);
        Assert.False(vmm.Completion.IsCompleted);
        var first = Assert.Single(Directory.GetFiles(Path.Combine(_folder, "runs")));
        Assert.Equal(["run", "alive", "stand"], Events(first));
        Assert.Contains($"\"boot_ms\":{(long)soon.TotalMilliseconds},", File.ReadAllLines(first)[2], StringComparison.Ordinal);

        // The next agent does not let it run before the control plane says so.
        await vmm.DisposeAsync();
        var adopted = (await new SimulatedDriver(_clock, logs).AdoptAsync(Launch(script, _folder), default))!;
        var second = Assert.Single(Directory.GetFiles(Path.Combine(_folder, "runs")), path => path != first);
        Advance(1000);
        Assert.False(adopted.Completion.IsCompleted);
        Assert.Empty(Events(second));
        var later = Posix.BootTime + TimeSpan.FromHours(1);
        Assert.True(await adopted.HoldLeaseAsync(new VmmLease(later, later), default));
        Assert.True((await adopted.Completion).InOrder);
        Assert.Equal(["run", "end"], Events(second));
    }

    [Fact]
    public async Task Should_end_when_its_lease_is_over()
    {
        var past = Posix.BootTime;
        var vmm = await new SimulatedDriver(_clock).LaunchAsync(Launch(new SimulatedGuest(), _folder) with { Lease = new VmmLease(past, past) }, default);
        Assert.Equal("lease_over", (await vmm.Completion).Reason.Code);
    }

    private static string[] Events(string path) => [.. File.ReadAllLines(path).Select(line => line.Split('"')[^2])];

    private void Advance(int ms) => _clock.Advance(TimeSpan.FromMilliseconds(ms));

    private Task<IVmm> LaunchAsync(SimulatedGuest script) => new SimulatedDriver(_clock).LaunchAsync(Launch(script, _folder), default);

    private Task<IVmm?> AdoptAsync(SimulatedGuest script) => new SimulatedDriver(_clock).AdoptAsync(Launch(script, _folder), default);

    private static VmmLaunch Launch(SimulatedGuest script, string folder) =>
        new("vm-01jd8mbr4v3s6q8k2n0x5t7w9z", 1, new VmSpec { Simulated = script }, folder);
}
