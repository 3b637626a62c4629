using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Snapshots;

/// <summary>Everything that KVM knows of one vCPU.</summary>
internal sealed record VcpuState
{
    /// <summary>Above any processor's: with all of AMX it is below 12 KiB.</summary>
    private const int LargestXsave = 64 * 1024;

    /// <summary>Two clocks that differ by less are the same one, measured twice.</summary>
    private const ulong TscTolerancePerMillion = 250;

    public required KvmCpuidEntry[] Cpuid { get; init; }

    public required uint MpState { get; init; }

    public required KvmRegs Registers { get; init; }

    public required KvmSregs SystemRegisters { get; init; }

    public required byte[] Xsave { get; init; }

    public required KvmXcrs ExtendedControls { get; init; }

    public required KvmDebugRegs DebugRegisters { get; init; }

    public required KvmLapicState Lapic { get; init; }

    public required KvmMsrEntry[] Msrs { get; init; }

    public required KvmVcpuEvents Events { get; init; }

    /// <summary>0: the host could not say.</summary>
    public required uint TscKilohertz { get; init; }

    /// <summary>Reads a vCPU that is outside the guest. Throws <see cref="SystemCallException"/>.</summary>
    /// <param name="vcpu">The vCPU.</param>
    /// <param name="xsaveSize">See <see cref="KvmVcpu.ReadXsave"/>.</param>
    /// <param name="msrs">See <see cref="SavedMsrs.Of"/>.</param>
    public static VcpuState Take(KvmVcpu vcpu, int xsaveSize, ReadOnlySpan<uint> msrs) => new()
    {
        // First of all: reading it makes KVM carry out pending INIT and SIPI events.
        MpState = vcpu.MpState,
        Cpuid = vcpu.ReadCpuid(),
        Registers = vcpu.Registers,
        SystemRegisters = vcpu.SystemRegisters,
        Xsave = vcpu.ReadXsave(xsaveSize),
        ExtendedControls = vcpu.ExtendedControls,
        DebugRegisters = vcpu.DebugRegisters,
        Lapic = vcpu.Lapic,
        Msrs = WithoutLostDeadline(vcpu.ReadMsrs(msrs)),
        Events = vcpu.Events,
        TscKilohertz = ReadFrequency(vcpu),
    };

    public static VcpuState Read(ref StateReader reader) => new()
    {
        MpState = reader.U32(),
        Cpuid = reader.Structs<KvmCpuidEntry>(KvmSystem.MaxCpuidEntries, "CPUID entries"),
        Registers = reader.Struct<KvmRegs>(),
        SystemRegisters = reader.Struct<KvmSregs>(),
        Xsave = reader.Structs<byte>(LargestXsave, "bytes of vector registers"),
        ExtendedControls = reader.Struct<KvmXcrs>(),
        DebugRegisters = reader.Struct<KvmDebugRegs>(),
        Lapic = reader.Struct<KvmLapicState>(),
        Msrs = reader.Structs<KvmMsrEntry>(KvmVcpu.MostMsrs, "MSRs"),
        Events = reader.Struct<KvmVcpuEvents>(),
        TscKilohertz = reader.U32(),
    };

    public void Write(StateWriter writer)
    {
        writer.U32(MpState);
        writer.Structs<KvmCpuidEntry>(Cpuid);
        writer.Struct(Registers);
        writer.Struct(SystemRegisters);
        writer.Structs<byte>(Xsave);
        writer.Struct(ExtendedControls);
        writer.Struct(DebugRegisters);
        writer.Struct(Lapic);
        writer.Structs<KvmMsrEntry>(Msrs);
        writer.Struct(Events);
        writer.U32(TscKilohertz);
    }

    /// <summary>
    /// Puts the state into a new vCPU, in the order that KVM needs: what the guest may use (CPUID) before what it uses, and the
    /// local APIC before the MSRs, whose deadline timer lives in it.
    /// </summary>
    /// <exception cref="SystemCallException">KVM does not take it.</exception>
    /// <exception cref="SnapshotException">This processor is not able to go on with it.</exception>
    public void Restore(KvmVcpu vcpu, int xsaveSize, bool canScaleTsc, Action<string> onWarning)
    {
        if (Xsave.Length != xsaveSize)
        {
            throw new SnapshotException($"this host's vector registers take {xsaveSize} bytes, the snapshot's {Xsave.Length}: it was taken on another kind of processor");
        }

        vcpu.SetCpuid(Cpuid);
        RestoreFrequency(vcpu, canScaleTsc, onWarning);
        vcpu.MpState = MpState;
        vcpu.Registers = Registers;
        vcpu.SystemRegisters = SystemRegisters;
        vcpu.WriteXsave(Xsave);
        vcpu.ExtendedControls = ExtendedControls;
        vcpu.DebugRegisters = DebugRegisters;
        vcpu.Lapic = Lapic;
        RestoreMsrs(vcpu);
        vcpu.Events = Events;
        vcpu.NoteStopped();
    }

    // One that this KVM refuses is no loss where it reads the same anyway.
    private void RestoreMsrs(KvmVcpu vcpu)
    {
        var refused = vcpu.SetMsrs(Msrs);
        foreach (var now in refused.Length > 0 ? vcpu.ReadMsrs(refused) : [])
        {
            var wanted = Array.Find(Msrs, msr => msr.Index == now.Index).Data;
            if (now.Data != wanted)
            {
                throw new SnapshotException($"this host's KVM refuses to set MSR 0x{now.Index:x} to 0x{wanted:x} (it reads 0x{now.Data:x}): the snapshot was taken on another kind of processor");
            }
        }
    }

    private void RestoreFrequency(KvmVcpu vcpu, bool canScale, Action<string> onWarning)
    {
        var now = ReadFrequency(vcpu);
        if (now == 0 || TscKilohertz == 0 || (ulong)Math.Abs((long)now - TscKilohertz) * 1_000_000 <= TscKilohertz * TscTolerancePerMillion)
        {
            return;
        }

        if (canScale)
        {
            vcpu.TscKilohertz = TscKilohertz;
        }
        else
        {
            onWarning($"The snapshot's time stamp counter runs at {TscKilohertz} kHz, this host's at {now} kHz, and its processor can't scale it: a guest that keeps time by it goes wrong.");
        }
    }

    private static uint ReadFrequency(KvmVcpu vcpu)
    {
        try
        {
            return vcpu.TscKilohertz;
        }
        catch (SystemCallException)
        {
            // Hosts without a stable counter have none to tell.
            return 0;
        }
    }

    // KVM shows a deadline of 0 once it has passed and its interrupt is on the way, but the interrupt itself is not saved:
    // with the time of now instead it comes again at once.
    private static KvmMsrEntry[] WithoutLostDeadline(KvmMsrEntry[] msrs)
    {
        var deadline = Array.FindIndex(msrs, msr => msr.Index == SavedMsrs.TscDeadline);
        var tsc = Array.FindIndex(msrs, msr => msr.Index == SavedMsrs.Tsc);
        if (deadline >= 0 && tsc >= 0 && msrs[deadline].Data == 0)
        {
            msrs[deadline].Data = msrs[tsc].Data;
        }

        return msrs;
    }
}
