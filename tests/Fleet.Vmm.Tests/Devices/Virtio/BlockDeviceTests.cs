using System.Buffers.Binary;
using System.Text;
using CsCheck;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Linux;
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
    private const ulong Table = VirtioDriver.Data + 0x9000;
    private const ushort Indirect = 4;
    private const ulong Flush = VirtioDevice.Version1 | (1 << 9);

    private static readonly LimiterSettings Unlimited = new(null, null);

    private long _allocated;
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
        using var driver = new VirtioDriver(memory => new BlockDevice(memory, new DiskSettings("d", _path, ReadOnly: true, Flushes: false, Asynchronous: false, Unlimited), TimeProvider.System));
        Assert.Equal(1u << 5 | 1 << 2, driver.Read(0x10) & 0xffff);
        driver.Begin();
        Assert.Equal(1, Ask(driver, type: 1, sector: 0, length: 512, toGuest: false).Status);
        Assert.Equal(2, Ask(driver, type: 4, sector: 0, length: 0, toGuest: false).Status);
        Assert.Equal(2, Ask(driver, type: 77, sector: 0, length: 0, toGuest: false).Status);
        Assert.Equal(_disk, File.ReadAllBytes(_path));
    }

    [SkippableFact]
    public void Should_fail_a_write_that_the_hosts_disk_has_no_room_for_and_go_on_when_it_has()
    {
        Skip.IfNot(Environment.IsPrivilegedProcess, "a disk of its own takes root");
        var host = Directory.CreateTempSubdirectory("fleet-disk-").FullName;
        Run("mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", host);
        try
        {
            var path = Path.Combine(host, "disk");
            using (var sparse = File.Create(path)) sparse.SetLength(Sectors * 512);
            File.WriteAllBytes(Path.Combine(host, "others"), new byte[16 << 10]);
            BlockDevice? device = null;
            using var driver = new VirtioDriver(memory => device = new BlockDevice(memory, new DiskSettings("d", path, ReadOnly: false, Flushes: true, Asynchronous: false, Unlimited), TimeProvider.System));
            using var owned = device;
            driver.Begin(Flush);
            driver.Memory.Slice(Content, 512).Fill(7);
            Assert.Equal(1, Ask(driver, type: 1, sector: 9, length: 512, toGuest: false).Status);
            Assert.Equal(0, Ask(driver, type: 0, sector: 9, length: 512, toGuest: true).Status);
            File.Delete(Path.Combine(host, "others"));
            driver.Memory.Slice(Content, 512).Fill(7);
            Assert.Equal((0, 1u), Ask(driver, type: 1, sector: 9, length: 512, toGuest: false));
            Assert.Equal(Enumerable.Repeat((byte)7, 512), File.ReadAllBytes(path)[(9 * 512)..(10 * 512)]);
        }
        finally
        {
            Run("umount", host);
            Directory.Delete(host);
        }

        static void Run(string program, params string[] arguments)
        {
            using var process = System.Diagnostics.Process.Start(program, arguments);
            process.WaitForExit();
            Assert.Equal(0, process.ExitCode);
        }
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
    public void Should_take_a_request_from_an_indirect_table()
    {
        using var driver = Begin(out _);
        driver.Write(0x70, 0);
        driver.Begin(Flush | VirtioDevice.IndirectDescriptors);
        BinaryPrimitives.WriteUInt64LittleEndian(driver.Memory.Slice(Header + 8, 8), 7);
        WriteDescriptor(driver, Table, Header, 16, Next, 2);
        WriteDescriptor(driver, Table + 32, Content, 1024, Next | Writes, 1);
        WriteDescriptor(driver, Table + 16, Status, 1, Writes, 0);
        driver.Descriptor(4, Table, 48, Indirect);
        driver.Notify(4);
        Assert.Equal((4u, 1025u), driver.UsedEntry(0));
        Assert.True(driver.Memory.Slice(Content, 1024).SequenceEqual(_disk.AsSpan(7 * 512, 1024)));
    }

    [Theory]
    [InlineData(Table, 0u, Indirect, 0)]
    [InlineData(Table, 17u, Indirect, 0)]
    [InlineData(Table, 16u * 257, Indirect, 0)]
    [InlineData((1ul << 20) - 16, 32u, Indirect, 0)]
    [InlineData(ulong.MaxValue - 15, 16u, Indirect, 0)]
    [InlineData(VirtioDriver.Descriptors, 32u, Indirect, 0)]
    [InlineData(Table, 48u, Indirect | Next, 0)]
    [InlineData(Table, 48u, Indirect, Indirect)]
    public void Should_not_follow_a_bad_indirect_table(ulong table, uint length, int flags, int inner)
    {
        using var driver = Begin(out _);
        driver.Write(0x70, 0);
        driver.Begin(Flush | VirtioDevice.IndirectDescriptors);
        WriteDescriptor(driver, Table, Table, 16, (ushort)inner, 0);
        driver.Descriptor(0, table, length, (ushort)flags, 1);
        driver.Descriptor(1, Status, 1, Writes);
        driver.Notify(0);
        Assert.Equal(15u | 64, driver.Status);
        Assert.Single(driver.Complaints);
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

    [Fact]
    public void Should_carry_many_requests_at_once_in_any_order()
    {
        using var driver = Begin(out var device, asynchronous: true);
        using var owned = device;
        var model = _disk[..(Sectors * 512)].ToArray();
        var random = new Random(11);
        for (var round = 0; round < 50; round++)
        {
            // Five at once, on places of their own: three descriptors each of the sixteen.
            var first = driver.UsedIndex;
            var asked = new (bool Reads, int Sector, ulong Buffer)[5];
            for (var i = 0; i < asked.Length; i++)
            {
                asked[i] = (random.Next(2) == 0, (i * 12) + random.Next(10), VirtioDriver.Data + (0x2000ul * (ulong)i));
                var (reads, sector, buffer) = asked[i];
                BinaryPrimitives.WriteUInt32LittleEndian(driver.Memory.Slice(buffer, 4), reads ? 0u : 1u);
                BinaryPrimitives.WriteUInt64LittleEndian(driver.Memory.Slice(buffer + 8, 8), (ulong)sector);
                var bytes = driver.Memory.Slice(buffer + 0x100, 1024);
                random.NextBytes(bytes);
                if (!reads)
                {
                    bytes.CopyTo(model.AsSpan(sector * 512));
                }

                driver.Descriptor(3 * i, buffer, 16, Next, (ushort)((3 * i) + 1));
                driver.Descriptor((3 * i) + 1, buffer + 0x100, 1024, (ushort)(Next | (reads ? Writes : 0)), (ushort)((3 * i) + 2));
                driver.Descriptor((3 * i) + 2, buffer + 0x800, 1, Writes);
                driver.Memory.Slice(buffer + 0x800, 1)[0] = 0xff;
                driver.Offer((ushort)(3 * i));
            }

            driver.Write(MmioTransport.NotifyRegister, 0);
            Complete(driver, (ushort)(first + 5));
            foreach (var (reads, sector, buffer) in asked)
            {
                Assert.Equal(0, driver.Memory.Slice(buffer + 0x800, 1)[0]);
                if (reads)
                {
                    Assert.True(driver.Memory.Slice(buffer + 0x100, 1024).SequenceEqual(model.AsSpan(sector * 512, 1024)));
                }
            }
        }

        Assert.Equal(model, File.ReadAllBytes(_path)[..model.Length]);
    }

    [Fact]
    public void Should_finish_what_is_under_way_before_it_stands_still()
    {
        using var loop = new EventLoop();
        BlockDevice? device = null;
        VirtioSlot? slot = null;
        using var driver = new VirtioDriver(memory =>
        {
            device = Disk(memory, asynchronous: true);
            slot = new VirtioSlot(device, memory, _ => { });
            return slot.Transport;
        });
        using var owned = slot!;
        driver.Begin(Flush);
        slot!.Attend(loop);
        Prepare(driver, type: 0, sector: 3, length: 1024, toGuest: true);
        driver.Offer(0);
        _ = slot.Process(0);
        slot.Leave();
        Assert.Equal(1, driver.UsedIndex);
        Assert.True(driver.Memory.Slice(Content, 1024).SequenceEqual(_disk.AsSpan(3 * 512, 1024)));

        // A driver that lets go gets no answer, and none of its memory is touched afterwards.
        slot.Attend(loop);
        driver.Offer(0);
        _ = slot.Process(0);
        driver.Write(0x70, 0);
        driver.Begin(Flush);
        driver.Memory.Slice(Content, 1024).Clear();
        Assert.False(driver.Memory.Slice(Content, 1024).ContainsAnyExcept((byte)0));
        Assert.Equal(0, driver.UsedIndex);
        Prepare(driver, type: 4, sector: 0, length: 0, toGuest: false);
        driver.Offer(0);
        using var look = new LoopTimer(loop, () =>
        {
            if (driver.UsedIndex == 1)
            {
                loop.Exit(0);
            }
        });
        look.Start(TimeSpan.FromMilliseconds(1), TimeSpan.FromMilliseconds(1));
        using var giveUp = new LoopTimer(loop, () => loop.Exit(1));
        giveUp.Start(TimeSpan.FromSeconds(20), TimeSpan.Zero);
        slot.Wake();
        Assert.Equal(0, loop.Run());
        Assert.Equal(0, driver.Memory.Slice(Status, 1)[0]);
    }

    [Fact]
    public void Should_not_allocate_for_a_request_under_way()
    {
        using var driver = Begin(out var device, asynchronous: true);
        using var owned = device;
        Prepare(driver, type: 0, sector: 3, length: 1024, toGuest: true);
        for (var i = 0; i < 1010; i++)
        {
            if (i == 10)
            {
                _allocated = GC.GetAllocatedBytesForCurrentThread();
            }

            var next = (ushort)(driver.UsedIndex + 1);
            driver.Notify(0);
            while (driver.UsedIndex != next)
            {
                _ = driver.Transport.Process(0);
            }
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - _allocated);
    }

    /// <summary>Whatever the header and the descriptors say: no exception, nothing beyond the disk, and the file keeps its size.</summary>
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public void Should_stand_any_request(bool asynchronous)
    {
        var length = Gen.OneOf(Gen.UInt[0, 2000], Gen.Int[0, 8].Select(i => (uint)i * 512), Gen.UInt);
        var descriptor = Gen.Select(Gen.OneOf(Gen.ULong[Header, Header + 0x9000], Gen.ULong), length, Gen.Int[0, 7], Gen.Int[0, 17]);
        Gen.Select(Gen.OneOf(Gen.UInt[0, 10], Gen.UInt), Gen.OneOf(Gen.ULong[0, 70], Gen.ULong), descriptor.Array[1, 8]).Sample(
            (type, sector, descriptors) =>
            {
                using var driver = Begin(out var device, asynchronous);
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

    private VirtioDriver Begin(out BlockDevice device, bool asynchronous = false)
    {
        BlockDevice? made = null;
        var driver = new VirtioDriver(memory => made = Disk(memory, asynchronous));
        device = made!;
        driver.Begin(Flush);
        return driver;
    }

    private BlockDevice Disk(GuestMemory memory, bool asynchronous) =>
        new(memory, new DiskSettings("root", _path, ReadOnly: false, Flushes: true, asynchronous, Unlimited), TimeProvider.System);

    private static void Complete(VirtioDriver driver, ushort until) =>
        Assert.True(SpinWait.SpinUntil(() => driver.Transport.Process(0) && driver.UsedIndex == until, TimeSpan.FromSeconds(20)));

    private static void WriteDescriptor(VirtioDriver driver, ulong at, ulong address, uint length, ushort flags, ushort next)
    {
        var descriptor = driver.Memory.Slice(at, 16);
        BinaryPrimitives.WriteUInt64LittleEndian(descriptor, address);
        BinaryPrimitives.WriteUInt32LittleEndian(descriptor[8..], length);
        BinaryPrimitives.WriteUInt16LittleEndian(descriptor[12..], flags);
        BinaryPrimitives.WriteUInt16LittleEndian(descriptor[14..], next);
    }

    private static (int Status, uint Written) Ask(VirtioDriver driver, uint type, ulong sector, int length, bool toGuest)
    {
        Prepare(driver, type, sector, length, toGuest);
        var before = driver.UsedIndex;
        driver.Notify(0);
        Assert.Equal((ushort)(before + 1), driver.UsedIndex);
        return (driver.Memory.Slice(Status, 1)[0], driver.UsedEntry(before).Written);
    }

    private static void Prepare(VirtioDriver driver, uint type, ulong sector, int length, bool toGuest)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(driver.Memory.Slice(Header, 4), type);
        BinaryPrimitives.WriteUInt64LittleEndian(driver.Memory.Slice(Header + 8, 8), sector);
        driver.Descriptor(0, Header, 16, Next, (ushort)(length == 0 ? 2 : 1));
        driver.Descriptor(1, Content, (uint)length, (ushort)(Next | (toGuest ? Writes : 0)), 2);
        driver.Descriptor(2, Status, 1, Writes);
        driver.Memory.Slice(Status, 1)[0] = 0xff;
    }
}
