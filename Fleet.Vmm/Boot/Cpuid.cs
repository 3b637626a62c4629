using System.Numerics;
using Fleet.Vmm.Kvm;

namespace Fleet.Vmm.Boot;

/// <summary>
/// CPUID as the guest sees it: what KVM supports, with this machine's own topology (one thread per core, one socket) and
/// the bits that KVM leaves to us.
/// </summary>
internal sealed class Cpuid
{
    private const uint VendorIntel = 0x756e6547;
    private const uint VendorAmd = 0x68747541;
    private const uint VendorHygon = 0x6f677948;

    private const uint Pdcm = 1u << 15;
    private const uint TscDeadline = 1u << 24;
    private const uint Hypervisor = 1u << 31;
    private const uint HyperThreading = 1u << 28;
    private const uint TopologyExtensions = 1u << 22;

    /// <summary>Bits of an APIC id that tell cores apart: room for 32, the most that a machine has.</summary>
    private const uint CoreBits = 5;

    private readonly KvmCpuidEntry[] _entries;
    private readonly int _vcpus;

    /// <param name="supported">What KVM_GET_SUPPORTED_CPUID said.</param>
    /// <param name="vcpus">1 to 32.</param>
    public Cpuid(ReadOnlySpan<KvmCpuidEntry> supported, int vcpus)
    {
        _vcpus = vcpus;
        var vendor = 0u;
        var maxBasic = 0u;
        foreach (ref readonly var entry in supported)
        {
            if (entry.Function == 0)
            {
                vendor = entry.Ebx;
                maxBasic = entry.Eax;
            }
        }

        var amd = vendor is VendorAmd or VendorHygon;

        // Leaves 0xb and 0x1f describe the host's topology; ours is written anew. Three entries more at most.
        var entries = new List<KvmCpuidEntry>(supported.Length + 3);
        var extended = false;
        foreach (ref readonly var entry in supported)
        {
            if (entry.Function is 0xb or 0x1f)
            {
                continue;
            }

            // AMD's 0x1d says how caches are shared; it means nothing on processors that lack 0x1e.
            extended |= entry.Function == 0x8000001e;
            entries.Add(entry);
        }

        if (maxBasic >= 0xb)
        {
            entries.Add(new() { Function = 0xb, Index = 0, Flags = KvmCalls.CpuidSignificantIndex, Eax = 0, Ebx = 1, Ecx = 0x100 });
            entries.Add(new() { Function = 0xb, Index = 1, Flags = KvmCalls.CpuidSignificantIndex, Eax = CoreBits, Ebx = (uint)vcpus, Ecx = 0x201 });
            entries.Add(new() { Function = 0xb, Index = 2, Flags = KvmCalls.CpuidSignificantIndex, Ecx = 2 });
        }

        _entries = [.. entries];
        foreach (ref var entry in _entries.AsSpan())
        {
            Normalise(ref entry, vendor == VendorIntel, amd, extended);
        }
    }

    /// <summary>Physical address bits; 36 where the processor does not say.</summary>
    public int PhysicalAddressBits
    {
        get
        {
            foreach (ref readonly var entry in _entries.AsSpan())
            {
                if (entry.Function == 0x80000008)
                {
                    return (int)(entry.Eax & 0xff);
                }
            }

            return 36;
        }
    }

    /// <summary>The table for one vCPU, whose APIC id is its index. The span is reused by the next call.</summary>
    public ReadOnlySpan<KvmCpuidEntry> For(int vcpu)
    {
        foreach (ref var entry in _entries.AsSpan())
        {
            switch (entry.Function)
            {
                case 0x1:
                    entry.Ebx = (entry.Ebx & 0x00ffffff) | ((uint)vcpu << 24);
                    break;
                case 0xb:
                    entry.Edx = (uint)vcpu;
                    break;
                case 0x8000001e:
                    entry.Eax = (uint)vcpu;
                    entry.Ebx = (uint)vcpu;
                    break;
            }
        }

        return _entries;
    }

    private void Normalise(ref KvmCpuidEntry entry, bool intel, bool amd, bool extended)
    {
        var cores = (uint)_vcpus;
        switch (entry.Function)
        {
            case 0x1:
                // KVM on AMD leaves both bits to us. Without HYPERVISOR Linux does not look for kvm-clock, and then
                // hangs with hardware-reduced ACPI, which has no other timer to calibrate against.
                entry.Ecx = (entry.Ecx | TscDeadline | Hypervisor) & ~Pdcm;
                entry.Ebx = (entry.Ebx & 0xff0000ff) | (8 << 8) | (BitOperations.RoundUpToPowerOf2(cores) << 16);
                entry.Edx = cores > 1 ? entry.Edx | HyperThreading : entry.Edx & ~HyperThreading;
                break;
            case 0x4 when intel && (entry.Eax & 0x1f) != 0:
                // Level 3 is shared by all, the others by nobody.
                var sharing = ((entry.Eax >> 5) & 7) >= 3 ? BitOperations.RoundUpToPowerOf2(cores) - 1 : 0;
                entry.Eax = (entry.Eax & 0x3fff) | (sharing << 14) | ((BitOperations.RoundUpToPowerOf2(cores) - 1) << 26);
                break;
            case 0x6 when intel:
                // Turbo and the performance hint are the host's business.
                entry.Eax &= ~2u;
                entry.Ecx &= ~8u;
                break;
            case 0xa:
                // No performance counters.
                entry.Eax = entry.Ebx = entry.Ecx = entry.Edx = 0;
                break;
            case 0x80000001 when amd && extended:
                entry.Ecx |= TopologyExtensions;
                break;
            case 0x80000008 when amd:
                entry.Ecx = (entry.Ecx & ~0xf0ffu) | (CoreBits << 12) | (cores - 1);
                break;
            case 0x8000001d when amd && (entry.Eax & 0x1f) != 0:
                entry.Eax = (entry.Eax & ~0x03ffc000u) | ((((entry.Eax >> 5) & 7) >= 3 ? cores - 1 : 0) << 14);
                break;
            case 0x8000001e when amd:
                // One thread per core, one node.
                entry.Ecx &= ~0x7ffu;
                break;
        }
    }
}
