using System.Buffers.Binary;
using Fleet.Vmm.Api;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Tests.Fuzz;

/// <summary>
/// State files that somebody changed, with a checksum that fits or without, and the states in them: of processors, of the
/// VM, and of a device that goes on with what it was given.
/// </summary>
internal sealed class SnapshotTarget : MutationTarget
{
    private const int ChecksumOffset = 24;
    private const int HeaderSize = 32;

    private readonly GuestMemory _memory = new(1 << 20);
    private readonly byte[][] _samples;
    private long _restored;

    public SnapshotTarget()
    {
        using var balloon = NewBalloon();
        var transport = NewTransport(balloon);
        MakeReady(transport);
        var device = new StateWriter();
        transport.Save(device);
        var file = new StateFile(
            """{"boot-source": {"kernel_image_path": "k"}, "machine-config": {"vcpu_count": 1, "mem_size_mib": 16}, "drives": [], "vsock": null}"""u8.ToArray(),
            device.Written.ToArray()).Encode();
        _samples = [file, device.Written.ToArray(), Processor()];
    }

    /// <summary>A state file with a checksum that is right again; one too short for it as it is.</summary>
    public static byte[] Reseal(ReadOnlySpan<byte> bytes)
    {
        var file = bytes.ToArray();
        if (file.Length >= HeaderSize)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(ChecksumOffset), StateFile.Checksum(file));
        }

        return file;
    }

    /// <summary>The state of a vCPU and of its VM.</summary>
    public static byte[] Processor()
    {
        var writer = new StateWriter();
        new VcpuState
        {
            Cpuid = new KvmCpuidEntry[3], MpState = 0, Registers = default, SystemRegisters = default, Xsave = new byte[4096], ExtendedControls = default,
            DebugRegisters = default, Lapic = default, Msrs = new KvmMsrEntry[7], Events = default, TscKilohertz = 1,
        }.Write(writer);
        new VmState { Pit = default, Clock = default, FirstPic = default, SecondPic = default, IoApic = default }.Write(writer);
        return writer.Written.ToArray();
    }

    /// <summary>A driver's way to a device with one queue of eight.</summary>
    public static void MakeReady(MmioTransport transport)
    {
        foreach (var (register, value) in new (ulong, uint)[]
        {
            (0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x38, 8), (0x80, 0x1000), (0x90, 0x2000), (0xa0, 0x3000), (0x44, 1), (0x70, 15),
        })
        {
            transport.Write(register, BitConverter.GetBytes(value));
        }
    }

    public override string Name => "snapshot";

    protected override IReadOnlyList<byte[]> Samples => _samples;

    public override string? Check() => _restored == 0 ? "not one state was taken: the cases try nothing" : null;

    public override void Dispose()
    {
        _memory.Dispose();
        base.Dispose();
    }

    protected override void Parse(FuzzRandom random, ReadOnlySpan<byte> input)
    {
        Try(input, random.OneIn(2), static (bytes, seals) => ReadFile(bytes, seals));
        Try(input, random.OneIn(2), (bytes, _) => RestoreDevice(bytes));
        Try(input, random.OneIn(2), static (bytes, _) => ReadProcessor(bytes));
    }

    private delegate void Reader(ReadOnlySpan<byte> bytes, bool seals);

    private static void Try(ReadOnlySpan<byte> input, bool seals, Reader read)
    {
        try
        {
            read(input, seals);
        }
        catch (Exception refused) when (refused is SnapshotException or JsonFaultException)
        {
            // The answer to bad input.
        }
    }

    private static void ReadFile(ReadOnlySpan<byte> bytes, bool seals)
    {
        _ = ConfigFile.Parse(StateFile.Decode(seals ? Reseal(bytes) : bytes).Configuration);
    }

    public static void ReadProcessor(ReadOnlySpan<byte> bytes)
    {
        var reader = new StateReader(bytes);
        _ = VcpuState.Read(ref reader);
        _ = VmState.Read(ref reader);
        reader.End("it");
    }

    private void RestoreDevice(ReadOnlySpan<byte> bytes)
    {
        using var balloon = NewBalloon();
        var transport = NewTransport(balloon);
        var reader = new StateReader(bytes);
        transport.Restore(ref reader);
        _restored++;
        transport.Wake();
        Span<byte> register = stackalloc byte[4];
        for (ulong offset = 0; offset < 0x110; offset += 4)
        {
            transport.Read(offset, register);
        }

        for (var queue = 0; queue < balloon.QueueSizes.Count; queue++)
        {
            _ = transport.Process(queue);
        }
    }

    private BalloonDevice NewBalloon() => new(_memory, new BalloonSettings(1, true, 1, true));

    private MmioTransport NewTransport(BalloonDevice balloon) => new(balloon, _memory, static () => { }, static (_, _) => { }, static _ => { });
}
