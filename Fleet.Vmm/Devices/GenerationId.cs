using Fleet.Vmm.Boot;
using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Devices;

/// <summary>
/// The virtual machine generation id: 16 random bytes in reserved memory that are others after every restore, so that a
/// guest mixes new entropy into its random generator and two clones don't draw the same numbers. ACPI tells where it is.
/// </summary>
internal static class GenerationId
{
    public const int Size = 16;

    /// <summary>A new id, of a new guest.</summary>
    public static void Write(GuestMemory memory) => RandomBytes.Fill(memory.Slice(GuestLayout.GenerationId, Size));

    /// <summary>A new id for a guest that knows another one, and the interrupt that tells it. Before its vCPUs run.</summary>
    public static void Renew(GuestMemory memory, KvmVm vm)
    {
        Write(memory);
        vm.SetIrqLine(GuestLayout.GenerationIdGsi, true);
        vm.SetIrqLine(GuestLayout.GenerationIdGsi, false);
    }
}
