using Fleet.Vmm.Api;
using Fleet.Vmm.Devices;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Memory;
using Fleet.Vmm.RateLimiting;
using Fleet.Vmm.Snapshots;
using Fleet.Vmm.Tests.Fuzz;
using Fleet.Vmm.Tests.Machines;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>Mutated state: each reader refuses it or takes it, and nothing else ever happens. Seeds are fixed, so a failure comes again.</summary>
public sealed class HostileSnapshotTests
{
    private const int Cases = 5000;

    private delegate void Reader(ReadOnlySpan<byte> bytes);

    [Fact]
    public void Should_read_any_file()
    {
        var good = new StateFile(Configuration, [.. Enumerable.Range(0, 100).Select(i => (byte)i)]).Encode();
        Try(good, 1, bytes =>
        {
            try
            {
                _ = ConfigFile.Parse(StateFile.Decode(SnapshotTarget.Reseal(bytes)).Configuration);
            }
            catch (JsonFaultException)
            {
                // A refusal with a sentence, as any other.
            }
        });
    }

    [Fact]
    public void Should_read_the_state_of_any_vcpu_and_vm() => Try(SnapshotTarget.Processor(), 2, SnapshotTarget.ReadProcessor);

    [Fact]
    public void Should_not_allocate_by_a_length_that_lies()
    {
        // Every count of a vCPU's state as large as it goes, in a file of nothing else.
        var writer = new StateWriter();
        writer.U32(0);
        writer.U32(KvmSystem.MaxCpuidEntries);
        var bytes = writer.Written.ToArray();
        var before = GC.GetAllocatedBytesForCurrentThread();
        Assert.Throws<SnapshotException>(() => ReadVcpu(bytes));
        Assert.InRange(GC.GetAllocatedBytesForCurrentThread() - before, 0, 20_000);

        static void ReadVcpu(byte[] bytes)
        {
            var reader = new StateReader(bytes);
            _ = VcpuState.Read(ref reader);
        }
    }

    [Fact]
    public void Should_restore_serial_port_and_keyboard_from_anything()
    {
        var port = NewPort();
        port.Write(1, [3]);
        port.Receive("hello"u8);
        var keyboard = new KeyboardController(new NoLine(), static () => { });
        keyboard.SendCtrlAltDel();
        var writer = new StateWriter();
        port.Save(writer);
        keyboard.Save(writer);
        Try(writer.Written.ToArray(), 3, static bytes =>
        {
            var port = NewPort();
            var keyboard = new KeyboardController(new NoLine(), static () => { });
            var reader = new StateReader(bytes);
            port.Restore(ref reader);
            keyboard.Restore(ref reader);
            Assert.InRange(port.Room, 0, SerialPort.ReceiveCapacity);
            for (var register = 0; register < SerialPort.PortCount; register++)
            {
                _ = port.Read(register);
                _ = keyboard.DataPort.Read(0);
            }

            port.Write(0, "x"u8);
            keyboard.SendCtrlAltDel();
        });
    }

    [Fact]
    public void Should_restore_a_virtio_device_from_anything()
    {
        using var files = new Fleet.Vmm.Tests.Api.ScratchDirectory();
        var disk = new DiskSettings("d", files.File("disk", new string('x', 4096)), ReadOnly: false, Flushes: true, Asynchronous: false, new LimiterSettings(null, null));
        using var memory = new GuestMemory(1 << 20);
        using var device = new BlockDevice(memory, disk, TimeProvider.System);
        var transport = NewTransport(device, memory);
        SnapshotTarget.MakeReady(transport);
        var status = new byte[4];
        transport.Read(0x70, status);
        Assert.Equal(15, status[0]);
        var writer = new StateWriter();
        transport.Save(writer);
        Try(writer.Written.ToArray(), 4, bytes =>
        {
            using var copy = new BlockDevice(memory, disk, TimeProvider.System);
            var restored = NewTransport(copy, memory);
            var reader = new StateReader(bytes);
            restored.Restore(ref reader);
            restored.Wake();
            restored.Process(0);
            Span<byte> register = stackalloc byte[4];
            for (ulong offset = 0; offset < 0x110; offset += 4)
            {
                restored.Read(offset, register);
            }

            restored.Write(0x70, BitConverter.GetBytes(0));
        });
    }

