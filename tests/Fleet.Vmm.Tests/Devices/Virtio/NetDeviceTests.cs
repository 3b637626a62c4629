using System.Buffers.Binary;
using CsCheck;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Tests.RateLimiting;

namespace Fleet.Vmm.Tests.Devices.Virtio;

public sealed class NetDeviceTests : IDisposable
{
    private const ushort Next = 1;
    private const ushort Writes = 2;
    private const ulong Merges = VirtioDevice.Version1 | (1 << 15);
    private const int Rx = 0;
    private const int Tx = 1;

    private readonly SetClock _clock = new();
    private readonly FakePort _port = new();

    public void Dispose() => _port.Dispose();

    [Fact]
    public void Should_tell_its_address_and_mtu()
    {
        using var driver = Begin(mac: 0x0201_0203_0405, mtu: 1400);
        Span<byte> space = stackalloc byte[8];
        driver.Transport.Read(0x100, space[..4]);
        driver.Transport.Read(0x104, space[4..]);
        Assert.Equal([2, 1, 2, 3, 4, 5, 0, 0], space.ToArray());
        driver.Transport.Read(0x10a, space[..2]);
        Assert.Equal(1400, BinaryPrimitives.ReadUInt16LittleEndian(space));
        driver.Write(0x14, 0);
        Assert.Equal(1u << 5 | 1 << 3, driver.Read(0x10) & (1u << 5 | 1 << 3));
        using var silent = Begin();
        silent.Write(0x14, 0);
        Assert.Equal(0u, silent.Read(0x10) & (1u << 5 | 1 << 3));
    }

    [Fact]
    public void Should_send_frames_as_they_are()
    {
        using var driver = Begin();
        var frame = Frame(100);
        frame.CopyTo(driver.Memory.Slice(VirtioDriver.Data, frame.Length));
        driver.Descriptor(0, VirtioDriver.Data, 5, Next, 1);
        driver.Descriptor(1, VirtioDriver.Data + 5, 50, Next, 2);
        driver.Descriptor(2, VirtioDriver.Data + 55, (uint)frame.Length - 55);
        driver.Notify(0, Tx);
        Assert.Equal((0u, 0u), driver.UsedEntry(0, Tx));
        Assert.Equal(frame, Assert.Single(_port.Sent));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(25)]
    [InlineData(65575)]
    public void Should_drop_what_is_no_frame(int length)
    {
        using var driver = Begin();
        driver.Descriptor(0, VirtioDriver.Data, (uint)length);
        driver.Notify(0, Tx);
        Assert.Equal(1, driver.UsedIndexOf(Tx));
        Assert.Empty(_port.Sent);
        Assert.Empty(driver.Complaints);
    }

    [Fact]
    public void Should_receive_a_frame_into_as_many_buffers_as_it_needs()
    {
        using var driver = Begin(features: Merges);
        for (ushort i = 0; i < 5; i++)
        {
            driver.Descriptor(i, VirtioDriver.Data + (0x1000ul * i), 1000, Writes);
            driver.Offer(i);
        }

        var frame = Frame(2500);
        _port.Waiting.Enqueue(frame);
        driver.Transport.Process(Rx);
        Assert.Equal((3, 1), (driver.UsedIndex, driver.Interrupts));
        Assert.Equal([(0u, 1000u), (1u, 1000u), (2u, 512u)], Enumerable.Range(0, 3).Select(i => driver.UsedEntry(i)));
        var got = Enumerable.Range(0, 3).SelectMany(i => driver.Memory.Slice(VirtioDriver.Data + (0x1000ul * (ulong)i), i < 2 ? 1000 : 512).ToArray()).ToArray();
        Assert.Equal(3, BinaryPrimitives.ReadUInt16LittleEndian(got.AsSpan(10)));
        Assert.Equal(frame[12..], got[12..]);

        // Two buffers are left: the next frame waits for a third, and nothing of it is seen before.
        _port.Waiting.Enqueue(Frame(2500));
        _port.Waiting.Enqueue(Frame(10));
        driver.Transport.Process(Rx);
        Assert.Equal(3, driver.UsedIndex);
        driver.Descriptor(5, VirtioDriver.Data + 0x5000, 1000, Writes);
        driver.Notify(5);
        Assert.Equal(6, driver.UsedIndex);
        Assert.Equal((5u, 512u), driver.UsedEntry(5));
        driver.Notify(0);
        Assert.Equal((7, (0u, 22u)), (driver.UsedIndex, driver.UsedEntry(6)));
    }

