namespace Fleet.Vmm.Jail;

/// <summary>Requests of ioctl(2) and other constants that the filters name; where a device's own file has them too, those are used.</summary>
internal static class RequestNumbers
{
    // linux/kvm.h: what snapshots and CPU templates read and write beyond what a boot needs.
    public const uint KvmGetMsrIndexList = 0xc004ae02;
    public const uint KvmSetIdentityMapAddress = 0x4008ae48;
    public const uint KvmGetDirtyLog = 0x4010ae42;
    public const uint KvmGetIrqChip = 0xc208ae62;
    public const uint KvmSetIrqChip = 0x8208ae63;
    public const uint KvmSetGsiRouting = 0x4008ae6a;
    public const uint KvmGetClock = 0x8030ae7c;
    public const uint KvmSetClock = 0x4030ae7b;
    public const uint KvmGetPit2 = 0x8070ae9f;
    public const uint KvmSetPit2 = 0x4070aea0;
    public const uint KvmEnableCapability = 0x4068aea3;
    public const uint KvmGetMsrs = 0xc008ae88;
    public const uint KvmGetFpu = 0x81a0ae8c;
    public const uint KvmGetCpuid2 = 0xc008ae91;
    public const uint KvmSetMpState = 0x4004ae99;
    public const uint KvmSetVcpuEvents = 0x4040aea0;
    public const uint KvmGetDebugRegs = 0x8080aea1;
    public const uint KvmSetDebugRegs = 0x4080aea2;
    public const uint KvmSetTscKhz = 0xaea2;
    public const uint KvmGetTscKhz = 0xaea3;
    public const uint KvmGetXsave = 0x9000aea4;
    public const uint KvmSetXsave = 0x5000aea5;
    public const uint KvmGetXsave2 = 0x9000aecf;
    public const uint KvmGetXcrs = 0x8188aea6;
    public const uint KvmSetXcrs = 0x4188aea7;

    // linux/userfaultfd.h
    public const uint UserfaultApi = 0xc018aa3f;
    public const uint UserfaultRegister = 0xc020aa00;
    public const uint UserfaultNew = 0xaa00;

    // asm-generic/ioctls.h, linux/sockios.h
    public const uint TerminalGet = 0x5401;
    public const uint TerminalSet = 0x5402;
    public const uint TerminalGroup = 0x540f;
    public const uint InterfaceIndex = 0x8933;
}
