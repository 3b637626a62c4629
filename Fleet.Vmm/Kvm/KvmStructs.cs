using System.Runtime.InteropServices;

namespace Fleet.Vmm.Kvm;

// Layouts of linux/kvm.h and asm/kvm.h (x86-64). The tests compile them against the system's headers.

/// <summary><c>struct kvm_regs</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmRegs
{
    public ulong Rax, Rbx, Rcx, Rdx, Rsi, Rdi, Rsp, Rbp;
    public ulong R8, R9, R10, R11, R12, R13, R14, R15;
    public ulong Rip, Rflags;
}

/// <summary><c>struct kvm_segment</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmSegment
{
    public ulong Base;
    public uint Limit;
    public ushort Selector;
    public byte Type, Present, Dpl, Db, S, L, G, Avl, Unusable, Padding;
}

/// <summary><c>struct kvm_dtable</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmDtable
{
    public ulong Base;
    public ushort Limit;
    public fixed ushort Padding[3];
}

/// <summary><c>struct kvm_sregs</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmSregs
{
    public KvmSegment Cs, Ds, Es, Fs, Gs, Ss, Tr, Ldt;
    public KvmDtable Gdt, Idt;
    public ulong Cr0, Cr2, Cr3, Cr4, Cr8, Efer, ApicBase;
    public fixed ulong InterruptBitmap[4];
}

/// <summary><c>struct kvm_fpu</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmFpu
{
    public fixed byte Fpr[128];
    public ushort Fcw, Fsw;
    public byte Ftwx, Pad1;
    public ushort LastOpcode;
    public ulong LastIp, LastDp;
    public fixed byte Xmm[256];
    public uint Mxcsr, Pad2;
}

/// <summary><c>struct kvm_lapic_state</c>: the local APIC's register page, one register per 16 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmLapicState
{
    public fixed byte Regs[1024];
}

/// <summary><c>struct kvm_msr_entry</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmMsrEntry
{
    public uint Index, Reserved;
    public ulong Data;
}

/// <summary><c>struct kvm_msrs</c> without its entries, which follow at once.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmMsrsHeader
{
    public uint Count, Pad;
}

/// <summary><c>struct kvm_cpuid_entry2</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmCpuidEntry
{
    public uint Function, Index, Flags, Eax, Ebx, Ecx, Edx;
    public fixed uint Padding[3];
}

/// <summary><c>struct kvm_cpuid2</c> without its entries, which follow at once.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmCpuidHeader
{
    public uint Count, Padding;
}

/// <summary><c>struct kvm_pit_config</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmPitConfig
{
    public uint Flags;
    public fixed uint Pad[15];
}

/// <summary><c>struct kvm_vcpu_events</c>; what we don't read is left as bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmVcpuEvents
{
    public fixed byte Exception[8];
    public fixed byte Interrupt[4];
    public byte NmiInjected, NmiPending, NmiMasked, NmiPad;
    public uint SipiVector, Flags;
    public byte Smm, SmiPending, SmmInsideNmi, LatchedInit;
    public fixed byte Rest[36];
}

/// <summary><c>struct kvm_xcrs</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmXcrs
{
    public fixed byte Bytes[392];
}

/// <summary><c>struct kvm_debugregs</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmDebugRegs
{
    public fixed byte Bytes[128];
}

/// <summary><c>struct kvm_pit_state2</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmPitState
{
    public fixed byte Bytes[112];
}

/// <summary><c>struct kvm_irqchip</c>: the PIC's halves are 0 and 1, the I/O APIC is 2.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmIrqChip
{
    public uint Id, Pad;
    public fixed byte Chip[512];
}

/// <summary><c>struct kvm_clock_data</c>; nanoseconds.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmClockData
{
    public ulong Clock;
    public uint Flags, Pad;
    public ulong Realtime, HostTsc;
    public fixed uint Padding[4];
}

/// <summary><c>struct kvm_dirty_log</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmDirtyLog
{
    public uint Slot, Pad;
    public ulong Bitmap;
}

/// <summary><c>struct kvm_userspace_memory_region</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmMemoryRegion
{
    public uint Slot, Flags;
    public ulong GuestPhysicalAddress, MemorySize, UserspaceAddress;
}

/// <summary><c>struct kvm_irq_level</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmIrqLevel
{
    public uint Irq, Level;
}

/// <summary><c>struct kvm_irqfd</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmIrqFd
{
    public uint Fd, Gsi, Flags, ResampleFd;
    public fixed byte Pad[16];
}

/// <summary><c>struct kvm_ioeventfd</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal unsafe struct KvmIoEventFd
{
    public ulong DataMatch, Address;
    public uint Length;
    public int Fd;
    public uint Flags;
    public fixed byte Pad[36];
}

/// <summary><c>struct kvm_mp_state</c>.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct KvmMpState
{
    public uint State;
}

/// <summary><c>struct kvm_signal_mask</c> with the kernel's own 8-byte sigset behind it.</summary>
[StructLayout(LayoutKind.Sequential, Pack = 4)]
internal struct KvmSignalMask
{
    public uint Length;
    public ulong Signals;
}

/// <summary><c>struct kvm_run</c>, as far as it is read. Lives in memory shared with the kernel.</summary>
[StructLayout(LayoutKind.Explicit, Size = 168)]
internal unsafe struct KvmRun
{
    [FieldOffset(1)] public byte ImmediateExit;
    [FieldOffset(8)] public uint ExitReason;

    [FieldOffset(32)] public ulong HardwareExitReason;

    [FieldOffset(32)] public byte IoDirection;
    [FieldOffset(33)] public byte IoSize;
    [FieldOffset(34)] public ushort IoPort;
    [FieldOffset(36)] public uint IoCount;
    [FieldOffset(40)] public ulong IoDataOffset;

    [FieldOffset(32)] public ulong MmioAddress;
    [FieldOffset(40)] public fixed byte MmioData[8];
    [FieldOffset(48)] public uint MmioLength;
    [FieldOffset(52)] public byte MmioIsWrite;

    [FieldOffset(32)] public uint InternalSuberror;
    [FieldOffset(36)] public uint InternalCount;
    [FieldOffset(40)] public fixed ulong InternalData[16];

    [FieldOffset(32)] public uint SystemEventType;
}
