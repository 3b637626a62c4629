using Fleet.Vmm.Kvm;

namespace Fleet.Vmm.Devices;

/// <summary>A device's wire to the interrupt controller.</summary>
internal interface IInterruptLine
{
    /// <summary>Any thread; the device keeps its calls in order.</summary>
    void Set(bool high);
}

/// <summary>A pin of the in-kernel controllers.</summary>
internal sealed class KvmInterruptLine(KvmVm vm, uint gsi) : IInterruptLine
{
    public void Set(bool high) => vm.SetIrqLine(gsi, high);
}