    /// <summary>KVM itself gets what the readers let through. The guest is not run: what it then does is its own affair.</summary>
    [SkippableFact]
    public void Should_restore_a_machine_or_refuse_it()
    {
        using var first = new MachineRun(SteppingGuests.Entropy, entropy: true);
        using var saved = SavedMachine.From(first, "a", 1);
        var random = new Random(5);
        var refused = 0;
        for (var i = 0; i < 40; i++)
        {
            var source = saved.Source with { State = Mutate(saved.State, random) };
            try
            {
                using var run = new MachineRun([], entropy: true, source: source);
            }
            catch (Exception refusal) when (refusal is SnapshotException or MachineException)
            {
                refused++;
            }
        }

        Assert.InRange(refused, 5, 39);
    }

    [SkippableFact]
    public void Should_refuse_the_state_of_another_machine()
    {
        using var first = new MachineRun(SteppingGuests.Entropy, vcpus: 2, entropy: true);
        using var saved = SavedMachine.From(first, "a", 1);
        Assert.Equal("the state is of 2 vCPUs, the configuration of 1", Refusal(saved.Source, static settings => settings with { Vcpus = 1 }));
        Assert.Equal("the state is of 1 virtio devices, the configuration of 0", Refusal(saved.Source, static settings => settings with { Entropy = null }));
        Assert.Equal("state and configuration do not agree on whether there is a status port", Refusal(saved.Source, settings => settings with { StatusPortPath = saved.File("s") }));
        Assert.Equal($"the memory file {saved.MemoryPath} has {16 << 20} bytes, the microVM's memory {32 << 20}", Refusal(saved.Source, static settings => settings with { MemoryMib = 32 }));
        File.WriteAllText(saved.File("disk"), new string('x', 1024));
        Assert.Equal(
            "the state of virtio device 4 stands where the configuration has device 2",
            Refusal(saved.Source, settings => settings with { Entropy = null, Disks = [new DiskSettings("d", saved.File("disk"), false, false, false, new LimiterSettings(null, null))] }));
    }

    private static string Refusal(RestoreSource source, Func<MachineSettings, MachineSettings> change) => Assert.Throws<SnapshotException>(
        () => new MachineRun([], vcpus: 2, entropy: true, change: change, source: source)).Message;

    private static byte[] Configuration =>
        """{"boot-source": {"kernel_image_path": "k"}, "machine-config": {"vcpu_count": 1, "mem_size_mib": 16}, "drives": [], "vsock": null}"""u8.ToArray();

    private static void Try(byte[] good, int seed, Reader read)
    {
        read(good);
        var random = new Random(seed);
        var refused = 0;
        for (var i = 0; i < Cases; i++)
        {
            var bytes = Mutate(good, random);
            try
            {
                read(bytes);
            }
            catch (SnapshotException)
            {
                refused++;
            }
        }

        Assert.InRange(refused, 1, Cases - 1);
    }

    private static byte[] Mutate(byte[] good, Random random)
    {
        var bytes = (byte[])good.Clone();
        for (var i = random.Next(4); i >= 0; i--)
        {
            var at = random.Next(bytes.Length);
            switch (random.Next(6))
            {
                case 0: bytes[at] ^= (byte)(1 << random.Next(8)); break;
                case 1: bytes[at] = (byte)random.Next(256); break;
                case 2: bytes.AsSpan(at, Math.Min(4, bytes.Length - at)).Fill((byte)(random.Next(2) * 255)); break;
                case 3: bytes.AsSpan(at, Math.Min(8, bytes.Length - at)).Fill(0xff); break;
                case 4: random.NextBytes(bytes.AsSpan(at, Math.Min(random.Next(32), bytes.Length - at))); break;
                default: bytes = random.Next(4) == 0 ? bytes[..Math.Max(1, at)] : bytes; break;
            }
        }

        return bytes;
    }

    private static SerialPort NewPort() => new(new NoLine(), new ByteSink(-1));

    private static MmioTransport NewTransport(VirtioDevice device, GuestMemory memory) =>
        new(device, memory, static () => { }, static (_, _) => { }, static _ => { });

    private sealed class NoLine : IInterruptLine
    {
        public void Set(bool high)
        {
        }
    }
}
