using System.Buffers.Binary;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Fencing;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Tests.Devices.Virtio;

namespace Fleet.Vmm.Tests.Machines;

/// <summary>A guest whose lease lapses stands still, whoever else hangs, and goes on or ends as its lease does.</summary>
public sealed class LeaseTests
{
    private const ulong Long = 3_600_000;

    private static ulong NowMs => (ulong)(KernelClock.BootNow / 1_000_000);

    [SkippableFact]
    public void Should_end_a_guest_whose_lease_is_over()
    {
        var lease = new Lease();
        using var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), vcpus: 2, change: settings => settings with { Lease = lease });
        lease.Extend(new(NowMs + 100, NowMs + 200));
        var end = run.RunToEnd();
        Assert.Equal(MachineEndKind.LeaseOver, end.Kind);
        Assert.InRange(KernelClock.BootNow, lease.EndsAt, long.MaxValue);
    }

    [SkippableFact]
    public void Should_stand_still_from_the_lapse_on_and_go_on_with_a_longer_lease()
    {
        var lease = new Lease();
        using var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), change: settings => settings with { Lease = lease });
        lease.Extend(new(NowMs + 50, NowMs + Long));
        long stood = 0;
        run.Poll(() =>
        {
            if (run.Warnings.Count == 0)
            {
                return false;
            }

            stood = CpuTime(run);
            lease.Extend(new(NowMs + Long, NowMs + Long));
            run.Machine.ObserveLease();
            run.Poll(() =>
            {
                if (CpuTime(run) < stood + 20_000_000)
                {
                    return false;
                }

                run.Machine.Stop();
                return true;
            });
            return true;
        });
        Assert.Equal(MachineEndKind.Stopped, run.RunToEnd().Kind);
        Assert.Equal(["The lease has lapsed: the guest stands still until it is made longer.", "The lease was made longer: the guest goes on."], run.Warnings);
    }

    /// <summary>The lease after the one that it stood for is watched as every other.</summary>
    [SkippableFact]
    public void Should_stand_still_again_when_the_lease_that_made_it_go_on_lapses()
    {
        const string Lapsed = "The lease has lapsed: the guest stands still until it is made longer.";
        var lease = new Lease();
        using var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), change: settings => settings with { Lease = lease });
        lease.Extend(new(NowMs + 50, NowMs + Long));
        var renewed = false;
        run.Poll(() =>
        {
            if (run.Warnings.Count == 1 && !renewed)
            {
                renewed = true;
                lease.Extend(new(NowMs + 100, NowMs + Long));
                run.Machine.ObserveLease();
            }

            if (run.Warnings.Count < 3 && KernelClock.BootNow < lease.LapsesAt + 10_000_000_000)
            {
                return false;
            }

            run.Machine.Stop();
            return true;
        });
        Assert.Equal(MachineEndKind.Stopped, run.RunToEnd().Kind);
        Assert.Equal([Lapsed, "The lease was made longer: the guest goes on.", Lapsed], run.Warnings);
    }

    /// <summary>Whatever the event loop waits for: the guest's processors are stopped by timers of their own.</summary>
    [SkippableFact]
    public void Should_stand_still_while_the_event_loop_hangs()
    {
        var lease = new Lease();
        using var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), vcpus: 2, change: settings => settings with { Lease = lease });
        lease.Extend(new(NowMs + 100, NowMs + Long));
        run.After(TimeSpan.FromTicks(1), () =>
        {
            var limit = KernelClock.BootNow + 10_000_000_000;
            var still = 0;
            while (KernelClock.BootNow < lease.LapsesAt || still < 20)
            {
                var before = CpuTime(run);
                Thread.Sleep(1);
                still = KernelClock.BootNow >= lease.LapsesAt && CpuTime(run) == before ? still + 1 : 0;
                Assert.True(KernelClock.BootNow < limit, "the guest runs on");
            }

            run.Machine.Stop();
        });
        Assert.Equal(MachineEndKind.Stopped, run.RunToEnd().Kind);
    }

    [SkippableFact]
    public void Should_end_the_process_when_the_event_loop_hangs_at_the_end_of_the_lease()
    {
        var lease = new Lease();
        using var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), change: settings => settings with { Lease = lease });
        run.Machine.Start();
        lease.Extend(new(NowMs + 1, NowMs + 2));
        run.Machine.ObserveLease();
        Assert.True(SpinWait.SpinUntil(() => !run.Stuck.IsEmpty, TimeSpan.FromSeconds(15)), "nobody ended the process");
        Assert.Equal("The lease is over and the VMM's event loop hangs", run.Stuck.First());
    }

    [SkippableFact]
    public void Should_not_resume_a_paused_guest_without_a_lease_nor_by_one()
    {
        var lease = new Lease();
        using var run = new MachineRun(ElfImage.Linux64(GuestPrograms.Spin), change: settings => settings with { Lease = lease });
        run.Machine.Start(paused: true);
        lease.Extend(new(NowMs, NowMs + Long));
        run.Machine.ObserveLease();
        var stood = CpuTime(run);
        run.Machine.Resume();
        run.Machine.Pause();
        lease.Extend(new(NowMs + Long, NowMs + Long));
        run.Machine.ObserveLease();
        Assert.InRange(CpuTime(run), stood, stood + 5_000_000);
        run.Machine.Resume();
        Assert.True(SpinWait.SpinUntil(() => CpuTime(run) > stood + 20_000_000, TimeSpan.FromSeconds(10)), "the guest does not go on");
        run.Machine.Stop();
        Assert.Equal(MachineEndKind.Stopped, run.RunToEnd(started: true).Kind);
    }

    [Fact]
    public void Should_do_nothing_for_a_guest_without_a_lease()
    {
        var lease = new Lease();
        VirtioSlot? slot = null;
        using var driver = new VirtioDriver(memory =>
        {
            slot = new VirtioSlot(new EntropyDevice(memory, new LimiterSettings(null, null), TimeProvider.System), memory, _ => { }, lease);
            return slot.Transport;
        });
        using var owned = slot!;
        driver.Begin();
        driver.Descriptor(0, VirtioDriver.Data, 8, 2);
        lease.Extend(new(NowMs - 1, NowMs + Long));
        driver.Offer(0);
        Assert.False(slot!.Process(0));
        Assert.Equal((0, 0ul), (driver.UsedIndex, BinaryPrimitives.ReadUInt64LittleEndian(driver.Memory.View(VirtioDriver.Data, 8))));
        lease.Extend(new(NowMs + Long, NowMs + Long));
        Assert.True(slot.Process(0));
        Assert.Equal(1, driver.UsedIndex);
    }

    [Fact]
    public void Should_only_ever_get_longer()
    {
        var lease = new Lease();
        Assert.False(lease.IsGiven || lease.HasLapsed || lease.IsOver || lease.IsLongOver);
        Assert.True(lease.Extend(new(NowMs + Long, NowMs + Long + 5)));
        Assert.False(lease.Extend(new(NowMs, NowMs)));
        Assert.True(lease is { IsGiven: true, HasLapsed: false, IsOver: false });
        var past = new Lease();
        past.Extend(new(NowMs - 10, NowMs + Long));
        Assert.True(past is { HasLapsed: true, IsOver: false, IsLongOver: false });
        past.Extend(new(NowMs - 5, NowMs - 1));
        Assert.True(past is { HasLapsed: true, IsOver: true, IsLongOver: false });
    }

    private static long CpuTime(MachineRun run) => run.Machine.VcpuThreads.Sum(ThreadKick.CpuTime);
}
