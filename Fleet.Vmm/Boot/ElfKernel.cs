using System.Buffers.Binary;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Boot;

/// <summary>
/// An uncompressed kernel (vmlinux, or any other system with a PVH note): its segments go to their physical addresses.
/// Entered by PVH when the note says where, else as 64-bit Linux at the ELF entry.
/// </summary>
internal static class ElfKernel
{
    private const int HeaderSize = 64;
    private const int SegmentHeaderSize = 56;

    /// <summary>A vmlinux has five; more than this is no kernel.</summary>
    private const int MostSegments = 64;

    /// <summary>A vmlinux has less than 1 KiB of notes.</summary>
    private const int MostNoteBytes = 16 * 1024;

    private const ushort Executable = 2;
    private const ushort SharedObject = 3;
    private const ushort MachineX8664 = 62;
    private const uint SegmentLoad = 1;
    private const uint SegmentNote = 4;

    /// <summary>XEN_ELFNOTE_PHYS32_ENTRY.</summary>
    private const uint PvhEntryNote = 18;

    public static LoadedKernel Load(GuestMemory memory, FileContent file)
    {
        Span<byte> header = stackalloc byte[HeaderSize];
        if (!file.TryRead(0, header))
        {
            throw KernelImage.Invalid("its ELF header is cut off");
        }

        if (header[4] != 2 || header[5] != 1)
        {
            throw KernelImage.Invalid("it is not a 64-bit little-endian ELF file");
        }

        if (U16(header, 16) is not (Executable or SharedObject) || U16(header, 18) != MachineX8664)
        {
            throw KernelImage.Invalid("it is not an executable ELF file for x86-64");
        }

        var entry = U64(header, 24);
        var tableOffset = U64(header, 32);
        var segments = U16(header, 56);
        if (U16(header, 54) != SegmentHeaderSize || segments is 0 or > MostSegments)
        {
            throw KernelImage.Invalid($"it has {segments} ELF segments of {U16(header, 54)} bytes each");
        }

        Span<byte> table = stackalloc byte[MostSegments * SegmentHeaderSize];
        table = table[..(segments * SegmentHeaderSize)];
        if (!file.TryRead(tableOffset, table))
        {
            throw KernelImage.Invalid("its table of ELF segments is cut off");
        }

        ulong end = 0;
        ulong pvhEntry = 0;
        var entryLoaded = false;
        var pvhEntryLoaded = false;

        // Notes first: which entry counts must be known before the segments are checked against it.
        for (var i = 0; i < segments; i++)
        {
            var segment = table.Slice(i * SegmentHeaderSize, SegmentHeaderSize);
            if (U32(segment, 0) == SegmentNote && pvhEntry == 0)
            {
                pvhEntry = FindPvhEntry(file, U64(segment, 8), U64(segment, 32));
            }
        }

        for (var i = 0; i < segments; i++)
        {
            var segment = table.Slice(i * SegmentHeaderSize, SegmentHeaderSize);
            if (U32(segment, 0) == SegmentLoad && U64(segment, 40) != 0)
            {
                var (start, size) = LoadSegment(memory, file, segment);
                end = Math.Max(end, start + size);
                entryLoaded |= entry >= start && entry - start < size;
                pvhEntryLoaded |= pvhEntry >= start && pvhEntry - start < size;
            }
        }

        if (end == 0)
        {
            throw KernelImage.Invalid("it has nothing to load");
        }

        if (pvhEntry != 0)
        {
            return pvhEntryLoaded
                ? new LoadedKernel { Mode = EntryMode.Pvh, Entry = pvhEntry, End = end }
                : throw KernelImage.Invalid($"its PVH entry 0x{pvhEntry:x} is outside its segments");
        }

        return entryLoaded && entry < GuestLayout.IdentityMapped
            ? new LoadedKernel { Mode = EntryMode.Linux64, Entry = entry, End = end }
            : throw KernelImage.Invalid($"its entry 0x{entry:x} is outside its segments or above 1 GiB");
    }

    private static (ulong Start, ulong Size) LoadSegment(GuestMemory memory, FileContent file, ReadOnlySpan<byte> segment)
    {
        var offset = U64(segment, 8);
        var address = U64(segment, 24);
        var fileSize = U64(segment, 32);
        var memorySize = U64(segment, 40);
        if (fileSize > memorySize)
        {
            throw KernelImage.Invalid("an ELF segment is larger in the file than in memory");
        }

        if (address < GuestLayout.HighMemory)
        {
            throw KernelImage.Invalid($"an ELF segment wants to be at 0x{address:x}, below 1 MiB");
        }

        if (address >= GuestMemory.HoleStart || memorySize > GuestMemory.HoleStart - address)
        {
            throw KernelImage.Invalid($"an ELF segment wants {memorySize} bytes at 0x{address:x}, where devices live");
        }

        if (address + memorySize > memory.Low.Size)
        {
            throw KernelImage.NeedsMoreMemory(address + memorySize, memory);
        }

        // What the file does not fill is zero already: nothing has touched this memory yet, or another segment of the
        // same file has, and then the file contradicts itself at its own risk.
        return memory.TryLoad(file, offset, address, fileSize)
            ? (address, memorySize)
            : throw KernelImage.Invalid("an ELF segment is cut off");
    }

    private static ulong FindPvhEntry(FileContent file, ulong offset, ulong size)
    {
        if (size > MostNoteBytes)
        {
            throw KernelImage.Invalid($"it has {size} bytes of ELF notes");
        }

        var buffer = new byte[(int)size];
        if (!file.TryRead(offset, buffer))
        {
            throw KernelImage.Invalid("its ELF notes are cut off");
        }

        ReadOnlySpan<byte> notes = buffer;
        while (notes.Length >= 12)
        {
            var nameSize = (ulong)U32(notes, 0);
            var valueSize = (ulong)U32(notes, 4);
            var type = U32(notes, 8);
            var valueOffset = 12 + ((nameSize + 3) & ~3UL);
            var next = valueOffset + ((valueSize + 3) & ~3UL);
            if (valueOffset + valueSize > (ulong)notes.Length)
            {
                return 0;
            }

            if (type == PvhEntryNote && nameSize == 4 && notes.Slice(12, 4).SequenceEqual("Xen\0"u8))
            {
                var value = notes.Slice((int)valueOffset, (int)valueSize);
                return value.Length switch
                {
                    4 => U32(value, 0),
                    8 => U64(value, 0),
                    _ => throw KernelImage.Invalid($"its PVH note has {value.Length} bytes"),
                } is var entry and > 0 and <= uint.MaxValue
                    ? entry
                    : throw KernelImage.Invalid("its PVH entry is not a 32-bit address");
            }

            notes = next >= (ulong)notes.Length ? default : notes[(int)next..];
        }

        return 0;
    }

    private static ushort U16(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt16LittleEndian(bytes[offset..]);

    private static uint U32(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[offset..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);
}
