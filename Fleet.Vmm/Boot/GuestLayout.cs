namespace Fleet.Vmm.Boot;

/// <summary>Where things stand in the guest's address space; Firecracker's map, so that its guests feel at home.</summary>
internal static class GuestLayout
{
    public const ulong Gdt = 0x500;
    public const ulong Idt = 0x520;
    public const ulong PvhStartInfo = 0x6000;
    public const ulong PvhModules = 0x6040;
    public const ulong PvhMemoryMap = 0x7000;
    public const ulong ZeroPage = 0x7000;
    public const ulong BootStack = 0x8ff0;
    public const ulong PageMapLevel4 = 0x9000;
    public const ulong PageDirectoryPointers = 0xa000;
    public const ulong PageDirectory = 0xb000;
    public const ulong CommandLine = 0x20000;

    /// <summary>End of the conventional memory that the guest may use; the MP table stands right here.</summary>
    public const ulong MpTable = 0x9fc00;

    public const ulong MpTableEnd = 0xa0000;

    /// <summary>The root pointer of ACPI, where a guest searches for it when nobody tells it.</summary>
    public const ulong Rsdp = 0xe0000;

    public const ulong AcpiTables = 0xe1000;

    /// <summary>The generation id, alone in its page; reserved in the memory map as all of this region.</summary>
    public const ulong GenerationId = 0xe6000;

    /// <summary>1 MiB: nothing of a kernel may be loaded below.</summary>
    public const ulong HighMemory = 0x100000;

    /// <summary>What the start-up page tables map: the first GiB, one to one.</summary>
    public const ulong IdentityMapped = 1UL << 30;

    /// <summary>Registers of virtio devices, a page each; Firecracker's addresses (its page before is the boot timer's).</summary>
    public const ulong VirtioDevices = 0xc0001000;

    /// <summary>Interrupts of virtio devices, one each, up to the last pin of the I/O APIC but one.</summary>
    public const uint FirstVirtioGsi = 5;

    public const int MostVirtioDevices = 18;

    /// <summary>The last pin: the generation id changed.</summary>
    public const uint GenerationIdGsi = FirstVirtioGsi + MostVirtioDevices;

    public const uint IoApic = 0xfec00000;
    public const uint LocalApic = 0xfee00000;

    /// <summary>Three pages for KVM, in the middle of nothing.</summary>
    public const uint KvmTss = 0xfffbd000;

    /// <summary>The kernel's own limit on x86-64, terminating NUL included (COMMAND_LINE_SIZE).</summary>
    public const int CommandLineCapacity = 2048;

    public const ushort Com1Port = 0x3f8;
    public const uint Com1Gsi = 4;
    public const ushort Com2Port = 0x2f8;
    public const uint Com2Gsi = 3;
    public const ushort KeyboardDataPort = 0x60;
    public const ushort KeyboardCommandPort = 0x64;
    public const uint KeyboardGsi = 1;

    /// <summary>Sleep control, sleep status and reset registers of hardware-reduced ACPI, one byte each.</summary>
    public const ushort PowerPort = 0x600;

    public const ushort SleepControlPort = PowerPort;
    public const ushort SleepStatusPort = PowerPort + 1;
    public const ushort ResetPort = PowerPort + 2;

    /// <summary>What the guest writes to <see cref="ResetPort"/>.</summary>
    public const byte ResetValue = 1;

    /// <summary>SLP_TYP of S5 (soft off) in <c>\_S5</c>.</summary>
    public const byte SoftOffType = 5;
}
