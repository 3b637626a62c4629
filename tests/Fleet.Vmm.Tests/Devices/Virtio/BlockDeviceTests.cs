using System.Buffers.Binary;
using System.Text;
using CsCheck;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Memory;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Tests.Devices.Virtio;

public sealed class BlockDeviceTests : IDisposable
{
    private const ushort Next = 1;
    private const ushort Writes = 2;
    private const int Sectors = 64;
    private const ulong Header = VirtioDriver.Data;
    private const ulong Content = VirtioDriver.Data + 0x1000;
    private const ulong Status = VirtioDriver.Data + 0x8000;
    private const ulong Flush = VirtioDevice.Version1 | (1 << 9);

    private static readonly LimiterSettings Unlimited = new(null, null);

    private readonly string _path = Path.GetTempFileName();
    private readonly byte[] _disk = new byte[(Sectors * 512) + 100];

    public BlockDeviceTests()
    {
        new Random(7).NextBytes(_disk);
        File.WriteAllBytes(_path, _disk);
    }

    public void Dispose() => File.Delete(_path);

    [Fact]
    public void Should_read_what_the_file_holds()
    {
        using var driver = Begin(out _);
        Assert.Equal((0, 1025u), Ask(driver, type: 0, sector: 3, length: 1024, toGuest: true));
        Assert.True(driver.Memory.Slice(Content, 1024).SequenceEqual(_disk.AsSpan(3 * 512, 1024)));
    }

    [Fact]
    public void Should_write_into_the_file()
    {
        using var driver = Begin(out _);
        var bytes = Enumerable.Range(0, 1536).Select(i => (byte)(i * 7)).ToArray();
        bytes.CopyTo(driver.Memory.Slice(Content, bytes.Length));
        Assert.Equal((0, 1u), Ask(driver, type: 1, sector: 61, length: 1536, toGuest: false));
        Assert.Equal((0, 1u), Ask(driver, type: 4, sector: 0, length: 0, toGuest: false));
        var now = File.ReadAllBytes(_path);
        Assert.Equal(bytes, now[(61 * 512)..(64 * 512)]);
        Assert.Equal(_disk[..(61 * 512)], now[..(61 * 512)]);
        Assert.Equal(_disk[(64 * 512)..], now[(64 * 512)..]);
    }

    [Theory]
    [InlineData(0u, 64ul, 512)]
    [InlineData(0u, 63ul, 1024)]
    [InlineData(0u, ulong.MaxValue, 512)]
    [InlineData(0u, ulong.MaxValue / 512, 512)]
    [InlineData(0u, 0ul, 100)]
    [InlineData(1u, 64ul, 512)]
    [InlineData(1u, 0ul, 511)]
    public void Should_not_leave_the_disk(uint type, ulong sector, int length)
    {
        using var driver = Begin(out _);
        Assert.Equal(1, Ask(driver, type, sector, length, toGuest: type == 0).Status);
        Assert.Equal(_disk, File.ReadAllBytes(_path));
        Assert.Empty(driver.Complaints);
    }

    [Fact]
    public void Should_not_write_what_is_read_only_and_not_flush_what_was_not_agreed_on()
    {
        using var driver = new VirtioDriver(memory => new BlockDevice(memory, new DiskSettings("d", _path, ReadOnly: true, Flushes: false, Unlimited), TimeProvider.System));
        Assert.Equal(1u << 5, driver.Read(0x10) & 0xffff);
        driver.Begin();
        Assert.Equal(1, Ask(driver, type: 1, sector: 0, length: 512, toGuest: false).Status);
        Assert.Equal(2, Ask(driver, type: 4, sector: 0, length: 0, toGuest: false).Status);
        Assert.Equal(2, Ask(driver, type: 77, sector: 0, length: 0, toGuest: false).Status);
        Assert.Equal(_disk, File.ReadAllBytes(_path));
    }

    [Fact]
    public void Should_tell_its_size_and_name()
    {
        using var driver = Begin(out var device);
        Assert.Equal((ulong)Sectors, device.Sectors);
        Span<byte> capacity = stackalloc byte[8];
        driver.Transport.Read(0x100, capacity);
        Assert.Equal((ulong)Sectors, BinaryPrimitives.ReadUInt64LittleEndian(capacity));
        Assert.Equal((0, 21u), Ask(driver, type: 8, sector: 0, length: 20, toGuest: true));
        Assert.Equal("root", Encoding.ASCII.GetString(driver.Memory.Slice(Content, 20)).TrimEnd('\0'));
        Assert.Equal(1, Ask(driver, type: 8, sector: 0, length: 19, toGuest: true).Status);
    }

