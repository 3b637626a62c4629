using System.Runtime.InteropServices;

namespace Fleet.Vmm.Kvm;

/// <summary>Request numbers and constants of linux/kvm.h, x86-64. The tests compare them with the system's headers.</summary>
internal static unsafe partial class KvmCalls
{
    public const uint GetApiVersion = 0xae00;
    public const uint CreateVm = 0xae01;
    public const uint CheckExtension = 0xae03;
    public const uint GetVcpuMmapSize = 0xae04;
    public const uint GetSupportedCpuid = 0xc008ae05;

    public const uint CreateVcpu = 0xae41;
    public const uint SetUserMemoryRegion = 0x4020ae46;
    public const uint SetTssAddress = 0xae47;
    public const uint CreateIrqChip = 0xae60;
    public const uint IrqLine = 0x4008ae61;
    public const uint IrqFd = 0x4020ae76;
    public const uint IoEventFd = 0x4040ae79;
    public const uint CreatePit2 = 0x4040ae77;

    public const uint Run = 0xae80;
    public const uint GetRegs = 0x8090ae81;
    public const uint SetRegs = 0x4090ae82;
    public const uint GetSregs = 0x8138ae83;
    public const uint SetSregs = 0x4138ae84;
    public const uint SetMsrs = 0x4008ae89;
    public const uint SetSignalMask = 0x4004ae8b;
    public const uint SetFpu = 0x41a0ae8d;
    public const uint GetLapic = 0x8400ae8e;
    public const uint SetLapic = 0x4400ae8f;
    public const uint SetCpuid2 = 0x4008ae90;
    public const uint GetMpState = 0x8004ae98;
    public const uint GetVcpuEvents = 0x8040ae9f;
    public const uint KvmClockControl = 0xaead;

    public const uint GetMsrIndexList = 0xc004ae02;
    public const uint GetIrqChip = 0xc208ae62;
    public const uint SetIrqChip = 0x8208ae63;
    public const uint SetClock = 0x4030ae7b;
    public const uint GetClock = 0x8030ae7c;
    public const uint GetPit2 = 0x8070ae9f;
    public const uint SetPit2 = 0x4070aea0;
    public const uint GetMsrs = 0xc008ae88;
    public const uint GetCpuid2 = 0xc008ae91;
    public const uint SetMpState = 0x4004ae99;
    public const uint SetVcpuEvents = 0x4040aea0;
    public const uint GetDebugRegs = 0x8080aea1;
    public const uint SetDebugRegs = 0x4080aea2;
    public const uint SetTscKhz = 0xaea2;
    public const uint GetTscKhz = 0xaea3;
    public const uint GetXsave = 0x9000aea4;
    public const uint SetXsave = 0x5000aea5;
    public const uint GetXcrs = 0x8188aea6;
    public const uint SetXcrs = 0x4188aea7;

    public const uint CapabilityIrqChip = 0;
    public const uint CapabilityUserMemory = 3;
    public const uint CapabilitySetTssAddress = 4;
    public const uint CapabilityExtendedCpuid = 7;
    public const uint CapabilityMpState = 14;
    public const uint CapabilityPit2 = 33;
    public const uint CapabilityVcpuEvents = 41;
    public const uint CapabilityMaxVcpus = 66;
    public const uint CapabilityImmediateExit = 136;

    public const uint ExitUnknown = 0;
    public const uint ExitIo = 2;
    public const uint ExitMmio = 6;
    public const uint ExitIrqWindowOpen = 7;
    public const uint ExitShutdown = 8;
    public const uint ExitFailEntry = 9;
    public const uint ExitInterrupted = 10;
    public const uint ExitInternalError = 17;
    public const uint ExitSystemEvent = 24;

    public const byte IoOut = 1;

    public const uint MpStateRunnable = 0;
    public const uint MpStateHalted = 3;

    public const uint PitSpeakerDummy = 1;
    public const uint IoEventFdDataMatch = 1;
    public const uint CpuidSignificantIndex = 1;

    public const uint SystemEventShutdown = 1;
    public const uint SystemEventReset = 2;

    /// <summary>Bytes of a request's structure, which its number says (asm-generic/ioctl.h).</summary>
    public static int SizeOf(uint request) => (int)(request >> 16) & 0x3fff;

    /// <summary>
    /// ioctl(2). Never SuppressGCTransition on this one: a thread inside KVM_RUN must count as outside managed code,
    /// or a collection would wait for the guest.
    /// </summary>
    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    public static partial int Ioctl(int fd, nuint request, nint argument);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    public static partial int Ioctl(int fd, nuint request, void* argument);
}
