using Fleet.Vmm.Kvm;
using System.Text;
using Fleet.Vmm.Jail;

namespace Fleet.Vmm.Tests.Jail;

/// <summary>Our names and the kernel's.</summary>
internal static class ThreadFilterNames
{
    public static readonly (string C, long Ours)[] Requests =
    [
        ("KVM_GET_MSR_INDEX_LIST", KvmCalls.GetMsrIndexList), ("KVM_SET_IDENTITY_MAP_ADDR", RequestNumbers.KvmSetIdentityMapAddress),
        ("KVM_GET_DIRTY_LOG", RequestNumbers.KvmGetDirtyLog), ("KVM_GET_IRQCHIP", KvmCalls.GetIrqChip), ("KVM_SET_IRQCHIP", KvmCalls.SetIrqChip),
        ("KVM_SET_GSI_ROUTING", RequestNumbers.KvmSetGsiRouting), ("KVM_GET_CLOCK", KvmCalls.GetClock), ("KVM_SET_CLOCK", KvmCalls.SetClock),
        ("KVM_GET_PIT2", KvmCalls.GetPit2), ("KVM_SET_PIT2", KvmCalls.SetPit2), ("KVM_ENABLE_CAP", RequestNumbers.KvmEnableCapability),
        ("KVM_GET_MSRS", KvmCalls.GetMsrs), ("KVM_GET_FPU", RequestNumbers.KvmGetFpu), ("KVM_GET_CPUID2", KvmCalls.GetCpuid2),
        ("KVM_SET_MP_STATE", KvmCalls.SetMpState), ("KVM_SET_VCPU_EVENTS", KvmCalls.SetVcpuEvents), ("KVM_GET_DEBUGREGS", KvmCalls.GetDebugRegs),
        ("KVM_SET_DEBUGREGS", KvmCalls.SetDebugRegs), ("KVM_SET_TSC_KHZ", KvmCalls.SetTscKhz), ("KVM_GET_TSC_KHZ", KvmCalls.GetTscKhz),
        ("KVM_GET_XSAVE", KvmCalls.GetXsave), ("KVM_SET_XSAVE", KvmCalls.SetXsave), ("KVM_GET_XSAVE2", RequestNumbers.KvmGetXsave2),
        ("KVM_GET_XCRS", KvmCalls.GetXcrs), ("KVM_SET_XCRS", KvmCalls.SetXcrs), ("UFFDIO_API", RequestNumbers.UserfaultApi),
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
