using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Boot;

/// <summary>One entry of the map that the guest is given.</summary>
/// <param name="Start">Guest-physical address.</param>
/// <param name="Size">Bytes.</param>
/// <param name="Type">1 = memory, 2 = reserved; the values of e820 and of PVH alike.</param>
internal readonly record struct MemoryMapEntry(ulong Start, ulong Size, uint Type);

/// <summary>What the guest is told about its memory.</summary>
internal static class MemoryMap
{
    public const uint Usable = 1;
    public const uint Reserved = 2;

    /// <summary>Conventional memory; the tables of ACPI and MP; the rest of low memory; high memory if there is any.</summary>
    public static MemoryMapEntry[] Of(GuestMemory memory)
    {
        var entries = new MemoryMapEntry[memory.High.Size > 0 ? 4 : 3];
        entries[0] = new(0, GuestLayout.MpTable, Usable);
        entries[1] = new(GuestLayout.MpTable, GuestLayout.HighMemory - GuestLayout.MpTable, Reserved);
        entries[2] = new(GuestLayout.HighMemory, memory.Low.Size - GuestLayout.HighMemory, Usable);
        if (memory.High.Size > 0)
        {
            entries[3] = new(memory.High.Start, memory.High.Size, Usable);
        }

        return entries;
    }
}
