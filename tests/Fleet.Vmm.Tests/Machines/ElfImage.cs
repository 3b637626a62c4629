using System.Buffers.Binary;

namespace Fleet.Vmm.Tests.Machines;

/// <summary>Makes ELF files with one segment of code, as small as they go.</summary>
internal static class ElfImage
{
    public const ulong LoadAddress = 0x100000;

    /// <summary>A 64-bit kernel without a PVH note: entered in long mode.</summary>
    public static byte[] Linux64(ReadOnlySpan<byte> code) => Build(code, pvhEntry: null);

    /// <summary>A kernel with a PVH note: entered in flat 32-bit mode.</summary>
    public static byte[] Pvh(ReadOnlySpan<byte> code) => Build(code, (uint)LoadAddress);

    private static byte[] Build(ReadOnlySpan<byte> code, uint? pvhEntry)
    {
        const int HeaderSize = 64;
        const int SegmentSize = 56;
        const int NoteSize = 20;
        var segments = pvhEntry is null ? 1 : 2;
        var noteOffset = HeaderSize + segments * SegmentSize;
        var codeOffset = noteOffset + (pvhEntry is null ? 0 : NoteSize);
        var file = new byte[codeOffset + code.Length];
        file[0] = 0x7f;
        "ELF"u8.CopyTo(file.AsSpan(1));
        file[4] = 2;
        file[5] = 1;
        file[6] = 1;
        U16(file, 16, 2);
        U16(file, 18, 62);
        U32(file, 20, 1);
        U64(file, 24, LoadAddress);
        U64(file, 32, HeaderSize);
        U16(file, 52, HeaderSize);
        U16(file, 54, SegmentSize);
        U16(file, 56, (ushort)segments);
        Segment(file.AsSpan(HeaderSize), 1, (ulong)codeOffset, LoadAddress, (ulong)code.Length);
        if (pvhEntry is { } entry)
        {
            Segment(file.AsSpan(HeaderSize + SegmentSize), 4, (ulong)noteOffset, 0, NoteSize);
            U32(file, noteOffset, 4);
            U32(file, noteOffset + 4, 4);
            U32(file, noteOffset + 8, 18);
            "Xen\0"u8.CopyTo(file.AsSpan(noteOffset + 12));
            U32(file, noteOffset + 16, entry);
        }

        code.CopyTo(file.AsSpan(codeOffset));
        return file;
    }

    private static void Segment(Span<byte> target, uint type, ulong offset, ulong address, ulong size)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(target, type);
        BinaryPrimitives.WriteUInt64LittleEndian(target[8..], offset);
        BinaryPrimitives.WriteUInt64LittleEndian(target[24..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(target[32..], size);
        BinaryPrimitives.WriteUInt64LittleEndian(target[40..], size);
    }

    private static void U16(byte[] file, int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(file.AsSpan(offset), value);

    private static void U32(byte[] file, int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(offset), value);

    private static void U64(byte[] file, int offset, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(offset), value);
}
