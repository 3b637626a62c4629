using System.IO.Pipes;
using CsCheck;
using Fleet.Vmm.Devices;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Tests.RateLimiting;

namespace Fleet.Vmm.Tests.Devices;

public sealed class DeviceTests
{
    [Fact]
    public void Should_find_a_16550a_with_working_loopback()
    {
        using var port = new TestPort();
        port.Out(2, 1);
        Assert.Equal(0xc1, port.In(2));
        port.Out(4, 0x1a);
        Assert.Equal(0x90, port.In(6) & 0xf0);
        port.Out(0, 0x5a);
        Assert.Equal(0x61, port.In(5));
        Assert.Equal(0x5a, port.In(0));
        Assert.Equal(0x60, port.In(5));
        port.Out(4, 8);
        Assert.Equal(0xb0, port.In(6));
        port.Out(7, 0x42);
        Assert.Equal(0x42, port.In(7));
        port.Out(3, 0x83);
        port.Out(0, 1);
        port.Out(1, 2);
        Assert.Equal((1, 2), (port.In(0), port.In(1)));
        port.Out(3, 3);
        Assert.Equal(0, port.In(1));
        Assert.Equal("", port.Sent());
    }

    [Fact]
    public void Should_interrupt_for_the_transmitter_until_it_is_told()
    {
        using var port = new TestPort();
        port.Out(1, 2);
        Assert.True(port.Line);
        Assert.Equal(2, port.In(2));
        Assert.False(port.Line);
        Assert.Equal(1, port.In(2));
        port.Out(0, (byte)'x');
        Assert.True(port.Line);
        Assert.Equal(2, port.In(2));
        Assert.False(port.Line);
        Assert.Equal("x", port.Sent());
    }

    [Fact]
    public void Should_interrupt_for_received_bytes_until_they_are_read()
    {
        var room = 0;
        using var port = new TestPort(() => room++);
        port.Out(1, 1);
        Assert.Equal(SerialPort.ReceiveCapacity, port.Port.Room);
        port.Port.Receive(new byte[SerialPort.ReceiveCapacity]);
        Assert.Equal(0, port.Port.Room);
        Assert.True(port.Line);
        Assert.Equal(4, port.In(2));
        for (var i = 0; i < SerialPort.ReceiveCapacity; i++)
        {
            Assert.True(port.Line);
            port.In(0);
        }

        Assert.False(port.Line);
        Assert.Equal(1, room);
        Assert.Equal(SerialPort.ReceiveCapacity, port.Port.Room);
    }

    [Fact]
    public void Should_keep_its_promises_whatever_the_guest_does()
    {
        var step = Gen.Select(Gen.Bool, Gen.Int[0, 7], Gen.Byte.Array[0, 5], Gen.Int[0, 100]);
        step.Array[1, 60].Sample(
            steps =>
            {
                using var port = new TestPort();
                foreach (var (write, register, values, received) in steps)
                {
                    if (write)
                    {
                        port.Port.Write(register, values);
                    }
                    else
                    {
                        port.In(register);
                    }

                    port.Port.Receive(new byte[Math.Min(received, port.Port.Room)]);
                    Assert.InRange(port.Port.Room, 0, SerialPort.ReceiveCapacity);
                }
            },
            iter: 300,
            threads: 1);
    }

    [Fact]
    public void Should_count_what_a_sink_does_not_take()
    {
        using var pipe = new AnonymousPipeServerStream(PipeDirection.In);
        var sink = new ByteSink((int)pipe.ClientSafePipeHandle.DangerousGetHandle(), limit: 4);
        sink.Write("abc"u8);
        sink.Write("def"u8);
        sink.Write("g"u8);
        Assert.Equal((4UL, 2UL), (sink.Written, sink.Missed));

        var closed = new ByteSink(-1);
        closed.Write("abc"u8);
        Assert.Equal((0UL, 1UL), (closed.Written, closed.Missed));

        using var full = File.OpenHandle("/dev/full", FileMode.Open, FileAccess.Write);
        var disk = new ByteSink((int)full.DangerousGetHandle());
        disk.Write("abc"u8);
        Assert.Equal((0UL, 1UL), (disk.Written, disk.Missed));
    }

