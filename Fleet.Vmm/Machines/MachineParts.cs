using Fleet.Vmm.Devices;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Fencing;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Machines;

/// <summary>What a machine is made of, but for the threads. Closed in an order in which nothing points at what is gone.</summary>
internal sealed class MachineParts : IDisposable
{
    public required KvmVm Vm { get; init; }

    public required GuestMemory Memory { get; init; }

    public required KvmVcpu[] Vcpus { get; init; }

    /// <summary>MSRs that KVM says are to be saved.</summary>
    public required uint[] ListedMsrs { get; init; }

    /// <summary>Those that a CPU template, or the snapshot that this machine comes from, added.</summary>
    public required uint[] NamedMsrs { get; set; }

    public required PortBus Ports { get; init; }

    /// <summary>Devices with registers in the guest's address space.</summary>
    public required MemoryBus Mmio { get; init; }

    public required IReadOnlyList<VirtioSlot> Virtio { get; init; }

    public required PowerSwitch PowerSwitch { get; init; }

    public required SerialPort Console { get; init; }

    public required EventCounter ConsoleRoom { get; init; }

    /// <summary>The process' own, where the console is there; null: it is in <see cref="ConsoleFile"/>.</summary>
    public StandardStreams? Streams { get; init; }

    public SinkFile? ConsoleFile { get; init; }

    public required KeyboardController Keyboard { get; init; }

    public SerialPort? StatusPort { get; init; }

    public SinkFile? StatusFile { get; init; }

    public IConfinement? Confinement { get; init; }

    public required Lease Lease { get; init; }

    /// <summary>Null: nobody wants to know when the guest runs.</summary>
    public RunLog? RunLog { get; init; }

    /// <summary>The process that fills the guest's memory, page by page; null: nobody has to.</summary>
    public FaultHandler? FaultHandler { get; init; }

    public void Dispose()
    {
        foreach (var vcpu in Vcpus)
        {
            vcpu.Dispose();
        }

        FaultHandler?.Dispose();
        foreach (var slot in Virtio)
        {
            slot.Dispose();
        }

        Vm.Dispose();
        Memory.Dispose();
        StatusFile?.Dispose();
        ConsoleFile?.Dispose();
        ConsoleRoom.Dispose();
        Streams?.Dispose();
    }
}

/// <summary>How devices switch the machine off; wired to it once it exists.</summary>
internal sealed class PowerSwitch
{
    public IVcpuOwner? Owner { get; set; }

    public void Reset() => Owner?.ReportEnd(new MachineEnd(MachineEndKind.GuestShutdown, "The guest reset itself."));

    public void PowerOff() => Owner?.ReportEnd(new MachineEnd(MachineEndKind.GuestShutdown, "The guest powered off."));
}

/// <summary>Standard input and output, which the console uses while there is a machine.</summary>
internal sealed class StandardStreams(StandardStream input, StandardStream output) : IDisposable
{
    public StandardStream Input => input;

    public StandardStream Output => output;

    public void Dispose()
    {
        input.Dispose();
        output.Dispose();
    }
}

/// <summary>A file behind a serial port.</summary>
internal sealed class SinkFile : IDisposable
{
    private int _fd;

    /// <summary>Throws <see cref="SystemCallException"/>.</summary>
    public SinkFile(string path) => _fd = Descriptors.OpenSink(path);

    public int Descriptor => _fd;

    /// <summary>Bytes that may still be added until it has so many.</summary>
    public ulong RoomTo(long limit) => (ulong)Math.Clamp(limit - Math.Max(0, FileContent.SizeOf(_fd)), 0, limit);

    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }
}