    [Fact]
    public void Should_ask_for_a_notification_behind_the_buffers_it_knows()
    {
        using var driver = Begin(features: Merges | VirtioDevice.EventIndex);
        for (ushort i = 0; i < 2; i++)
        {
            driver.Descriptor(i, VirtioDriver.Data, 1000, Writes);
            driver.Offer(i);
        }

        _port.Waiting.Enqueue(Frame(5000));
        driver.Transport.Process(Rx);
        var wanted = BinaryPrimitives.ReadUInt16LittleEndian(driver.Memory.Slice(VirtioDriver.Used + 4 + (8 * VirtioDriver.QueueSize), 2));
        Assert.Equal((0, 2), (driver.UsedIndex, (int)wanted));
    }

    [Fact]
    public void Should_drop_a_frame_that_one_buffer_does_not_hold_when_there_may_be_but_one()
    {
        using var driver = Begin();
        driver.Descriptor(0, VirtioDriver.Data, 500, Writes);
        driver.Offer(0);
        _port.Waiting.Enqueue(Frame(2000));
        _port.Waiting.Enqueue(Frame(300));
        driver.Transport.Process(Rx);
        Assert.Equal((1, (0u, 312u)), (driver.UsedIndex, driver.UsedEntry(0)));
        Assert.Equal(1, BinaryPrimitives.ReadUInt16LittleEndian(driver.Memory.Slice(VirtioDriver.Data + 10, 2)));
    }

    /// <summary>Each chain is lawful; that together they have more pieces than a frame can go into must not cost the interface.</summary>
    [Fact]
    public void Should_drop_a_frame_whose_buffers_are_in_too_many_pieces()
    {
        using var driver = Begin(features: Merges | VirtioDevice.IndirectDescriptors);
        for (var i = 0; i < 256; i++)
        {
            var at = driver.Memory.Slice(0x60000 + (16ul * (ulong)i), 16);
            BinaryPrimitives.WriteUInt64LittleEndian(at, VirtioDriver.Data);
            BinaryPrimitives.WriteUInt32LittleEndian(at[8..], 1);
            BinaryPrimitives.WriteUInt16LittleEndian(at[12..], (ushort)(i == 255 ? Writes : Writes | 1));
            BinaryPrimitives.WriteUInt16LittleEndian(at[14..], (ushort)(i + 1));
        }

        driver.Descriptor(0, 0x60000, 4096, 4);
        driver.Offer(0);
        driver.Offer(0);
        _port.Waiting.Enqueue(Frame(300));
        _port.Waiting.Enqueue(Frame(200));
        driver.Transport.Process(Rx);
        Assert.Equal((1, (0u, 212u)), (driver.UsedIndex, driver.UsedEntry(0)));
        Assert.Empty(driver.Complaints);
    }

    [Fact]
    public void Should_pace_each_direction_by_its_own_limiter()
    {
        var limits = new LimiterSettings(new BucketSettings(1000, 100, 0), null);
        using var driver = Begin(limits: limits);
        driver.Descriptor(0, VirtioDriver.Data, 4000, Writes);
        driver.Offer(0);
        driver.Offer(0);
        _port.Waiting.Enqueue(Frame(800));
        _port.Waiting.Enqueue(Frame(300));
        driver.Transport.Process(Rx);
        Assert.Equal((1, TimeSpan.FromMilliseconds(10)), (driver.UsedIndex, Assert.Single(driver.Again)));
        driver.Transport.Process(Rx);
        Assert.Equal(1, driver.UsedIndex);

        // The other direction has a bucket of its own.
        driver.Descriptor(1, VirtioDriver.Data, 812);
        driver.Notify(1, Tx);
        Assert.Single(_port.Sent);
        driver.Notify(1, Tx);
        Assert.Single(_port.Sent);
        _clock.Now += TimeSpan.FromMilliseconds(10);
        driver.Transport.Process(Rx);
        Assert.Equal(2, driver.UsedIndex);
        _clock.Now += TimeSpan.FromMilliseconds(50);
        driver.Transport.Process(Tx);
        Assert.Equal(2, _port.Sent.Count);
    }

    [Fact]
    public void Should_forget_a_waiting_frame_with_the_driver_it_was_for()
    {
        using var driver = Begin(features: Merges);
        _port.Waiting.Enqueue(Frame(99));
        driver.Transport.Process(Rx);
        driver.Write(0x70, 0);
        Assert.False(driver.Transport.Process(Rx));
        driver.Begin(Merges, queues: 2);
        driver.Descriptor(0, VirtioDriver.Data, 4000, Writes);
        driver.Notify(0);
        Assert.Equal(0, driver.UsedIndex);
        _port.Waiting.Enqueue(Frame(20));
        driver.Transport.Process(Rx);
        Assert.Equal((1, (0u, 32u)), (driver.UsedIndex, driver.UsedEntry(0)));
    }

