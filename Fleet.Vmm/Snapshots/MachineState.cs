using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

namespace Fleet.Vmm.Snapshots;

/// <summary>The whole state of a machine but its memory: vCPUs, VM, devices, in this order.</summary>
internal static class MachineState
{
    private const int MostVcpus = 32;

    /// <summary>Writes the state of a machine whose vCPUs are parked and whose devices stand still.</summary>
    /// <exception cref="SystemCallException">KVM did not tell all.</exception>
    public static void Save(MachineParts parts, StateWriter writer)
    {
        var xsave = XsaveSize(parts.Vm);
        var msrs = SavedMsrs.Of(parts.ListedMsrs, parts.NamedMsrs);
        writer.U32((uint)parts.Vcpus.Length);
        foreach (var vcpu in parts.Vcpus)
        {
            VcpuState.Take(vcpu, xsave, msrs).Write(writer);
        }

        VmState.Take(parts.Vm).Write(writer);
        writer.Block(parts.Console.Save);
        writer.Flag(parts.StatusPort is not null);
        if (parts.StatusPort is { } statusPort)
        {
            writer.Block(statusPort.Save);
        }

        writer.Block(parts.Keyboard.Save);
        writer.U32((uint)parts.Virtio.Count);
        foreach (var slot in parts.Virtio)
        {
            writer.Block(slot.Transport.Save);
        }
    }

    /// <summary>Puts the state into a machine that was built from the same configuration and has never run.</summary>
    /// <param name="parts">The machine.</param>
    /// <param name="state">What <see cref="Save"/> wrote.</param>
    /// <param name="followRealtime">See <see cref="VmState.Restore"/>.</param>
    /// <param name="canScaleTsc">KVM_CAP_TSC_CONTROL.</param>
    /// <param name="onWarning">Told what the guest may notice.</param>
    /// <exception cref="SnapshotException">It is no such state.</exception>
    /// <exception cref="SystemCallException">KVM does not take it.</exception>
    public static void Restore(MachineParts parts, ReadOnlySpan<byte> state, bool followRealtime, bool canScaleTsc, Action<string> onWarning)
    {
        var reader = new StateReader(state);
        var vcpus = ReadVcpus(ref reader);
        if (vcpus.Length != parts.Vcpus.Length)
        {
            throw new SnapshotException($"the state is of {vcpus.Length} vCPUs, the configuration of {parts.Vcpus.Length}");
        }

        var vm = VmState.Read(ref reader);
        var xsave = XsaveSize(parts.Vm);
        for (var i = 0; i < vcpus.Length; i++)
        {
            vcpus[i].Restore(parts.Vcpus[i], xsave, canScaleTsc, i == 0 ? onWarning : static _ => { });
        }

        vm.Restore(parts.Vm, followRealtime);

        // What a template of the first machine named has to be in the next snapshot too.
        parts.NamedMsrs = Array.ConvertAll(vcpus[0].Msrs, static msr => msr.Index);
        var console = new StateReader(reader.Block());
        parts.Console.Restore(ref console);
        console.End("the console's state");
        if (reader.Flag() != parts.StatusPort is not null)
        {
            throw new SnapshotException("state and configuration do not agree on whether there is a status port");
        }

        if (parts.StatusPort is { } port)
        {
            var status = new StateReader(reader.Block());
            port.Restore(ref status);
            status.End("the status port's state");
        }

        var keyboard = new StateReader(reader.Block());
        parts.Keyboard.Restore(ref keyboard);
        keyboard.End("the keyboard's state");
        RestoreVirtio(parts.Virtio, ref reader);
        reader.End("the machine's state");
    }

    private static VcpuState[] ReadVcpus(ref StateReader reader)
    {
        var vcpus = new VcpuState[reader.Number(MostVcpus, "the number of vCPUs")];
        for (var i = 0; i < vcpus.Length; i++)
        {
            vcpus[i] = VcpuState.Read(ref reader);
        }

        return vcpus;
    }

    private static void RestoreVirtio(IReadOnlyList<VirtioSlot> slots, ref StateReader reader)
    {
        var count = reader.Number(int.MaxValue, "the number of virtio devices");
        if (count != slots.Count)
        {
            throw new SnapshotException($"the state is of {count} virtio devices, the configuration of {slots.Count}");
        }

        foreach (var slot in slots)
        {
            var device = new StateReader(reader.Block());
            slot.Transport.Restore(ref device);
            device.End($"the state of virtio device {slot.Device.Id}");
        }
    }

    private static int XsaveSize(KvmVm vm) => Math.Max(KvmVcpu.PlainXsaveSize, vm.XsaveSize);
}
