namespace Fleet.Vmm.Jail;

/// <summary>Requests of ioctl(2) and other constants that the filters name; where a device's own file has them too, those are used.</summary>
internal static class RequestNumbers
{
    // linux/kvm.h: what snapshots and CPU templates read and write beyond what a boot needs.
    public const uint KvmSetIdentityMapAddress = 0x4008ae48;
    public const uint KvmGetDirtyLog = 0x4010ae42;
    public const uint KvmSetGsiRouting = 0x4008ae6a;
    public const uint KvmEnableCapability = 0x4068aea3;
    public const uint KvmGetFpu = 0x81a0ae8c;
    public const uint KvmGetXsave2 = 0x9000aecf;

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
