using Fleet.Vmm.Kvm;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Boot;

/// <summary>The state in which a vCPU finds itself at the kernel's entry.</summary>
internal static class BootRegisters
{
    private const ulong ProtectedMode = 1;
    private const ulong ExtensionType = 1 << 4;
    private const ulong Paging = 1UL << 31;
    private const ulong PhysicalAddressExtension = 1 << 5;
    private const ulong LongModeEnabled = 1 << 8;
    private const ulong LongModeActive = 1 << 10;

    /// <summary>The bit of rflags that always reads 1.</summary>
    private const ulong AlwaysSet = 2;

    private const ulong Code64 = 0x00af9b000000ffff;
    private const ulong Code32 = 0x00cf9b000000ffff;
    private const ulong Data = 0x00cf93000000ffff;
    private const ulong Tss64 = 0x008f8b000000ffff;
    private const ulong Tss32 = 0x00008b0000000067;

    private const uint MsrTsc = 0x10;
    private const uint MsrSysenterCs = 0x174;
    private const uint MsrSysenterEsp = 0x175;
    private const uint MsrSysenterEip = 0x176;
    private const uint MsrMiscEnable = 0x1a0;
    private const uint MsrMtrrDefaultType = 0x2ff;
    private const uint MsrStar = 0xc0000081;
    private const uint MsrLstar = 0xc0000082;
    private const uint MsrCstar = 0xc0000083;
    private const uint MsrSyscallMask = 0xc0000084;
    private const uint MsrKernelGsBase = 0xc0000102;

    private static ReadOnlySpan<KvmMsrEntry> BootMsrs => new KvmMsrEntry[]
    {
        new() { Index = MsrSysenterCs },
        new() { Index = MsrSysenterEsp },
        new() { Index = MsrSysenterEip },
        new() { Index = MsrStar },
        new() { Index = MsrCstar },
        new() { Index = MsrKernelGsBase },
        new() { Index = MsrSyscallMask },
        new() { Index = MsrLstar },
        new() { Index = MsrTsc },

        // Fast string operations.
        new() { Index = MsrMiscEnable, Data = 1 },

        // MTRRs on, everything write-back: otherwise some kernels treat all memory as uncached.
        new() { Index = MsrMtrrDefaultType, Data = (1 << 11) | 6 },
    };

    /// <summary>GDT, empty IDT and, for 64-bit entries, page tables that map the first GiB one to one.</summary>
    public static void WriteTables(GuestMemory memory, EntryMode mode)
    {
        memory.WriteUInt64(GuestLayout.Gdt, 0);
        memory.WriteUInt64(GuestLayout.Gdt + 8, mode == EntryMode.Linux64 ? Code64 : Code32);
        memory.WriteUInt64(GuestLayout.Gdt + 16, Data);
        memory.WriteUInt64(GuestLayout.Gdt + 24, mode == EntryMode.Linux64 ? Tss64 : Tss32);
        memory.WriteUInt64(GuestLayout.Idt, 0);
        if (mode == EntryMode.Linux64)
        {
            memory.WriteUInt64(GuestLayout.PageMapLevel4, GuestLayout.PageDirectoryPointers | 3);
            memory.WriteUInt64(GuestLayout.PageDirectoryPointers, GuestLayout.PageDirectory | 3);
            for (ulong i = 0; i < 512; i++)
            {
                // Present, writable, 2 MiB page.
                memory.WriteUInt64(GuestLayout.PageDirectory + i * 8, (i << 21) | 0x83);
            }
        }
    }

    /// <summary>What every vCPU gets: FPU, MSRs, the legacy interrupt pins of its APIC. Returns the MSRs that KVM refused.</summary>
    public static uint[] InitialiseCommon(KvmVcpu vcpu)
    {
        vcpu.SetFpu(new KvmFpu { Fcw = 0x37f, Mxcsr = 0x1f80 });

        // A refused one stays at its reset value, and Linux comes up without any (measured).
        var refused = vcpu.SetMsrs(BootMsrs);
        SetLegacyPins(vcpu);
        return refused;
    }

    /// <summary>Where the first vCPU begins. The others wait in the in-kernel APIC for their start-up interrupt, which sets their registers.</summary>
    public static void InitialiseFirst(KvmVcpu vcpu, LoadedKernel kernel)
    {
        var system = vcpu.SystemRegisters;
        var longMode = kernel.Mode == EntryMode.Linux64;
        system.Cs = Segment(longMode ? Code64 : Code32, 1);
        system.Ds = system.Es = system.Fs = system.Gs = system.Ss = Segment(Data, 2);
        system.Tr = Segment(longMode ? Tss64 : Tss32, 3);
        system.Gdt.Base = GuestLayout.Gdt;
        system.Gdt.Limit = 31;
        system.Idt.Base = GuestLayout.Idt;
        system.Idt.Limit = 7;
        if (longMode)
        {
            system.Cr0 |= ProtectedMode | Paging;
            system.Cr3 = GuestLayout.PageMapLevel4;
            system.Cr4 |= PhysicalAddressExtension;
            system.Efer |= LongModeEnabled | LongModeActive;
        }
        else
        {
            system.Cr0 = ProtectedMode | ExtensionType;
            system.Cr4 = 0;
        }

        vcpu.SystemRegisters = system;
        vcpu.Registers = longMode
            ? new KvmRegs { Rflags = AlwaysSet, Rip = kernel.Entry, Rsp = GuestLayout.BootStack, Rbp = GuestLayout.BootStack, Rsi = GuestLayout.ZeroPage }
            : new KvmRegs { Rflags = AlwaysSet, Rip = kernel.Entry, Rbx = GuestLayout.PvhStartInfo };
    }

    // LINT0 takes interrupts of the PIC, LINT1 is the NMI: as a BIOS leaves them.
    private static unsafe void SetLegacyPins(KvmVcpu vcpu)
    {
        const int Lint0 = 0x350;
        const int Lint1 = 0x360;
        var lapic = vcpu.Lapic;

        // SAFETY: both registers lie inside the fixed page of 1024 bytes.
        var lint0 = (uint*)(lapic.Regs + Lint0);
        var lint1 = (uint*)(lapic.Regs + Lint1);
        *lint0 = (*lint0 & ~0x700u) | (7u << 8);
        *lint1 = (*lint1 & ~0x700u) | (4u << 8);
        vcpu.Lapic = lapic;
    }

    private static KvmSegment Segment(ulong descriptor, int index)
    {
        var limit = (uint)((descriptor & 0xffff) | ((descriptor >> 32) & 0xf0000));
        var pages = ((descriptor >> 55) & 1) != 0;
        return new KvmSegment
        {
            Base = ((descriptor >> 16) & 0xffffff) | ((descriptor >> 32) & 0xff000000),
            Limit = pages ? (limit << 12) | 0xfff : limit,
            Selector = (ushort)(index * 8),
            Type = (byte)((descriptor >> 40) & 0xf),
            S = (byte)((descriptor >> 44) & 1),
            Dpl = (byte)((descriptor >> 45) & 3),
            Present = (byte)((descriptor >> 47) & 1),
            Avl = (byte)((descriptor >> 52) & 1),
            L = (byte)((descriptor >> 53) & 1),
            Db = (byte)((descriptor >> 54) & 1),
            G = (byte)(pages ? 1 : 0),
        };
    }
}
