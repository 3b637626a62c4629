using System.Buffers.Binary;
using CsCheck;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Memory;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Tests.Devices.Virtio;

public sealed class TransportTests : IDisposable
{
    private const ushort Next = 1;
    private const ushort Writes = 2;
    private const ushort Indirect = 4;

    private static readonly ulong[] Registers =
        [0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x60, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xfc, 0x100, 0x52, 0xffc];

    private static readonly uint[] Likely = [1, 3, 11, 15, 0x10000, 0x20000, 0x30000, 0xffff0, 1u << 29];

    private readonly VirtioDriver _driver = new(memory => new EntropyDevice(memory, new LimiterSettings(null, null), TimeProvider.System));

    public void Dispose() => _driver.Dispose();

    [Fact]
    public void Should_tell_what_it_is()
    {
        Assert.Equal(0x74726976u, _driver.Read(0));
        Assert.Equal(2u, _driver.Read(4));
        Assert.Equal(4u, _driver.Read(8));
        Assert.Equal(0u, _driver.Read(0xc));
        Assert.Equal(256u, _driver.Read(0x34));
        Assert.Equal(1u << 29 | 1u << 28, _driver.Read(0x10));
        _driver.Write(0x14, 1);
        Assert.Equal(1u, _driver.Read(0x10));
        _driver.Write(0x14, 2);
        Assert.Equal(0u, _driver.Read(0x10));
        _driver.Write(0x30, 1);
        Assert.Equal(0u, _driver.Read(0x34));
        Assert.Equal(uint.MaxValue, _driver.Read(0xb0));
    }

    [Theory]
    [InlineData(3u)]
    [InlineData(15u)]
    [InlineData(2u)]
    [InlineData(0xffffff7fu)]
    public void Should_not_skip_a_step_of_the_status(uint status)
    {
        _driver.Write(0x70, status);
        Assert.Equal(0u, _driver.Status);
        _driver.Begin();
        Assert.Equal(15u, _driver.Status);
        _driver.Write(0x70, 0);
        Assert.Equal(0u, _driver.Status);
        _driver.Begin();
        Assert.Equal(15u, _driver.Status);
    }

    [Theory]
    [InlineData(0ul)]
    [InlineData(VirtioDevice.EventIndex)]
    [InlineData(VirtioDevice.Version1 | 1)]
    public void Should_not_agree_on_features_that_it_has_not_or_that_it_needs(ulong features)
    {
        _driver.Begin(features);
        Assert.Equal(3u, _driver.Status);
        Assert.Equal(0u, _driver.Read(0x44));
    }

    [Fact]
    public void Should_serve_a_chain_and_interrupt_once()
    {
        _driver.Begin();
        _driver.Descriptor(3, VirtioDriver.Data, 100, Writes | Next, 7);
        _driver.Descriptor(7, VirtioDriver.Data + 0x1000, 28, Writes);
        _driver.Notify(3);
        Assert.Equal((3u, 128u), _driver.UsedEntry(0));
        Assert.Equal((1, 1), (_driver.UsedIndex, _driver.Interrupts));
        Assert.NotEqual(new byte[100], _driver.Memory.Slice(VirtioDriver.Data, 100).ToArray());
        Assert.NotEqual(new byte[28], _driver.Memory.Slice(VirtioDriver.Data + 0x1000, 28).ToArray());
        Assert.Equal(0, _driver.Memory.Slice(VirtioDriver.Data + 100, 1)[0]);
        Assert.Equal(1u, _driver.Read(0x60));
        _driver.Write(0x64, 1);
        Assert.Equal(0u, _driver.Read(0x60));

        // Without anything new a notification is nothing.
        _driver.Write(MmioTransport.NotifyRegister, 0);
        Assert.Equal(1, _driver.Interrupts);
    }

    [Fact]
    public void Should_not_interrupt_who_does_not_want_it()
    {
        _driver.Begin();
        _driver.Memory.Slice(VirtioDriver.Available, 1)[0] = 1;
        _driver.Descriptor(0, VirtioDriver.Data, 8, Writes);
        _driver.Notify(0);
        Assert.Equal((1, 0), (_driver.UsedIndex, _driver.Interrupts));
    }

