using System.Text;
using Fleet.Vmm.Jail;

namespace Fleet.Vmm.Tests.Jail;

/// <summary>Our names and the kernel's.</summary>
internal static class ThreadFilterNames
{
    public static readonly (string C, long Ours)[] Requests =
    [
        ("KVM_GET_MSR_INDEX_LIST", RequestNumbers.KvmGetMsrIndexList), ("KVM_SET_IDENTITY_MAP_ADDR", RequestNumbers.KvmSetIdentityMapAddress),
        ("KVM_GET_DIRTY_LOG", RequestNumbers.KvmGetDirtyLog), ("KVM_GET_IRQCHIP", RequestNumbers.KvmGetIrqChip), ("KVM_SET_IRQCHIP", RequestNumbers.KvmSetIrqChip),
        ("KVM_SET_GSI_ROUTING", RequestNumbers.KvmSetGsiRouting), ("KVM_GET_CLOCK", RequestNumbers.KvmGetClock), ("KVM_SET_CLOCK", RequestNumbers.KvmSetClock),
        ("KVM_GET_PIT2", RequestNumbers.KvmGetPit2), ("KVM_SET_PIT2", RequestNumbers.KvmSetPit2), ("KVM_ENABLE_CAP", RequestNumbers.KvmEnableCapability),
        ("KVM_GET_MSRS", RequestNumbers.KvmGetMsrs), ("KVM_GET_FPU", RequestNumbers.KvmGetFpu), ("KVM_GET_CPUID2", RequestNumbers.KvmGetCpuid2),
        ("KVM_SET_MP_STATE", RequestNumbers.KvmSetMpState), ("KVM_SET_VCPU_EVENTS", RequestNumbers.KvmSetVcpuEvents), ("KVM_GET_DEBUGREGS", RequestNumbers.KvmGetDebugRegs),
        ("KVM_SET_DEBUGREGS", RequestNumbers.KvmSetDebugRegs), ("KVM_SET_TSC_KHZ", RequestNumbers.KvmSetTscKhz), ("KVM_GET_TSC_KHZ", RequestNumbers.KvmGetTscKhz),
        ("KVM_GET_XSAVE", RequestNumbers.KvmGetXsave), ("KVM_SET_XSAVE", RequestNumbers.KvmSetXsave), ("KVM_GET_XSAVE2", RequestNumbers.KvmGetXsave2),
        ("KVM_GET_XCRS", RequestNumbers.KvmGetXcrs), ("KVM_SET_XCRS", RequestNumbers.KvmSetXcrs), ("UFFDIO_API", RequestNumbers.UserfaultApi),
        ("UFFDIO_REGISTER", RequestNumbers.UserfaultRegister), ("USERFAULTFD_IOC_NEW", RequestNumbers.UserfaultNew), ("TCGETS", RequestNumbers.TerminalGet),
        ("TCSETS", RequestNumbers.TerminalSet), ("TIOCGPGRP", RequestNumbers.TerminalGroup), ("SIOCGIFINDEX", RequestNumbers.InterfaceIndex),
    ];

    /// <summary>RtSigprocmask is rt_sigprocmask, Accept4 is accept4.</summary>
    public static string Native(string name)
    {
        var native = new StringBuilder();
        foreach (var c in name)
        {
            native.Append(char.IsAsciiLetterUpper(c) && native.Length > 0 ? "_" : "").Append(char.ToLowerInvariant(c));
        }

        return native.ToString();
    }
}