    [Fact]
    public void Should_not_allocate_for_a_frame()
    {
        using var driver = Begin(features: Merges);
        driver.Descriptor(0, VirtioDriver.Data, 700, Writes);
        driver.Descriptor(1, VirtioDriver.Data, 700);
        _port.Remembers = false;
        var frame = Frame(1000);
        for (var i = 0; i < 3; i++)
        {
            Exchange();
        }

        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 1000; i++)
        {
            Exchange();
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
        Assert.Equal(1003, driver.UsedIndexOf(Tx));

        void Exchange()
        {
            driver.Offer(0);
            driver.Offer(0);
            _port.Waiting.Enqueue(frame);
            driver.Transport.Process(Rx);
            driver.Notify(1, Tx);
        }
    }

    /// <summary>Whatever descriptors the driver offers and however frames come in: no exception, and nothing outside of its memory.</summary>
    [Fact]
    public void Should_stand_any_driver()
    {
        var length = Gen.OneOf(Gen.UInt[0, 40], Gen.UInt[0, 3000], Gen.UInt[65000, 66000], Gen.UInt);
        var address = Gen.OneOf(Gen.ULong[VirtioDriver.Data, VirtioDriver.Data + 0x9000], Gen.ULong[0xff000, 0x101000], Gen.ULong);
        var descriptor = Gen.Select(address, length, Gen.Int[0, 7], Gen.Int[0, 17]);
        var step = Gen.Select(Gen.Int[0, 3], Gen.Int[0, 17], Gen.Int[0, 66000]);
        Gen.Select(descriptor.Array[16], step.Array[1, 40], Gen.Bool).Sample(
            (descriptors, steps, merges) =>
            {
                _port.Waiting.Clear();
                _port.Sent.Clear();
                using var driver = Begin(features: merges ? Merges : VirtioDevice.Version1);
                for (var i = 0; i < descriptors.Length; i++)
                {
                    driver.Descriptor(i, descriptors[i].Item1, descriptors[i].Item2, (ushort)descriptors[i].Item3, (ushort)descriptors[i].Item4);
                }

                foreach (var (what, head, size) in steps)
                {
                    switch (what)
                    {
                        case 0: driver.Offer((ushort)head); break;
                        case 1: _port.Waiting.Enqueue(new byte[Math.Min(size, NetDevice.LargestFrame)]); break;
                        case 2: driver.Notify((ushort)head, Tx); break;
                        default: driver.Transport.Process(Rx); break;
                    }

                    if ((driver.Status & 64) != 0)
                    {
                        driver.Begin(Merges, queues: 2);
                    }
                }

                Assert.All(_port.Sent, frame => Assert.InRange(frame.Length, 26, NetDevice.LargestFrame));
            },
            iter: 3_000,
            threads: 1);
    }

    private VirtioDriver Begin(ulong features = VirtioDevice.Version1, ulong? mac = null, ushort? mtu = null, LimiterSettings? limits = null)
    {
        limits ??= new LimiterSettings(null, null);
        var driver = new VirtioDriver(memory =>
        {
            _port.Memory = memory;
            return new NetDevice(memory, new NetworkSettings("eth0", "tap0", mac, mtu, limits, limits), _port, _clock);
        });
        driver.Begin(features, queues: 2);
        return driver;
    }

    private static byte[] Frame(int length) => [.. new byte[12], .. Enumerable.Range(0, length).Select(i => (byte)(i * 5 + length))];

    private sealed class FakePort : INetworkPort
    {
        public GuestMemory? Memory { get; set; }

        public Queue<byte[]> Waiting { get; } = new(16);

        public List<byte[]> Sent { get; } = [];

        public bool Remembers { get; set; } = true;

        public int Descriptor => -1;

        public void SetOffloads(NetworkOffloads offloads)
        {
        }

        public int Receive(Span<byte> frame)
        {
            if (!Waiting.TryDequeue(out var next))
            {
                return 0;
            }

            next.CopyTo(frame);
            return next.Length;
        }

        public bool Send(ReadOnlySpan<GuestBuffer> buffers)
        {
            if (Remembers)
            {
                var frame = new List<byte>();
                foreach (var buffer in buffers)
                {
                    frame.AddRange(Memory!.Slice(buffer.Address, buffer.Length));
                }

                Sent.Add([.. frame]);
            }

            return true;
        }

        public void Dispose()
        {
        }
    }
}
