using Fleet.Vmm.Kvm;

namespace Fleet.Vmm.Snapshots;

/// <summary>What KVM keeps for a whole VM: timer, clock, interrupt controllers.</summary>
internal sealed record VmState
{
    public required KvmPitState Pit { get; init; }

    public required KvmClockData Clock { get; init; }

    public required KvmIrqChip FirstPic { get; init; }

    public required KvmIrqChip SecondPic { get; init; }

    public required KvmIrqChip IoApic { get; init; }

    /// <summary>Throws <see cref="Linux.SystemCallException"/>.</summary>
    public static VmState Take(KvmVm vm) => new()
    {
        Pit = vm.Pit,
        Clock = vm.Clock,
        FirstPic = vm.GetIrqChip(KvmVm.FirstPic),
        SecondPic = vm.GetIrqChip(KvmVm.SecondPic),
        IoApic = vm.GetIrqChip(KvmVm.IoApic),
    };

    public static VmState Read(ref StateReader reader) => new()
    {
        Pit = reader.Struct<KvmPitState>(),
        Clock = reader.Struct<KvmClockData>(),
        FirstPic = reader.Struct<KvmIrqChip>() with { Id = KvmVm.FirstPic },
        SecondPic = reader.Struct<KvmIrqChip>() with { Id = KvmVm.SecondPic },
        IoApic = reader.Struct<KvmIrqChip>() with { Id = KvmVm.IoApic },
    };

    public void Write(StateWriter writer)
    {
        writer.Struct(Pit);
        writer.Struct(Clock);
        writer.Struct(FirstPic);
        writer.Struct(SecondPic);
        writer.Struct(IoApic);
    }

    /// <summary>
    /// After the vCPUs: putting back the I/O APIC delivers what waits in it to their local ones.
    /// </summary>
    /// <param name="vm">A new VM.</param>
    /// <param name="followRealtime">The guest's clock goes on as if it had run all the while; otherwise from where it stopped.</param>
    public void Restore(KvmVm vm, bool followRealtime)
    {
        vm.Pit = Pit;
        var flags = followRealtime ? Clock.Flags & KvmCalls.ClockRealtime : 0;
        if (followRealtime && flags == 0)
        {
            throw new SnapshotException("clock_realtime is asked for, but the host on which the snapshot was taken could not tell the real time of its clock");
        }

        vm.Clock = new KvmClockData { Clock = Clock.Clock, Flags = flags, Realtime = flags != 0 ? Clock.Realtime : 0 };
        vm.SetIrqChip(FirstPic);
        vm.SetIrqChip(SecondPic);
        vm.SetIrqChip(IoApic);
    }
}
