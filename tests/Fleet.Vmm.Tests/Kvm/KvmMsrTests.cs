using Fleet.Vmm.Kvm;

namespace Fleet.Vmm.Tests.Kvm;

public sealed class KvmMsrTests
{
    private const uint SysenterCs = 0x174;
    private const uint ApicBase = 0x1b;
    private const uint MtrrDefaultType = 0x2ff;

    /// <summary>An APIC above all addresses; a memory type that there is not.</summary>
    private static readonly KvmMsrEntry[] Impossible =
    [
        new() { Index = ApicBase, Data = ulong.MaxValue },
        new() { Index = MtrrDefaultType, Data = 0xff },
    ];

    [SkippableFact]
    public void Should_go_on_behind_what_kvm_refuses()
    {
        Skip.IfNot(File.Exists("/dev/kvm"), "there is no /dev/kvm on this machine");
        using var system = new KvmSystem();
        using var vm = system.CreateVm();
        vm.CreateIrqChip();
        using var vcpu = vm.CreateVcpu(0, system.VcpuMapSize);
        var good = new KvmMsrEntry { Index = SysenterCs, Data = 8 };
        Assert.Empty(vcpu.SetMsrs([]));
        Assert.Empty(vcpu.SetMsrs([good]));
        Assert.Equal([ApicBase, MtrrDefaultType], vcpu.SetMsrs([Impossible[0], good, good, Impossible[1], good]));
        Assert.Equal([MtrrDefaultType], vcpu.SetMsrs([good, Impossible[1]]));
    }
}
