namespace Fleet.Vmm.Snapshots;

/// <summary>Which model-specific registers belong to a vCPU's state: KVM's own list, and what it leaves to the VMM.</summary>
internal static class SavedMsrs
{
    public const uint Tsc = 0x10;
    public const uint TscDeadline = 0x6e0;

    private const uint MachineCheckControl = 0x17b;

    /// <summary>First and last of ranges that KVM lists and that are not the guest's: no guest of ours has these features.</summary>
    private static readonly (uint First, uint Last)[] LeftOut =
    [
        // Performance counters: CPUID leaf 0xa is empty.
        (0xc1, 0xc8), (0x186, 0x18d), (0x309, 0x30c), (0x345, 0x345), (0x38d, 0x390), (0x3f1, 0x3f2), (0x4c1, 0x4c8),
        (0xc0000300, 0xc0000303), (0xc0010000, 0xc0010007), (0xc0010200, 0xc001020b),

        // What an Intel hypervisor inside the guest would be told it can do; nested guests are not saved.
        (0x480, 0x493),

        // Hyper-V's, which are offered only with its CPUID leaves.
        (0x40000000, 0x400001ff),
        (MachineCheckControl, MachineCheckControl),
    ];

    /// <summary>Memory types and machine check banks: state of every vCPU, but not in KVM's list.</summary>
    private static readonly (uint First, uint Last)[] Added =
    [
        (0x200, 0x20f), (0x250, 0x250), (0x258, 0x259), (0x268, 0x26f), (0x277, 0x277), (0x2ff, 0x2ff), (0x400, 0x47f),
    ];

    /// <summary>What is to be read, each once; the deadline timer last, since setting it needs the time stamp counter.</summary>
    /// <param name="listed">KVM_GET_MSR_INDEX_LIST.</param>
    /// <param name="named">Those that a CPU template or an earlier snapshot named.</param>
    public static uint[] Of(ReadOnlySpan<uint> listed, ReadOnlySpan<uint> named)
    {
        var all = new SortedSet<uint>();
        foreach (var index in listed)
        {
            if (!Array.Exists(LeftOut, range => index >= range.First && index <= range.Last))
            {
                all.Add(index);
            }
        }

        foreach (var (first, last) in Added)
        {
            for (var index = first; index <= last; index++)
            {
                all.Add(index);
            }
        }

        foreach (var index in named)
        {
            all.Add(index);
        }

        var deadline = all.Remove(TscDeadline);
        return deadline ? [.. all, TscDeadline] : [.. all];
    }
}