    [Fact]
    public void Should_drop_and_count_what_comes_faster_than_its_limiter_lets_pass()
    {
        using var file = File.OpenHandle("/dev/null", FileMode.Open, FileAccess.Write);
        var clock = new SetClock();
        var limiter = new RateLimiter(new LimiterSettings(new BucketSettings(10, 1000, 2), null), clock);
        var sink = new ByteSink((int)file.DangerousGetHandle(), limiter: limiter);
        for (var i = 0; i < 20; i++)
        {
            sink.Write("x"u8);
        }

        Assert.Equal((12UL, 8UL, 0UL), (sink.Written, sink.Dropped, sink.Missed));
        clock.Now += TimeSpan.FromMilliseconds(500);
        for (var i = 0; i < 20; i++)
        {
            sink.Write("x"u8);
        }

        Assert.Equal((17UL, 23UL), (sink.Written, sink.Dropped));
    }

    [Fact]
    public void Should_answer_what_linux_asks_a_keyboard_controller()
    {
        var keyboard = new TestKeyboard();
        Assert.Equal(0, keyboard.Status & 1);
        Assert.Equal(0x55, keyboard.Ask(0xaa));
        Assert.Equal(0x00, keyboard.Ask(0xab));
        Assert.Equal(0x01, keyboard.Ask(0xa9));
        var commandByte = keyboard.Ask(0x20);
        Assert.Equal(0, commandByte & 0x40);
        keyboard.Command(0x60);
        keyboard.Data(0x45);
        Assert.Equal(0x45, keyboard.Ask(0x20));
        keyboard.Data(0xff);
        Assert.Equal((0xfa, 0xaa), (keyboard.Read(), keyboard.Read()));
        keyboard.Data(0xf2);
        Assert.Equal((0xfa, 0xab, 0x83), (keyboard.Read(), keyboard.Read(), keyboard.Read()));
        keyboard.Data(0xed);
        keyboard.Data(0x02);
        Assert.Equal((0xfa, 0xfa), (keyboard.Read(), keyboard.Read()));
        keyboard.Command(0xd3);
        keyboard.Data(0x5a);
        Assert.NotEqual(0x5a, keyboard.Read());
        keyboard.Command(0xd4);
        keyboard.Data(0xf2);
        Assert.Equal(0xfe, keyboard.Read());
        Assert.Equal(0, keyboard.Status & 1);
        Assert.Equal(0, keyboard.Resets);
    }

    [Theory]
    [InlineData(0x01, new byte[] { 0x14, 0x11, 0xe0, 0x71 })]
    [InlineData(0x41, new byte[] { 0x1d, 0x38, 0xe0, 0x53 })]
    public void Should_type_ctrl_alt_del(byte commandByte, byte[] codes)
    {
        var keyboard = new TestKeyboard();
        keyboard.Command(0x60);
        keyboard.Data(commandByte);
        Assert.True(keyboard.Controller.SendCtrlAltDel());
        foreach (var code in codes)
        {
            Assert.Equal(code, keyboard.Read());
        }

        Assert.Equal(4, keyboard.Interrupts);
        Assert.Equal(0, keyboard.Status & 1);
    }

    [Fact]
    public void Should_not_type_into_a_keyboard_that_is_off_or_full()
    {
        var keyboard = new TestKeyboard();
        for (var i = 0; i < 8; i++)
        {
            Assert.True(keyboard.Controller.SendCtrlAltDel());
        }

        Assert.False(keyboard.Controller.SendCtrlAltDel());
        keyboard = new TestKeyboard();
        keyboard.Command(0xad);
        Assert.False(keyboard.Controller.SendCtrlAltDel());
    }

    [Theory]
    [InlineData(new byte[] { 0xfe }, new byte[0], 1)]
    [InlineData(new byte[] { 0xf0 }, new byte[0], 1)]
    [InlineData(new byte[] { 0xff }, new byte[0], 0)]
    [InlineData(new byte[] { 0xd1 }, new byte[] { 0xfe }, 1)]
    [InlineData(new byte[] { 0xd1 }, new byte[] { 0xdf }, 0)]
    public void Should_reset_when_the_reset_line_is_pulled(byte[] commands, byte[] data, int resets)
    {
        var keyboard = new TestKeyboard();
        foreach (var value in commands)
        {
            keyboard.Command(value);
        }

        foreach (var value in data)
        {
            keyboard.Data(value);
        }

        Assert.Equal(resets, keyboard.Resets);
        Assert.Equal((ulong)resets, keyboard.Controller.Resets);
    }

