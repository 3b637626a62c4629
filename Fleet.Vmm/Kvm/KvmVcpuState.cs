using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Kvm;

/// <content>What of a vCPU only a snapshot reads and puts back. Not while the vCPU is inside KVM_RUN: the calls would wait for it.</content>
internal sealed unsafe partial class KvmVcpu
{
    /// <summary>More entries than KVM lets a vCPU have; bounds what is read from a file.</summary>
    public const int MostMsrs = 4096;

    /// <summary>Bytes of <c>struct kvm_xsave</c>, which every KVM knows.</summary>
    public const int PlainXsaveSize = 4096;

    public KvmXcrs ExtendedControls
    {
        get
        {
            KvmXcrs registers;
            Control(KvmCalls.GetXcrs, &registers, "KVM_GET_XCRS");
            return registers;
        }
        set => Control(KvmCalls.SetXcrs, &value, "KVM_SET_XCRS");
    }

    public KvmDebugRegs DebugRegisters
    {
        get
        {
            KvmDebugRegs registers;
            Control(KvmCalls.GetDebugRegs, &registers, "KVM_GET_DEBUGREGS");
            return registers;
        }
        set => Control(KvmCalls.SetDebugRegs, &value, "KVM_SET_DEBUGREGS");
    }

    /// <summary>Ticks of the guest's time stamp counter in a millisecond.</summary>
    public uint TscKilohertz
    {
        get => (uint)Control(KvmCalls.GetTscKhz, null, "KVM_GET_TSC_KHZ");
        set => Control(KvmCalls.SetTscKhz, (void*)(nuint)value, "KVM_SET_TSC_KHZ");
    }

    /// <summary>FPU and vector registers.</summary>
    /// <param name="size">What KVM_CAP_XSAVE2 said, or <see cref="PlainXsaveSize"/>.</param>
    public byte[] ReadXsave(int size)
    {
        var area = new byte[size];

        // SAFETY: pinned for the call; the kernel writes as many bytes as the capability said for this VM, or 4096 by the old call.
        fixed (byte* start = area)
        {
            var (request, name) = size > PlainXsaveSize ? (KvmCalls.GetXsave2, "KVM_GET_XSAVE2") : (KvmCalls.GetXsave, "KVM_GET_XSAVE");
            Control(request, start, name);
        }

        return area;
    }

    /// <param name="area">As long as <see cref="ReadXsave"/> gave it on a VM with the same size.</param>
    public void WriteXsave(ReadOnlySpan<byte> area)
    {
        // SAFETY: pinned for the call; the caller has checked that it has the size that KVM_CAP_XSAVE2 says, which is what the kernel reads.
        fixed (byte* start = area)
        {
            Control(KvmCalls.SetXsave, start, "KVM_SET_XSAVE");
        }
    }

    /// <summary>The CPUID that the guest sees.</summary>
    public KvmCpuidEntry[] ReadCpuid()
    {
        var size = sizeof(KvmCpuidHeader) + KvmSystem.MaxCpuidEntries * sizeof(KvmCpuidEntry);
        var buffer = stackalloc byte[size];

        // SAFETY: as KvmSystem.ReadSupportedCpuid.
        var header = (KvmCpuidHeader*)buffer;
        header->Count = KvmSystem.MaxCpuidEntries;
        Control(KvmCalls.GetCpuid2, buffer, "KVM_GET_CPUID2");
        return new ReadOnlySpan<KvmCpuidEntry>(header + 1, (int)Math.Min(header->Count, KvmSystem.MaxCpuidEntries)).ToArray();
    }

    /// <summary>Reads all that KVM gives; what it refuses is left out.</summary>
    public KvmMsrEntry[] ReadMsrs(ReadOnlySpan<uint> indices)
    {
        var entries = new KvmMsrEntry[indices.Length];
        var known = 0;
        while (!indices.IsEmpty)
        {
            // Indices that are still to be read stand behind the values that are known.
            var rest = entries.AsSpan(known, indices.Length);
            for (var i = 0; i < rest.Length; i++)
            {
                rest[i] = new KvmMsrEntry { Index = indices[i] };
            }

            var got = ReadMsrsUntilRefused(rest);
            known += got;
            indices = indices[Math.Min(indices.Length, got + 1)..];
        }

        return entries[..known];
    }

    // KVM stops at the first that it refuses, and says how many it gave before.
    private int ReadMsrsUntilRefused(Span<KvmMsrEntry> entries)
    {
        var buffer = new byte[sizeof(KvmMsrsHeader) + entries.Length * sizeof(KvmMsrEntry)];

        // SAFETY: pinned; the buffer has room for the header and all entries behind it; Count tells the kernel how many.
        fixed (byte* start = buffer)
        {
            ((KvmMsrsHeader*)start)->Count = (uint)entries.Length;
            var target = new Span<KvmMsrEntry>(start + sizeof(KvmMsrsHeader), entries.Length);
            entries.CopyTo(target);
            var got = Math.Min(Control(KvmCalls.GetMsrs, start, "KVM_GET_MSRS"), entries.Length);
            target[..got].CopyTo(entries);
            return got;
        }
    }
}
