using Fleet.Vmm.Devices;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

namespace Fleet.Vmm.Snapshots;

/// <summary>
/// The state of a whole machine but its memory: interrupt controllers, timer and clock, vCPUs, and what its devices hold.
/// Saved while the machine stands still, put back into one that never ran.
/// </summary>
internal static class MachineState
{
    // PIC, PIC, IOAPIC: struct kvm_irqchip begins with which one it is about.
    private static readonly uint[] IrqChips = [0, 1, 2];

    /// <summary>In struct kvm_clock_data: behind the clock's value.</summary>
    private const int ClockFlagsOffset = 8;

    /// <summary>KVM_CLOCK_REALTIME: the guest's clock goes on by the time that has passed since.</summary>
    private const uint ClockRealtime = 4;

    /// <summary>Throws <see cref="SystemCallException"/>.</summary>
    public static void Save(MachineParts parts, StateWriter state)
    {
        foreach (var chip in IrqChips)
        {
            state.Bytes(parts.Vm.Read(KvmCalls.GetIrqChip, "KVM_GET_IRQCHIP", BitConverter.GetBytes(chip)));
        }

        state.Bytes(parts.Vm.Read(KvmCalls.GetPit2, "KVM_GET_PIT2"));
        state.Bytes(parts.Vm.Read(KvmCalls.GetClock, "KVM_GET_CLOCK"));
        state.UInt32((uint)parts.Vcpus.Length);
        foreach (var vcpu in parts.Vcpus)
        {
            VcpuState.Save(vcpu, vcpu.ReadCpuid(), parts.MsrIndices, state);
        }

        parts.Console.Save(state);
        state.Flag(parts.StatusPort is not null);
        parts.StatusPort?.Save(state);
        parts.Keyboard.Save(state);
        state.UInt32((uint)parts.Virtio.Count);
        foreach (var slot in parts.Virtio)
        {
            state.Text(slot.Device.Path);
            slot.Transport.Save(state);
        }
    }

    /// <summary>Throws <see cref="SystemCallException"/> or <see cref="SnapshotException"/>; the machine is not to be used then.</summary>
    /// <param name="parts">A machine of the same configuration, which never ran.</param>
    /// <param name="saved">What <see cref="Save"/> put down.</param>
    /// <param name="goesOnInRealTime">The guest's clock has gone on meanwhile.</param>
    public static void Restore(MachineParts parts, ReadOnlySpan<byte> saved, bool goesOnInRealTime)
    {
        var state = new StateReader(saved);
        foreach (var chip in IrqChips)
        {
            var bytes = state.Bytes(KvmCalls.SizeOf(KvmCalls.GetIrqChip));
            if (BitConverter.ToUInt32(bytes) != chip)
            {
                throw new SnapshotException("its interrupt controllers are mixed up");
            }

            parts.Vm.Write(KvmCalls.SetIrqChip, bytes, "KVM_SET_IRQCHIP");
        }

        parts.Vm.Write(KvmCalls.SetPit2, state.Bytes(KvmCalls.SizeOf(KvmCalls.GetPit2)), "KVM_SET_PIT2");
        Span<byte> clock = stackalloc byte[KvmCalls.SizeOf(KvmCalls.GetClock)];
        state.Bytes(clock.Length).CopyTo(clock);
        var flags = BitConverter.ToUInt32(clock[ClockFlagsOffset..]) & (goesOnInRealTime ? ClockRealtime : 0);
        BitConverter.TryWriteBytes(clock[ClockFlagsOffset..], flags);
        parts.Vm.Write(KvmCalls.SetClock, clock, "KVM_SET_CLOCK");
        var vcpus = state.UInt32();
        if (vcpus != parts.Vcpus.Length)
        {
            throw new SnapshotException($"it has {vcpus} vCPUs and the configuration in it {parts.Vcpus.Length}");
        }

        foreach (var vcpu in parts.Vcpus)
        {
            VcpuState.Restore(vcpu, ref state);
        }

        parts.Console.Restore(ref state);
        if (state.Flag() != parts.StatusPort is not null)
        {
            throw new SnapshotException("it has a status port and its configuration none, or the other way round");
        }

        parts.StatusPort?.Restore(ref state);
        parts.Keyboard.Restore(ref state);
        RestoreDevices(parts, ref state);
        state.End();
    }

    private static void RestoreDevices(MachineParts parts, ref StateReader state)
    {
        var devices = state.UInt32();
        if (devices != parts.Virtio.Count)
        {
            throw new SnapshotException($"it has {devices} devices and the configuration in it {parts.Virtio.Count}");
        }

        foreach (var slot in parts.Virtio)
        {
            var path = state.Text();
            if (path != slot.Device.Path)
            {
                throw new SnapshotException($"it has the device {path} where {slot.Device.Path} belongs");
            }

            slot.Transport.Restore(ref state);
        }
    }
}
