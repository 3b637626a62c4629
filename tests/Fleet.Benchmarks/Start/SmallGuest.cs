using System.Buffers.Binary;

namespace Fleet.Benchmarks.Start;

/// <summary>
/// A guest of a dozen bytes: writes one byte to COM1 and halts. An ELF with a PVH note, so that fleet-vmm and QEMU's
/// microvm machine both boot it; its code means the same in 32-bit and 64-bit mode.
/// </summary>
internal static class SmallGuest
{
    /// <summary>What the guest writes.</summary>
    public const byte Mark = (byte)'!';

    private const ulong LoadAddress = 0x100000;

    private static readonly byte[] Code =
    [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, Mark,             // mov al, '!'
        0xee,                   // out dx, al
        0xfa,                   // cli
        0xf4,                   // hlt
        0xeb, 0xfd,             // jmp hlt
    ];

    public static void Write(string path)
    {
        const int headers = 64 + (2 * 56);
        const int note = 20;
        var file = new byte[headers + note + Code.Length];
        var elf = file.AsSpan();
        ReadOnlySpan<byte> ident = [0x7f, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1];
        ident.CopyTo(elf);
        BinaryPrimitives.WriteUInt16LittleEndian(elf[16..], 2);         // ET_EXEC
        BinaryPrimitives.WriteUInt16LittleEndian(elf[18..], 62);        // EM_X86_64
        BinaryPrimitives.WriteUInt32LittleEndian(elf[20..], 1);
        BinaryPrimitives.WriteUInt64LittleEndian(elf[24..], LoadAddress);
        BinaryPrimitives.WriteUInt64LittleEndian(elf[32..], 64);        // e_phoff
        BinaryPrimitives.WriteUInt16LittleEndian(elf[52..], 64);
        BinaryPrimitives.WriteUInt16LittleEndian(elf[54..], 56);
        BinaryPrimitives.WriteUInt16LittleEndian(elf[56..], 2);
        Segment(elf[64..], 1, 7, headers + note, LoadAddress, Code.Length);
        Segment(elf[120..], 4, 4, headers, 0, note);

        var pvh = elf[headers..];
        BinaryPrimitives.WriteUInt32LittleEndian(pvh, 4);               // namesz
        BinaryPrimitives.WriteUInt32LittleEndian(pvh[4..], 4);          // descsz
        BinaryPrimitives.WriteUInt32LittleEndian(pvh[8..], 18);         // XEN_ELFNOTE_PHYS32_ENTRY
        "Xen\0"u8.CopyTo(pvh[12..]);
        BinaryPrimitives.WriteUInt32LittleEndian(pvh[16..], (uint)LoadAddress);
        Code.CopyTo(pvh[note..]);
        File.WriteAllBytes(path, file);
    }

    private static void Segment(Span<byte> header, uint type, uint flags, int offset, ulong address, int size)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(header, type);
        BinaryPrimitives.WriteUInt32LittleEndian(header[4..], flags);
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], (ulong)offset);
        BinaryPrimitives.WriteUInt64LittleEndian(header[16..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(header[24..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(header[32..], (ulong)size);
        BinaryPrimitives.WriteUInt64LittleEndian(header[40..], (ulong)size);
        BinaryPrimitives.WriteUInt64LittleEndian(header[48..], 4);
    }
}