    [Fact]
    public void Should_take_a_request_in_pieces_of_any_size()
    {
        using var driver = Begin(out _);
        BinaryPrimitives.WriteUInt64LittleEndian(driver.Memory.Slice(Header + 8, 8), 5);
        driver.Descriptor(0, Header, 3, Next, 1);
        driver.Descriptor(1, Header + 3, 13, Next, 2);
        driver.Descriptor(2, Content, 500, Next | Writes, 3);
        driver.Descriptor(3, Content + 500, 0, Next | Writes, 4);
        driver.Descriptor(4, Content + 500, 13, Writes);
        driver.Memory.Slice(Content + 512, 1)[0] = 0xff;
        driver.Notify(0);
        Assert.Equal((0u, 513u), driver.UsedEntry(0));
        Assert.True(driver.Memory.Slice(Content, 512).SequenceEqual(_disk.AsSpan(5 * 512, 512)));
        Assert.Equal(0, driver.Memory.Slice(Content + 512, 1)[0]);
    }

    [Fact]
    public void Should_need_a_reset_after_a_request_that_can_not_be_answered()
    {
        using var driver = Begin(out _);
        driver.Descriptor(0, Header, 16);
        driver.Notify(0);
        Assert.Equal(15u | 64, driver.Status);
        Assert.Contains("status", Assert.Single(driver.Complaints), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_tell_the_guest_when_the_host_can_not_write()
    {
        using var driver = Begin(out _);
        File.WriteAllBytes(_path, []);
        Assert.Equal(1, Ask(driver, type: 0, sector: 3, length: 512, toGuest: true).Status);
    }

    [Fact]
    public void Should_not_allocate_for_a_request()
    {
        using var driver = Begin(out _);
        foreach (var type in (uint[])[1, 0])
        {
            // Once to set it up; then the same request again and again.
            _ = Ask(driver, type, 1, 512, toGuest: type == 0);
            driver.Notify(0);
        }

        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 1000; i++)
        {
            driver.Memory.Slice(Header, 1)[0] = (byte)(i & 1);
            driver.Notify(0);
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    /// <summary>Whatever the header and the descriptors say: no exception, nothing beyond the disk, and the file keeps its size.</summary>
    [Fact]
    public void Should_stand_any_request()
    {
        var length = Gen.OneOf(Gen.UInt[0, 2000], Gen.Int[0, 8].Select(i => (uint)i * 512), Gen.UInt);
        var descriptor = Gen.Select(Gen.OneOf(Gen.ULong[Header, Header + 0x9000], Gen.ULong), length, Gen.Int[0, 7], Gen.Int[0, 17]);
        Gen.Select(Gen.OneOf(Gen.UInt[0, 10], Gen.UInt), Gen.OneOf(Gen.ULong[0, 70], Gen.ULong), descriptor.Array[1, 8]).Sample(
            (type, sector, descriptors) =>
            {
                using var driver = Begin(out var device);
                BinaryPrimitives.WriteUInt32LittleEndian(driver.Memory.Slice(Header, 4), type);
                BinaryPrimitives.WriteUInt64LittleEndian(driver.Memory.Slice(Header + 8, 8), sector);
                driver.Descriptor(0, Header, 16, Next, 1);
                for (var i = 0; i < descriptors.Length; i++)
                {
                    driver.Descriptor(i + 1, descriptors[i].Item1, descriptors[i].Item2, (ushort)descriptors[i].Item3, (ushort)descriptors[i].Item4);
                }

                driver.Notify(0);
                device.Dispose();
            },
            iter: 2_000,
            threads: 1);
        Assert.Equal(_disk.Length, new FileInfo(_path).Length);
        Assert.Equal(_disk[(Sectors * 512)..], File.ReadAllBytes(_path)[(Sectors * 512)..]);
    }

    private VirtioDriver Begin(out BlockDevice device)
    {
        BlockDevice? made = null;
        var driver = new VirtioDriver(memory => made = new BlockDevice(memory, new DiskSettings("root", _path, ReadOnly: false, Flushes: true, Unlimited), TimeProvider.System));
        device = made!;
        driver.Begin(Flush);
        return driver;
    }

    private static (int Status, uint Written) Ask(VirtioDriver driver, uint type, ulong sector, int length, bool toGuest)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(driver.Memory.Slice(Header, 4), type);
        BinaryPrimitives.WriteUInt64LittleEndian(driver.Memory.Slice(Header + 8, 8), sector);
        driver.Descriptor(0, Header, 16, Next, (ushort)(length == 0 ? 2 : 1));
        driver.Descriptor(1, Content, (uint)length, (ushort)(Next | (toGuest ? Writes : 0)), 2);
        driver.Descriptor(2, Status, 1, Writes);
        driver.Memory.Slice(Status, 1)[0] = 0xff;
        var before = driver.UsedIndex;
        driver.Notify(0);
        Assert.Equal((ushort)(before + 1), driver.UsedIndex);
        return (driver.Memory.Slice(Status, 1)[0], driver.UsedEntry(before).Written);
    }
}