    [Fact]
    public void Should_interrupt_when_the_wanted_index_is_passed()
    {
        _driver.Begin(VirtioDevice.Version1 | VirtioDevice.EventIndex);
        _driver.Descriptor(0, VirtioDriver.Data, 8, Writes);
        var wanted = VirtioDriver.Available + 4 + 2 * VirtioDriver.QueueSize;
        _driver.Notify(0);
        Assert.Equal(1, _driver.Interrupts);
        BinaryPrimitives.WriteUInt16LittleEndian(_driver.Memory.Slice(wanted, 2), 3);
        _driver.Notify(0);
        _driver.Notify(0);
        Assert.Equal(1, _driver.Interrupts);
        _driver.Notify(0);
        Assert.Equal(2, _driver.Interrupts);

        // And says from which request on it wants to hear.
        Assert.Equal(4, BinaryPrimitives.ReadUInt16LittleEndian(_driver.Memory.Slice(VirtioDriver.Used + 4 + 8 * VirtioDriver.QueueSize, 2)));
    }

    [Theory]
    [InlineData("index")]
    [InlineData("next")]
    [InlineData("loop")]
    [InlineData("indirect")]
    [InlineData("order")]
    [InlineData("beyond")]
    [InlineData("wrapping")]
    [InlineData("hole")]
    [InlineData("flood")]
    public void Should_need_a_reset_after_a_broken_rule_and_serve_again_after_it(string rule)
    {
        _driver.Begin();
        _driver.Descriptor(0, VirtioDriver.Data, 8, Writes);
        switch (rule)
        {
            case "index":
                _driver.Notify(VirtioDriver.QueueSize);
                break;
            case "next":
                _driver.Descriptor(0, VirtioDriver.Data, 8, Writes | Next, 0x8000);
                _driver.Notify(0);
                break;
            case "loop":
                _driver.Descriptor(0, VirtioDriver.Data, 8, Writes | Next, 0);
                _driver.Notify(0);
                break;
            case "indirect":
                _driver.Descriptor(0, VirtioDriver.Data, 16, Indirect);
                _driver.Notify(0);
                break;
            case "order":
                _driver.Descriptor(0, VirtioDriver.Data, 8, Writes | Next, 1);
                _driver.Descriptor(1, VirtioDriver.Data, 8);
                _driver.Notify(0);
                break;
            case "beyond":
                _driver.Descriptor(0, (1 << 20) - 4, 8, Writes);
                _driver.Notify(0);
                break;
            case "wrapping":
                _driver.Descriptor(0, ulong.MaxValue - 3, 8, Writes);
                _driver.Notify(0);
                break;
            case "hole":
                _driver.Descriptor(0, GuestMemory.HoleStart, 8, Writes);
                _driver.Notify(0);
                break;
            case "flood":
                BinaryPrimitives.WriteUInt16LittleEndian(_driver.Memory.Slice(VirtioDriver.Available + 2, 2), VirtioDriver.QueueSize + 1);
                _driver.Write(MmioTransport.NotifyRegister, 0);
                break;
        }

        Assert.Equal(15u | 64, _driver.Status);
        Assert.Equal(2u, _driver.Read(0x60) & 2);
        Assert.Single(_driver.Complaints);
        Assert.Equal(0, _driver.UsedIndex);

        // Nothing is served before the reset, everything after it.
        _driver.Write(MmioTransport.NotifyRegister, 0);
        Assert.Single(_driver.Complaints);
        _driver.Write(0x70, 0);
        _driver.Begin();
        _driver.Descriptor(0, VirtioDriver.Data, 8, Writes);
        _driver.Notify(0);
        Assert.Equal(1, _driver.UsedIndex);
    }

    [Theory]
    [InlineData(0x38ul, 0u)]
    [InlineData(0x38ul, 3u)]
    [InlineData(0x38ul, 512u)]
    [InlineData(0x38ul, 65536u + 16)]
    [InlineData(0x80ul, 8u)]
    [InlineData(0x80ul, 0xfffffff0u)]
    [InlineData(0x84ul, 1u)]
    [InlineData(0x90ul, 1u)]
    [InlineData(0x94ul, 0xffffffffu)]
    [InlineData(0xa0ul, 2u)]
    [InlineData(0xa0ul, (1u << 20) - 8)]
    public void Should_not_enable_a_queue_that_is_nowhere(ulong register, uint value)
    {
        _driver.Write(0x70, 1);
        _driver.Write(0x70, 3);
        _driver.Write(0x24, 1);
        _driver.Write(0x20, 1);
        _driver.Write(0x70, 11);
        _driver.Write(0x38, VirtioDriver.QueueSize);
        _driver.Write(0x80, (uint)VirtioDriver.Descriptors);
        _driver.Write(0x90, (uint)VirtioDriver.Available);
        _driver.Write(0xa0, (uint)VirtioDriver.Used);
        _driver.Write(register, value);
        _driver.Write(0x44, 1);
        Assert.Equal(0u, _driver.Read(0x44));
        _driver.Write(0x70, 15);
        _driver.Write(MmioTransport.NotifyRegister, 0);
        Assert.Equal(0, _driver.Interrupts);
    }