    [Fact]
    public void Should_take_any_sequence_of_keyboard_commands()
    {
        Gen.Select(Gen.Int[0, 2], Gen.Byte).Array[1, 200].Sample(
            steps =>
            {
                var keyboard = new TestKeyboard();
                foreach (var (kind, value) in steps)
                {
                    switch (kind)
                    {
                        case 0:
                            keyboard.Command(value);
                            break;
                        case 1:
                            keyboard.Data(value);
                            break;
                        default:
                            keyboard.Read();
                            break;
                    }

                    keyboard.Controller.SendCtrlAltDel();
                }
            },
            iter: 300);
    }

    [Theory]
    [InlineData(0, 0x34, 1, 0)]
    [InlineData(0, 0x14, 0, 0)]
    [InlineData(0, 0x24, 0, 0)]
    [InlineData(1, 0x34, 0, 0)]
    [InlineData(2, 0x01, 0, 1)]
    [InlineData(2, 0x00, 0, 0)]
    public void Should_switch_off_and_reset_through_acpi(int register, byte value, int off, int reset)
    {
        var seen = (Off: 0, Reset: 0);
        var power = new PowerRegisters(() => seen.Off++, () => seen.Reset++);
        power.Write(register, [value]);
        Assert.Equal((off, reset), seen);
    }

    [Fact]
    public void Should_split_wide_accesses_and_answer_ones_where_nobody_is()
    {
        var bus = new PortBus();
        var device = new Recorder();
        bus.Claim(0x100, 2, device);
        Assert.Throws<InvalidOperationException>(() => bus.Claim(0x101, 1, device));
        var data = new byte[8];
        bus.Read(0x100, 4, data);
        Assert.Equal([0xa0, 0xa1, 0xff, 0xff, 0xa0, 0xa1, 0xff, 0xff], data);
        bus.Write(0x101, 2, [1, 2, 3, 4]);
        bus.Write(0x100, 1, [5, 6, 7]);
        bus.Write(0x0ff, 1, [9]);
        Assert.Equal(["1:01", "1:03", "0:050607"], device.Writes);
        bus.Read(0xffff, 4, data);
        Assert.All(data, value => Assert.Equal(0xff, value));
    }

    private sealed class Recorder : IPortDevice
    {
        public List<string> Writes { get; } = [];

        public byte Read(int register) => (byte)(0xa0 + register);

        public void Write(int register, ReadOnlySpan<byte> values) => Writes.Add($"{register}:{Convert.ToHexStringLower(values)}");
    }

    private sealed class TestPort : IInterruptLine, IDisposable
    {
        private readonly AnonymousPipeServerStream _pipe = new(PipeDirection.In);

        public TestPort(Action? onRoom = null) =>
            Port = new SerialPort(this, new ByteSink((int)_pipe.ClientSafePipeHandle.DangerousGetHandle()), onRoom);

        public SerialPort Port { get; }

        public bool Line { get; private set; }

        public byte In(int register) => Port.Read(register);

        public void Out(int register, byte value) => Port.Write(register, [value]);

        public void Set(bool high)
        {
            Assert.NotEqual(Line, high);
            Line = high;
        }

        public string Sent()
        {
            _pipe.DisposeLocalCopyOfClientHandle();
            using var reader = new StreamReader(_pipe, leaveOpen: true);
            return reader.ReadToEnd();
        }

        public void Dispose()
        {
            _pipe.DisposeLocalCopyOfClientHandle();
            _pipe.Dispose();
        }
    }

    private sealed class TestKeyboard : IInterruptLine
    {
        public TestKeyboard() => Controller = new KeyboardController(this, () => Resets++);

        public KeyboardController Controller { get; }

        public int Resets { get; private set; }

        public int Interrupts { get; private set; }

        public byte Status => Controller.CommandPort.Read(0);

        public void Command(byte value) => Controller.CommandPort.Write(0, [value]);

        public void Data(byte value) => Controller.DataPort.Write(0, [value]);

        public byte Read() => Controller.DataPort.Read(0);

        public byte Ask(byte command)
        {
            Command(command);
            Assert.Equal(1, Status & 1);
            return Read();
        }

        public void Set(bool high) => Interrupts += high ? 1 : 0;
    }
}
