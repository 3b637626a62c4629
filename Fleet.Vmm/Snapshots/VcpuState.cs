using System.Runtime.InteropServices;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Snapshots;

/// <summary>Everything that KVM keeps of a vCPU, read while it stands still and put back before it runs.</summary>
internal static class VcpuState
{
    private const uint TscDeadline = 0x6e0;

    // In the order in which they are put back; see below for what comes in between.
    private static readonly (uint Get, uint Set, string Name)[] Parts =
    [
        (KvmCalls.GetMpState, KvmCalls.SetMpState, "MP_STATE"),
        (KvmCalls.GetRegs, KvmCalls.SetRegs, "REGS"),
        (KvmCalls.GetSregs, KvmCalls.SetSregs, "SREGS"),
        (KvmCalls.GetXsave, KvmCalls.SetXsave, "XSAVE"),
        (KvmCalls.GetXcrs, KvmCalls.SetXcrs, "XCRS"),
        (KvmCalls.GetDebugRegs, KvmCalls.SetDebugRegs, "DEBUGREGS"),
        (KvmCalls.GetLapic, KvmCalls.SetLapic, "LAPIC"),
    ];

    /// <summary>Throws <see cref="SystemCallException"/>.</summary>
    public static void Save(KvmVcpu vcpu, ReadOnlySpan<KvmCpuidEntry> cpuid, ReadOnlySpan<uint> msrIndices, StateWriter state)
    {
        state.Bytes(MemoryMarshal.AsBytes(cpuid));
        state.UInt32(vcpu.TscKhz);
        foreach (var (get, _, name) in Parts)
        {
            state.Bytes(vcpu.Read(get, "KVM_GET_" + name));
        }

        var msrs = vcpu.ReadMsrs(msrIndices);
        state.Bytes(MemoryMarshal.AsBytes(msrs.AsSpan()));
        state.Bytes(vcpu.Read(KvmCalls.GetVcpuEvents, "KVM_GET_VCPU_EVENTS"));
    }

    /// <summary>Puts it back into a vCPU that never ran. Throws <see cref="SystemCallException"/> or <see cref="SnapshotException"/>.</summary>
    public static void Restore(KvmVcpu vcpu, ref StateReader state)
    {
        var cpuid = Cast<KvmCpuidEntry>(state.Bytes());
        if (cpuid.Length is 0 or > KvmSystem.MaxCpuidEntries)
        {
            throw new SnapshotException($"it has {cpuid.Length} CPUID entries");
        }

        vcpu.SetCpuid(cpuid);
        RestoreTsc(vcpu, state.UInt32());
        foreach (var (get, set, name) in Parts)
        {
            vcpu.Write(set, state.Bytes(KvmCalls.SizeOf(get)), "KVM_SET_" + name);
        }

        var msrs = Cast<KvmMsrEntry>(state.Bytes());
        _ = vcpu.SetMsrs(Without(msrs, TscDeadline));

        // Behind the TSC, which it is measured by; at 0 no timer is armed.
        foreach (var msr in msrs)
        {
            if (msr.Index == TscDeadline && msr.Data != 0)
            {
                _ = vcpu.SetMsrs([msr]);
            }
        }

        vcpu.Write(KvmCalls.SetVcpuEvents, state.Bytes(KvmCalls.SizeOf(KvmCalls.GetVcpuEvents)), "KVM_SET_VCPU_EVENTS");
        vcpu.NoteStopped();
    }

    // Up to 250 ppm are within what the guest's own clock corrects.
    private static void RestoreTsc(KvmVcpu vcpu, uint khz)
    {
        var now = vcpu.TscKhz;
        if (khz > 0 && Math.Abs((long)now - khz) * 4000 > khz)
        {
            vcpu.SetTscKhz(khz);
        }
    }

    private static KvmMsrEntry[] Without(ReadOnlySpan<KvmMsrEntry> msrs, uint index)
    {
        var others = new List<KvmMsrEntry>(msrs.Length);
        foreach (var msr in msrs)
        {
            if (msr.Index != index)
            {
                others.Add(msr);
            }
        }

        return [.. others];
    }

    private static unsafe ReadOnlySpan<T> Cast<T>(ReadOnlySpan<byte> bytes)
        where T : unmanaged
    {
        // Copied, since the file's bytes lie anywhere.
        var values = new T[bytes.Length / sizeof(T)];
        bytes[..(values.Length * sizeof(T))].CopyTo(MemoryMarshal.AsBytes(values.AsSpan()));
        return values;
    }
}
