using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Kvm;

/// <summary>One VM: memory slots, the in-kernel interrupt controllers and timer, vCPUs.</summary>
internal sealed unsafe class KvmVm(int fd) : IDisposable
{
    private int _fd = fd;

    /// <summary>Three pages below 4 GiB that Intel hosts need for themselves.</summary>
    public void SetTssAddress(uint address) => Control(KvmCalls.SetTssAddress, (nint)address, "KVM_SET_TSS_ADDR");

    /// <summary>PIC, IOAPIC and, in every vCPU made from now on, a local APIC.</summary>
    public void CreateIrqChip() => Control(KvmCalls.CreateIrqChip, 0, "KVM_CREATE_IRQCHIP");

    public void CreatePit()
    {
        var config = new KvmPitConfig { Flags = KvmCalls.PitSpeakerDummy };
        Control(KvmCalls.CreatePit2, &config, "KVM_CREATE_PIT2");
    }

    /// <summary>Shows the guest <paramref name="size"/> bytes at <paramref name="host"/>, which must stay mapped until the VM is closed.</summary>
    public void SetMemory(uint slot, ulong guestAddress, ulong size, byte* host)
    {
        var region = new KvmMemoryRegion
        {
            Slot = slot,
            GuestPhysicalAddress = guestAddress,
            MemorySize = size,
            UserspaceAddress = (ulong)host,
        };
        Control(KvmCalls.SetUserMemoryRegion, &region, "KVM_SET_USER_MEMORY_REGION");
    }

    /// <summary>Drives an interrupt line; safe on any thread.</summary>
    public void SetIrqLine(uint gsi, bool high)
    {
        var level = new KvmIrqLevel { Irq = gsi, Level = high ? 1u : 0u };
        Control(KvmCalls.IrqLine, &level, "KVM_IRQ_LINE");
    }

    /// <summary>Each signal of the eventfd is one edge on an interrupt line; no thread of ours has to run for it.</summary>
    public void BindInterrupt(uint gsi, int eventFd)
    {
        var binding = new KvmIrqFd { Fd = (uint)eventFd, Gsi = gsi };
        Control(KvmCalls.IrqFd, &binding, "KVM_IRQFD");
    }

    /// <summary>A four-byte write of <paramref name="value"/> at an address signals the eventfd, and the guest goes on at once.</summary>
    public void BindNotification(ulong address, uint value, int eventFd)
    {
        var binding = new KvmIoEventFd { DataMatch = value, Address = address, Length = sizeof(uint), Fd = eventFd, Flags = KvmCalls.IoEventFdDataMatch };
        Control(KvmCalls.IoEventFd, &binding, "KVM_IOEVENTFD");
    }

    /// <summary>The structure of a reading request, as bytes; what they hold before is what the request asks for.</summary>
    public byte[] Read(uint request, string name, ReadOnlySpan<byte> asks = default)
    {
        var bytes = new byte[KvmCalls.SizeOf(request)];
        asks.CopyTo(bytes);

        // SAFETY: as large as the request's number says, and pinned for the call.
        fixed (byte* start = bytes)
        {
            Control(request, start, name);
        }

        return bytes;
    }

    /// <summary>Puts back what <see cref="Read"/> gave.</summary>
    public void Write(uint request, ReadOnlySpan<byte> bytes, string name)
    {
        ArgumentOutOfRangeException.ThrowIfNotEqual(bytes.Length, KvmCalls.SizeOf(request));

        // SAFETY: as large as the request's number says, and pinned for the call.
        fixed (byte* start = bytes)
        {
            Control(request, start, name);
        }
    }

    public KvmVcpu CreateVcpu(int index, int mapSize)
    {
        var vcpu = KvmCalls.Ioctl(_fd, KvmCalls.CreateVcpu, index);
        return vcpu >= 0 ? new KvmVcpu(vcpu, mapSize) : throw SystemCallException.Last("KVM_CREATE_VCPU");
    }

    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    private void Control(uint request, nint argument, string name)
    {
        if (KvmCalls.Ioctl(_fd, request, argument) < 0)
        {
            throw SystemCallException.Last(name);
        }
    }

    // SAFETY of the callers: each passes a struct of the size that the request number encodes, on its own frame;
    // the kernel reads it during the call only.
    private void Control(uint request, void* argument, string name)
    {
        if (KvmCalls.Ioctl(_fd, request, argument) < 0)
        {
            throw SystemCallException.Last(name);
        }
    }
}
