using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Tests.Api;

namespace Fleet.Vmm.Tests.Devices.Virtio;

/// <summary>A guest's large requests share the event loop with everything else: a turn ends, and the next one goes on.</summary>
public sealed class TurnTests
{
    private const ushort Next = 1;
    private const ushort Writes = 2;

    [Fact]
    public void Should_end_a_disks_turn_after_so_many_bytes()
    {
        const uint HalfAMebibyte = 512 << 10;
        const ulong Content = 0x80000;
        using var files = new ScratchDirectory();
        using (var file = File.Create(files.File("disk")))
        {
            file.SetLength(64 << 20);
        }

        BlockDevice? disk = null;
        using var driver = new VirtioDriver(memory => disk = new BlockDevice(
            memory, new DiskSettings("d", files.File("disk"), ReadOnly: true, false, false, new LimiterSettings(null, null)), TimeProvider.System));
        using var _ = disk;
        driver.Begin();
        driver.Memory.Slice(VirtioDriver.Data, 16).Clear();

        // 2.5 MiB a request, over the same memory again and again.
        driver.Descriptor(0, VirtioDriver.Data, 16, Next, 1);
        for (var i = 1; i <= 5; i++)
        {
            driver.Descriptor(i, Content, HalfAMebibyte, Next | Writes, (ushort)(i + 1));
        }

        driver.Descriptor(6, VirtioDriver.Data + 16, 1, Writes);
        for (var i = 0; i < 10; i++)
        {
            driver.Offer(0);
        }

        for (var turn = 1; turn <= 3; turn++)
        {
            driver.Transport.Process(0);
            Assert.Equal((Math.Min(10, 4 * turn), Math.Min(2, turn)), (driver.UsedIndex, driver.Again.Count));
        }

        Assert.Equal(0, driver.Memory.Slice(VirtioDriver.Data + 16, 1)[0]);
    }

    [Fact]
    public void Should_end_a_balloons_turn_after_so_many_pages()
    {
        using var driver = new VirtioDriver(memory => new BalloonDevice(memory, new BalloonSettings(0, false, 0, false)));
        driver.Begin(queues: 2);
        driver.Memory.Slice(VirtioDriver.Data, 64 << 10).Fill(0xff);
        driver.Descriptor(0, VirtioDriver.Data, 64 << 10);
        driver.Offer(0);
        driver.Offer(0);
        driver.Transport.Process(0);
        Assert.Equal((1, TimeSpan.Zero), (driver.UsedIndex, Assert.Single(driver.Again)));
    }
}