    [Fact]
    public void Should_give_others_a_turn_when_requests_never_end()
    {
        var endless = new EndlessDevice();
        using var driver = new VirtioDriver(_ => endless);
        endless.More = () => driver.Offer(0);
        driver.Begin();
        driver.Descriptor(0, VirtioDriver.Data, 8, Writes);
        driver.Notify(0);
        Assert.Equal(VirtioDriver.QueueSize, endless.Served);
        Assert.Equal([TimeSpan.Zero], driver.Again);
    }

    [Fact]
    public void Should_interrupt_once_for_all_that_a_turn_did()
    {
        var device = new EndlessDevice();
        using var driver = new VirtioDriver(_ => device);
        device.More = () => device.Interrupt();
        driver.Begin();
        driver.Descriptor(0, VirtioDriver.Data, 8, Writes);
        driver.Notify(0);
        Assert.Equal((1, 1), (device.Served, driver.Interrupts));
        device.Interrupt();
        Assert.Equal(2, driver.Interrupts);
    }

    [Fact]
    public void Should_not_allocate_for_a_request()
    {
        _driver.Begin(VirtioDevice.Version1 | VirtioDevice.EventIndex);
        _driver.Descriptor(0, VirtioDriver.Data, 64, Writes);
        for (var i = 0; i < 100; i++)
        {
            _driver.Notify(0);
        }

        var before = GC.GetAllocatedBytesForCurrentThread();
        for (var i = 0; i < 10_000; i++)
        {
            _driver.Notify(0);
        }

        Assert.Equal(0, GC.GetAllocatedBytesForCurrentThread() - before);
    }

    /// <summary>Registers and rings of a hostile driver: whatever it writes, the worst is a device that needs a reset.</summary>
    [Fact]
    public void Should_stand_any_driver()
    {
        var registers = Gen.Int[0, Registers.Length - 1].Select(i => Registers[i]);
        var values = Gen.OneOf(Gen.UInt, Gen.UInt[0, 20], Gen.Int[0, Likely.Length - 1].Select(i => Likely[i]));
        var write = Gen.Select(registers, values);
        var poke = Gen.Select(Gen.OneOf(Gen.ULong[VirtioDriver.Descriptors, VirtioDriver.Descriptors + 256], Gen.ULong[VirtioDriver.Available, VirtioDriver.Available + 40], Gen.ULong[VirtioDriver.Used, VirtioDriver.Used + 140]), Gen.Byte);
        Gen.Select(Gen.Bool, write.Array[0, 40], poke.Array[0, 60], Gen.Int[0, 5]).Sample(
            (begun, writes, pokes, notifications) =>
            {
                using var driver = new VirtioDriver(memory => new EntropyDevice(memory, new LimiterSettings(null, null), TimeProvider.System));
                if (begun)
                {
                    driver.Begin();
                }

                foreach (var (register, value) in writes)
                {
                    driver.Write(register, value);
                }

                foreach (var (address, value) in pokes)
                {
                    driver.Memory.Slice(address, 1)[0] = value;
                }

                for (var i = 0; i < notifications; i++)
                {
                    driver.Write(MmioTransport.NotifyRegister, 0);
                    _ = driver.Read(0x70);
                }
            },
            iter: 5_000);
    }

    private sealed class EndlessDevice : VirtioDevice
    {
        public Action More { get; set; } = static () => { };

        public int Served { get; private set; }

        public override string Path => "endless";

        public override uint Id => 42;

        public override ulong Features => Version1;

        public override IReadOnlyList<ushort> QueueSizes { get; } = [256];

        protected override uint? Serve(int queue, VirtQueue request, ushort head)
        {
            Served++;
            More();
            return 0;
        }
    }
}
