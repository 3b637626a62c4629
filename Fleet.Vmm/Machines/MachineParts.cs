using Fleet.Vmm.Devices;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Machines;

/// <summary>What a machine is made of, but for the threads. Closed in an order in which nothing points at what is gone.</summary>
internal sealed class MachineParts : IDisposable
{
    public required KvmVm Vm { get; init; }

    public required GuestMemory Memory { get; init; }

    public required KvmVcpu[] Vcpus { get; init; }

    /// <summary>The MSRs that make up a vCPU's state.</summary>
    public required uint[] MsrIndices { get; init; }

    public required PortBus Ports { get; init; }

    /// <summary>Devices with registers in the guest's address space.</summary>
    public required MemoryBus Mmio { get; init; }

    public required IReadOnlyList<VirtioSlot> Virtio { get; init; }

    public required PowerSwitch PowerSwitch { get; init; }

    public required SerialPort Console { get; init; }

    public required EventCounter ConsoleRoom { get; init; }

    public required StandardStream Input { get; init; }

    public required StandardStream Output { get; init; }

    public required KeyboardController Keyboard { get; init; }

    public SerialPort? StatusPort { get; init; }

    public StatusFile? StatusFile { get; init; }

    public IConfinement? Confinement { get; init; }

    public void Dispose()
    {
        foreach (var vcpu in Vcpus)
        {
            vcpu.Dispose();
        }

        foreach (var slot in Virtio)
        {
            slot.Dispose();
        }

        Vm.Dispose();
        Memory.Dispose();
        StatusFile?.Dispose();
        ConsoleRoom.Dispose();
        Input.Dispose();
        Output.Dispose();
    }
}

/// <summary>How devices switch the machine off; wired to it once it exists.</summary>
internal sealed class PowerSwitch
{
    public IVcpuOwner? Owner { get; set; }

    public void Reset() => Owner?.ReportEnd(new MachineEnd(MachineEndKind.GuestShutdown, "The guest reset itself."));

    public void PowerOff() => Owner?.ReportEnd(new MachineEnd(MachineEndKind.GuestShutdown, "The guest powered off."));
}

/// <summary>The file behind the second serial port.</summary>
internal sealed class StatusFile : IDisposable
{
    /// <summary>What a guest may fill of the host's disk by this way.</summary>
    private const long Limit = 64 * 1024;

    private int _fd;

    /// <summary>Throws <see cref="SystemCallException"/>.</summary>
    public StatusFile(string path)
    {
        _fd = Descriptors.OpenSink(path);
        Room = (ulong)Math.Clamp(Limit - Math.Max(0, FileContent.SizeOf(_fd)), 0, Limit);
    }

    /// <summary>Bytes that may still be added; what the file held before counts.</summary>
    public ulong Room { get; }

    public int Descriptor => _fd;

    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }
}
