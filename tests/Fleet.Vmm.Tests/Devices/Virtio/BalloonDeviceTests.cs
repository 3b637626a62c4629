using System.Buffers.Binary;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Tests.Devices.Virtio;

public sealed class BalloonDeviceTests
{
    private const ushort Writes = 2;
    private const ulong Everything = VirtioDevice.Version1 | (1 << 1) | (1 << 5);
    private const ulong Given = 0x80000;

    [Fact]
    public void Should_tell_its_target_and_take_the_guests_word_for_what_it_holds()
    {
        using var driver = Begin(new BalloonSettings(3, true, 0, false), out var device, 2);
        Assert.Equal(768u, driver.Read(0x100));
        driver.Write(0x104, 77);
        driver.Write(0x100, 99);
        Assert.Equal((768u, 77u), (device.TargetPages, device.ActualPages));
        driver.Transport.ChangeConfiguration(() => device.TargetPages = 256);
        Assert.Equal((256u, 1), (driver.Read(0x100), driver.Interrupts));
        Assert.Equal(2u, driver.Read(0x60));
        driver.Write(0x70, 0);
        Assert.Equal((256u, 0u), (device.TargetPages, device.ActualPages));
    }

    [Fact]
    public void Should_give_back_the_pages_that_it_is_handed_in_any_order_and_no_other()
    {
        using var driver = Begin(new BalloonSettings(0, false, 0, false), out var device, 2);
        for (var page = 0; page < 8; page++)
        {
            driver.Memory.Slice(Given + (ulong)(page * 4096), 4096).Fill(7);
        }

        // Up, down, alone, twice, and where no memory is.
        uint[] pages = [0x80, 0x81, 0x85, 0x84, 0x87, 0x87, 0x100, 0xffffffff];
        for (var i = 0; i < pages.Length; i++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(driver.Memory.Slice(VirtioDriver.Data + (ulong)(4 * i), 4), pages[i]);
        }

        driver.Descriptor(0, VirtioDriver.Data, (uint)pages.Length * 4);
        driver.Notify(0);
        for (var page = 0; page < 8; page++)
        {
            var expected = page is 0 or 1 or 4 or 5 or 7 ? 0 : 7;
            Assert.Equal(expected, driver.Memory.Slice(Given + (ulong)(page * 4096), 1)[0]);
        }

        Assert.Equal((6 * 4096ul, 2ul), (device.Metrics.Since(3), device.Metrics.Since(5)));
        Assert.Equal((0u, 0u), driver.UsedEntry(0));
    }

    [Fact]
    public void Should_give_back_whole_pages_of_what_is_reported_free()
    {
        using var driver = Begin(new BalloonSettings(0, false, 1, true), out _, 4);
        driver.Memory.Slice(Given, 5 * 4096).Fill(7);
        driver.Descriptor(0, Given + 100, 3 * 4096, Writes);
        driver.Notify(0, queue: 3);
        Assert.Equal([7, 0, 0, 7, 7], Enumerable.Range(0, 5).Select(page => (int)driver.Memory.Slice(Given + (ulong)(page * 4096), 1)[0]));
        Assert.Equal(1, driver.UsedIndexOf(3));
    }

    [Fact]
    public void Should_keep_the_statistics_buffer_and_ask_with_it()
    {
        using var loop = new EventLoop();
        VirtioSlot? slot = null;
        BalloonDevice? device = null;
        using var driver = new VirtioDriver(memory =>
        {
            device = new BalloonDevice(memory, new BalloonSettings(0, false, 1, false));
            slot = new VirtioSlot(device, memory, _ => { });
            return slot.Transport;
        });
        using var owned = slot!;
        driver.Begin(VirtioDevice.Version1 | (1 << 1), queues: 3);
        slot!.Attend(loop);
        Tell(4, 1000, 5, 2000, 99, 3000);
        Assert.Equal(0, driver.UsedIndexOf(2));
        Assert.Equal((1000ul, 2000ul, (ulong?)null), (device!.Statistics[4], device.Statistics[5], device.Statistics[0]));
        LoopScript.Follow(
            loop,
            (() => driver.UsedIndexOf(2) == 1, () => Tell(4, 500)));
        Assert.Equal((500ul, 2000ul), (device.Statistics[4], device.Statistics[5]));

        void Tell(params ulong[] tagsAndValues)
        {
            for (var i = 0; i < tagsAndValues.Length; i += 2)
            {
                var at = driver.Memory.Slice(VirtioDriver.Data + (ulong)(5 * i), 10);
                BinaryPrimitives.WriteUInt16LittleEndian(at, (ushort)tagsAndValues[i]);
                BinaryPrimitives.WriteUInt64LittleEndian(at[2..], tagsAndValues[i + 1]);
            }

            driver.Descriptor(0, VirtioDriver.Data, (uint)(5 * tagsAndValues.Length));
            driver.Offer(0, queue: 2);
            _ = slot!.Process(2);
        }
    }

    [Fact]
    public void Should_count_only_the_queues_that_it_offers()
    {
        using var plain = Begin(new BalloonSettings(0, false, 0, false), out var device, 2);
        Assert.Equal(2, device.QueueSizes.Count);
        using var reporting = Begin(new BalloonSettings(0, false, 0, true), out device, 3, VirtioDevice.Version1 | (1 << 5));
        Assert.Equal(3, device.QueueSizes.Count);
        reporting.Memory.Slice(Given, 4096).Fill(7);
        reporting.Descriptor(0, Given, 4096, Writes);
        reporting.Notify(0, queue: 2);
        Assert.Equal(0, reporting.Memory.Slice(Given, 1)[0]);
    }

    private static VirtioDriver Begin(BalloonSettings settings, out BalloonDevice device, int queues, ulong? features = null)
    {
        BalloonDevice? made = null;
        var driver = new VirtioDriver(memory => made = new BalloonDevice(memory, settings));
        device = made!;
        driver.Begin(features ?? (queues == 4 ? Everything : VirtioDevice.Version1), queues);
        return driver;
    }
}
