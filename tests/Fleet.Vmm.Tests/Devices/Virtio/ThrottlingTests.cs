using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Linux;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Tests.RateLimiting;

namespace Fleet.Vmm.Tests.Devices.Virtio;

public class ThrottlingTests
{
    private const ushort Writes = 2;

    private readonly SetClock _clock = new();

    [Fact]
    public void Should_leave_in_the_queue_what_may_not_pass_yet()
    {
        EntropyDevice? device = null;
        using var driver = new VirtioDriver(memory => device = new EntropyDevice(memory, Limits(bytes: 100), _clock));
        driver.Begin();
        for (ushort i = 0; i < 4; i++)
        {
            driver.Descriptor(i, VirtioDriver.Data, 40, Writes);
            driver.Offer(i);
        }

        driver.Write(MmioTransport.NotifyRegister, 0);
        Assert.Equal((2, 1), (driver.UsedIndex, driver.Interrupts));
        Assert.Equal(TimeSpan.FromMilliseconds(20), Assert.Single(driver.Again));

        // Whoever asks too early gets nothing, and is not counted once more.
        _clock.Now += TimeSpan.FromMilliseconds(19);
        driver.Transport.Process(0);
        Assert.Equal((2, 1), (driver.UsedIndex, driver.Interrupts));
        _clock.Now += TimeSpan.FromMilliseconds(1);
        driver.Transport.Process(0);
        Assert.Equal((3, 2), (driver.UsedIndex, driver.Interrupts));
        _clock.Now += TimeSpan.FromMilliseconds(40);
        driver.Transport.Process(0);
        Assert.Equal(4, driver.UsedIndex);
        Assert.Equal((2ul, 4ul, 160ul), (device!.LimiterOf(0).Throttled, device.LimiterOf(0).PassedOperations, device.LimiterOf(0).PassedBytes));
    }

    [Fact]
    public void Should_serve_the_rest_by_itself_when_time_has_come_also_after_a_pause()
    {
        using var loop = new EventLoop();
        VirtioSlot? slot = null;
        using var driver = new VirtioDriver(memory =>
        {
            slot = new VirtioSlot(new EntropyDevice(memory, Limits(operations: 1), TimeProvider.System), memory, _ => { });
            return slot.Transport;
        });
        using var owned = slot!;
        driver.Begin();
        for (ushort i = 0; i < 4; i++)
        {
            driver.Descriptor(i, VirtioDriver.Data, 40, Writes);
            driver.Offer(i);
        }

        driver.Write(MmioTransport.NotifyRegister, 0);
        slot!.Attend(loop);
        var paused = false;
        using var look = new LoopTimer(loop, () =>
        {
            if (driver.UsedIndex == 2 && !paused)
            {
                paused = true;
                slot.Leave();
                slot.Attend(loop);
            }

            if (driver.UsedIndex == 4)
            {
                loop.Exit(0);
            }
        });
        look.Start(TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(1));
        using var giveUp = new LoopTimer(loop, () => loop.Exit(1));
        giveUp.Start(TimeSpan.FromSeconds(20), TimeSpan.Zero);
        Assert.Equal(0, loop.Run());
        Assert.True(paused);
    }

    [Fact]
    public void Should_look_again_at_once_when_limits_change()
    {
        EntropyDevice? device = null;
        using var driver = new VirtioDriver(memory => device = new EntropyDevice(memory, Limits(operations: 1, refill: 1_000_000), _clock));
        driver.Begin();
        driver.Descriptor(0, VirtioDriver.Data, 40, Writes);
        driver.Notify(0);
        driver.Notify(0);
        Assert.Equal(1, driver.UsedIndex);
        driver.Transport.Change(() => device!.LimiterOf(0).Update(Limits(operations: 5)));
        driver.Transport.Process(0);
        Assert.Equal(2, driver.UsedIndex);
    }

    private static LimiterSettings Limits(ulong bytes = 0, ulong operations = 0, ulong refill = 100) =>
        new(bytes > 0 ? new BucketSettings(bytes, refill, 0) : null, operations > 0 ? new BucketSettings(operations, refill, 0) : null);
}
