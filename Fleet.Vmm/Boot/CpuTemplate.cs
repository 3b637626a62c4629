using Fleet.Vmm.Kvm;

namespace Fleet.Vmm.Boot;

/// <summary>A register of CPUID's answer.</summary>
internal enum CpuidRegister
{
    Eax,
    Ebx,
    Ecx,
    Edx,
}

/// <summary>Some bits of a number: where <see cref="Mask"/> is 1, the bit of <see cref="Value"/> takes the place of what was there.</summary>
internal readonly record struct BitChange(ulong Mask, ulong Value)
{
    public ulong ApplyTo(ulong old) => (old & ~Mask) | (Value & Mask);
}

/// <summary>Changes to one leaf of CPUID.</summary>
internal sealed record CpuidChange(uint Leaf, uint Subleaf, uint Flags, IReadOnlyList<KeyValuePair<CpuidRegister, BitChange>> Registers);

/// <summary>Changes to one model-specific register.</summary>
internal sealed record MsrChange(uint Index, BitChange Bits);

/// <summary>
/// A custom CPU template: what the guest sees of the processor beside what KVM offers, so that it can move between hosts that
/// are not alike.
/// </summary>
/// <param name="Required">KVM capabilities that the host must have.</param>
/// <param name="NotRequired">Those that it may lack although a machine usually needs them.</param>
/// <param name="Cpuid">Each leaf has to be one that KVM offers.</param>
/// <param name="Msrs">Each has to be one that KVM knows.</param>
internal sealed record CpuTemplate(
    IReadOnlyList<uint> Required, IReadOnlyList<uint> NotRequired, IReadOnlyList<CpuidChange> Cpuid, IReadOnlyList<MsrChange> Msrs)
{
    /// <summary>MSRs that belong into a snapshot because of the template.</summary>
    public uint[] NamedMsrs => [.. Msrs.Select(static msr => msr.Index)];

    /// <summary>Changes what KVM offers, before it is made this machine's own. Throws <see cref="CpuTemplateException"/>.</summary>
    public void ApplyTo(Span<KvmCpuidEntry> entries)
    {
        foreach (var change in Cpuid)
        {
            ref var entry = ref Find(entries, change);
            foreach (var (register, bits) in change.Registers)
            {
                switch (register)
                {
                    case CpuidRegister.Eax: entry.Eax = (uint)bits.ApplyTo(entry.Eax); break;
                    case CpuidRegister.Ebx: entry.Ebx = (uint)bits.ApplyTo(entry.Ebx); break;
                    case CpuidRegister.Ecx: entry.Ecx = (uint)bits.ApplyTo(entry.Ecx); break;
                    default: entry.Edx = (uint)bits.ApplyTo(entry.Edx); break;
                }
            }
        }
    }

    /// <summary>
    /// Sets the MSRs of a vCPU whose CPUID is set: KVM shows zero for an MSR that CPUID does not have. Throws
    /// <see cref="CpuTemplateException"/> or <see cref="Linux.SystemCallException"/>.
    /// </summary>
    public void ApplyTo(KvmVcpu vcpu)
    {
        if (Msrs.Count == 0)
        {
            return;
        }

        var now = vcpu.ReadMsrs(NamedMsrs);
        foreach (var change in Msrs)
        {
            var at = Array.FindIndex(now, msr => msr.Index == change.Index);
            if (at < 0)
            {
                throw new CpuTemplateException($"Template changes an MSR entry not supported by KVM: Register Address: 0x{change.Index:x}");
            }

            now[at].Data = change.Bits.ApplyTo(now[at].Data);
        }

        if (vcpu.SetMsrs(now) is [var refused, ..])
        {
            throw new CpuTemplateException($"KVM refuses the template's value of MSR 0x{refused:x}");
        }
    }

    private static ref KvmCpuidEntry Find(Span<KvmCpuidEntry> entries, CpuidChange change)
    {
        for (var i = 0; i < entries.Length; i++)
        {
            if (entries[i].Function == change.Leaf && entries[i].Index == change.Subleaf && entries[i].Flags == change.Flags)
            {
                return ref entries[i];
            }
        }

        throw new CpuTemplateException($"Template changes a CPUID entry not supported by KVM: Leaf: 0x{change.Leaf:x}, Subleaf: 0x{change.Subleaf:x}");
    }
}

/// <summary>A template that this host can't follow.</summary>
internal sealed class CpuTemplateException(string message) : Exception(message);
