using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Kvm;

/// <content>What of a VM only a snapshot reads and puts back: timer, clock, interrupt controllers, and which pages the guest wrote.</content>
internal sealed unsafe partial class KvmVm
{
    public const uint FirstPic = 0;
    public const uint SecondPic = 1;
    public const uint IoApic = 2;

    public KvmPitState Pit
    {
        get
        {
            KvmPitState state;
            Control(KvmCalls.GetPit2, &state, "KVM_GET_PIT2");
            return state;
        }
        set => Control(KvmCalls.SetPit2, &value, "KVM_SET_PIT2");
    }

    /// <summary>The clock that kvm-clock shows the guest.</summary>
    public KvmClockData Clock
    {
        get
        {
            KvmClockData clock;
            Control(KvmCalls.GetClock, &clock, "KVM_GET_CLOCK");
            return clock;
        }
        set => Control(KvmCalls.SetClock, &value, "KVM_SET_CLOCK");
    }

    /// <summary>Bytes of a vCPU's registers that KVM_GET_XSAVE2 gives; 0 where there is only KVM_GET_XSAVE.</summary>
    public int XsaveSize => Math.Max(0, KvmCalls.Ioctl(_fd, KvmCalls.CheckExtension, (nint)KvmCalls.CapabilityXsave2));

    public KvmIrqChip GetIrqChip(uint id)
    {
        var chip = new KvmIrqChip { Id = id };
        Control(KvmCalls.GetIrqChip, &chip, "KVM_GET_IRQCHIP");
        return chip;
    }

    public void SetIrqChip(in KvmIrqChip chip)
    {
        var copy = chip;
        Control(KvmCalls.SetIrqChip, &copy, "KVM_SET_IRQCHIP");
    }

    /// <summary>Takes which pages of a slot were written since the last time, a bit each, and begins anew.</summary>
    /// <remarks>The caller answers for a bit per page at <paramref name="bitmap"/>, rounded up to 8 bytes.</remarks>
    public void TakeDirtyLog(uint slot, ulong* bitmap)
    {
        var log = new KvmDirtyLog { Slot = slot, Bitmap = (ulong)bitmap };
        Control(KvmCalls.GetDirtyLog, &log, "KVM_GET_DIRTY_LOG");
    }
}
