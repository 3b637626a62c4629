using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Kvm;

/// <summary>One vCPU: its registers and the area it shares with the kernel.</summary>
internal sealed unsafe partial class KvmVcpu : IDisposable
{
    private readonly nuint _mapSize;
    private int _fd;
    private KvmRun* _run;

    /// <summary>Owns <paramref name="fd"/>, also when it throws.</summary>
    public KvmVcpu(int fd, int mapSize)
    {
        _fd = fd;
        _mapSize = (nuint)mapSize;
        try
        {
            if (mapSize < sizeof(KvmRun))
            {
                throw new KvmUnsuitableException($"a vCPU's shared area has only {mapSize} bytes");
            }

            // SAFETY: checked right above that the area has room for the struct; the kernel keeps it page-aligned.
            _run = (KvmRun*)VirtualMemory.MapShared(fd, _mapSize);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>What the kernel says about the last exit. Valid until <see cref="Dispose"/>.</summary>
    // SAFETY of the users: the vCPU's thread and whoever commands it; Dispose comes after the thread was joined. Both sides
    // touch only fields of the struct, which lie inside the mapping.
    public KvmRun* Exit => _run;

    /// <summary>Bytes behind <see cref="Exit"/>.</summary>
    public ulong ExitAreaSize => _mapSize;

    /// <summary>KVM_RUN: 0 after an exit, otherwise errno.</summary>
    public int Run() => KvmCalls.Ioctl(_fd, KvmCalls.Run, 0) < 0 ? System.Runtime.InteropServices.Marshal.GetLastPInvokeError() : 0;

    public void SetCpuid(ReadOnlySpan<KvmCpuidEntry> entries)
    {
        var size = sizeof(KvmCpuidHeader) + entries.Length * sizeof(KvmCpuidEntry);
        var buffer = stackalloc byte[size];

        // SAFETY: the buffer has room for the header and all entries behind it; Count tells the kernel how many.
        ((KvmCpuidHeader*)buffer)->Count = (uint)entries.Length;
        ((KvmCpuidHeader*)buffer)->Padding = 0;
        entries.CopyTo(new Span<KvmCpuidEntry>(buffer + sizeof(KvmCpuidHeader), entries.Length));
        Control(KvmCalls.SetCpuid2, buffer, "KVM_SET_CPUID2");
    }

    /// <summary>Sets all that KVM takes; returns the indices of those that it refused.</summary>
    public uint[] SetMsrs(ReadOnlySpan<KvmMsrEntry> entries)
    {
        List<uint>? refused = null;
        while (!entries.IsEmpty)
        {
            var taken = SetMsrsUntilRefused(entries);
            if (taken >= entries.Length)
            {
                break;
            }

            (refused ??= []).Add(entries[taken].Index);
            entries = entries[(taken + 1)..];
        }

        return refused?.ToArray() ?? [];
    }

    public KvmRegs Registers
    {
        get
        {
            KvmRegs registers;
            Control(KvmCalls.GetRegs, &registers, "KVM_GET_REGS");
            return registers;
        }
        set => Control(KvmCalls.SetRegs, &value, "KVM_SET_REGS");
    }

    public KvmSregs SystemRegisters
    {
        get
        {
            KvmSregs registers;
            Control(KvmCalls.GetSregs, &registers, "KVM_GET_SREGS");
            return registers;
        }
        set => Control(KvmCalls.SetSregs, &value, "KVM_SET_SREGS");
    }

    public KvmLapicState Lapic
    {
        get
        {
            KvmLapicState state;
            Control(KvmCalls.GetLapic, &state, "KVM_GET_LAPIC");
            return state;
        }
        set => Control(KvmCalls.SetLapic, &value, "KVM_SET_LAPIC");
    }

    public uint MpState
    {
        get
        {
            KvmMpState state;
            Control(KvmCalls.GetMpState, &state, "KVM_GET_MP_STATE");
            return state.State;
        }
        set
        {
            var state = new KvmMpState { State = value };
            Control(KvmCalls.SetMpState, &state, "KVM_SET_MP_STATE");
        }
    }

    public KvmVcpuEvents Events
    {
        get
        {
            KvmVcpuEvents events;
            Control(KvmCalls.GetVcpuEvents, &events, "KVM_GET_VCPU_EVENTS");
            return events;
        }
        set => Control(KvmCalls.SetVcpuEvents, &value, "KVM_SET_VCPU_EVENTS");
    }

    public void SetFpu(in KvmFpu fpu)
    {
        var copy = fpu;
        Control(KvmCalls.SetFpu, &copy, "KVM_SET_FPU");
    }

    /// <summary>
    /// Tells the guest, through its kvm-clock, that it was stopped for a while, so that its watchdogs don't take the gap for
    /// a lock-up. A guest without kvm-clock can't be told, and KVM says so; that is no failure.
    /// </summary>
    public void NoteStopped() => _ = KvmCalls.Ioctl(_fd, KvmCalls.KvmClockControl, 0);

    /// <summary>Signals that stay blocked while the vCPU is inside KVM_RUN; bit n - 1 is signal n.</summary>
    public void SetSignalMask(ulong blocked)
    {
        var mask = new KvmSignalMask { Length = sizeof(ulong), Signals = blocked };
        Control(KvmCalls.SetSignalMask, &mask, "KVM_SET_SIGNAL_MASK");
    }

    public void Dispose()
    {
        if (_run != null)
        {
            VirtualMemory.Unmap(_run, _mapSize);
            _run = null;
        }

        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    // KVM stops at the first that it refuses, and says how many it took before.
    private int SetMsrsUntilRefused(ReadOnlySpan<KvmMsrEntry> entries)
    {
        var size = sizeof(KvmMsrsHeader) + entries.Length * sizeof(KvmMsrEntry);
        var buffer = stackalloc byte[size];

        // SAFETY: the buffer has room for the header and all entries behind it; Count tells the kernel how many.
        ((KvmMsrsHeader*)buffer)->Count = (uint)entries.Length;
        ((KvmMsrsHeader*)buffer)->Pad = 0;
        entries.CopyTo(new Span<KvmMsrEntry>(buffer + sizeof(KvmMsrsHeader), entries.Length));
        return Control(KvmCalls.SetMsrs, buffer, "KVM_SET_MSRS");
    }

    // SAFETY of the callers: each passes a buffer of the size that the request number encodes (or its count says),
    // on its own frame; the kernel uses it during the call only.
    private int Control(uint request, void* argument, string name)
    {
        var result = KvmCalls.Ioctl(_fd, request, argument);
        return result >= 0 ? result : throw SystemCallException.Last(name);
    }
}
