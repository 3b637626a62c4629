using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Kvm;

/// <summary>One vCPU: its registers and the area it shares with the kernel.</summary>
internal sealed unsafe class KvmVcpu : IDisposable
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
    }

    public KvmVcpuEvents Events
    {
        get
        {
            KvmVcpuEvents events;
            Control(KvmCalls.GetVcpuEvents, &events, "KVM_GET_VCPU_EVENTS");
            return events;
        }
    }

    /// <summary>The TSC's pace for this vCPU; 0 where KVM does not tell.</summary>
    public uint TscKhz => (uint)Math.Max(0, KvmCalls.Ioctl(_fd, KvmCalls.GetTscKhz, 0));

    public void SetTscKhz(uint khz)
    {
        if (KvmCalls.Ioctl(_fd, KvmCalls.SetTscKhz, (nint)khz) < 0)
        {
            throw SystemCallException.Last("KVM_SET_TSC_KHZ");
        }
    }

    /// <summary>The structure of a reading request, as bytes.</summary>
    public byte[] Read(uint request, string name)
    {
        var bytes = new byte[KvmCalls.SizeOf(request)];

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

    /// <summary>What <see cref="SetCpuid"/> set.</summary>
    public KvmCpuidEntry[] ReadCpuid()
    {
        var buffer = stackalloc byte[sizeof(KvmCpuidHeader) + (KvmSystem.MaxCpuidEntries * sizeof(KvmCpuidEntry))];
        *(KvmCpuidHeader*)buffer = new KvmCpuidHeader { Count = KvmSystem.MaxCpuidEntries };

        // SAFETY: room for the header and for as many entries as it says.
        Control(KvmCalls.GetCpuid2, buffer, "KVM_GET_CPUID2");
        var count = Math.Min(((KvmCpuidHeader*)buffer)->Count, KvmSystem.MaxCpuidEntries);
        return new ReadOnlySpan<KvmCpuidEntry>(buffer + sizeof(KvmCpuidHeader), (int)count).ToArray();
    }

    /// <summary>Those of the MSRs that can be read.</summary>
    public KvmMsrEntry[] ReadMsrs(ReadOnlySpan<uint> indices)
    {
        var found = new List<KvmMsrEntry>(indices.Length);
        var buffer = stackalloc byte[sizeof(KvmMsrsHeader) + sizeof(KvmMsrEntry)];
        var entry = (KvmMsrEntry*)(buffer + sizeof(KvmMsrsHeader));
        foreach (var index in indices)
        {
            *(KvmMsrsHeader*)buffer = new KvmMsrsHeader { Count = 1 };
            *entry = new KvmMsrEntry { Index = index };

            // SAFETY: room for the header and the one entry that it announces. One by one, since KVM stops at the first
            // that this processor does not have.
            if (KvmCalls.Ioctl(_fd, KvmCalls.GetMsrs, buffer) == 1)
            {
                found.Add(*entry);
            }
        }

        return [.. found];
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
