using System.Buffers.Binary;

namespace Fleet.Tests;

/// <summary>
/// Guests of a dozen bytes: an ELF with a PVH note, so that fleet-vmm and QEMU's microvm machine both boot them; the code
/// means the same in 32-bit and 64-bit mode.
/// </summary>
internal static class SmallGuest
{
    /// <summary>What a guest writes to COM1 first of all.</summary>
    public const byte Mark = (byte)'!';

    private const ulong LoadAddress = 0x100000;

    /// <summary>Writes its mark and halts for good, interrupts off.</summary>
    public static readonly byte[] MarkAndHalt =
    [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, Mark,             // mov al, '!'
        0xee,                   // out dx, al
        0xfa,                   // cli
        0xf4,                   // hlt
        0xeb, 0xfd,             // jmp hlt
    ];

    /// <summary>Writes its mark and idles for ever as a kernel does: halted, interrupts on, and none comes.</summary>
    public static readonly byte[] MarkAndIdle =
    [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, Mark,             // mov al, '!'
        0xee,                   // out dx, al
        0xb0, 0xff,             // mov al, 0xff
        0xe6, 0x21,             // out 0x21, al: mask the interrupt controllers
        0xe6, 0xa1,             // out 0xa1, al
        0xfb,                   // sti
        0xf4,                   // hlt
        0xeb, 0xfd,             // jmp hlt
    ];

    /// <summary>Writes to COM1 as fast as it can, for ever.</summary>
    public static readonly byte[] Flood =
    [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, Mark,             // mov al, '!'
        0xee,                   // out dx, al
        0xeb, 0xfd,             // jmp out
    ];

    /// <summary>Counts in memory the bytes that come in on COM1, and writes each time the count as a digit.</summary>
    public static readonly byte[] Counting =
    [
        0xbe, 0x00, 0x00, 0x20, 0x00, // mov esi, 0x200000
        0xc6, 0x06, 0x30,             // mov byte [esi], '0'
        0x66, 0xba, 0xfd, 0x03,       // mov dx, 0x3fd
        0xec,                         // in al, dx
        0xa8, 0x01,                   // test al, 1
        0x74, 0xfb,                   // jz in
        0x66, 0xba, 0xf8, 0x03,       // mov dx, 0x3f8
        0xec,                         // in al, dx
        0xfe, 0x06,                   // inc byte [esi]
        0x8a, 0x06,                   // mov al, [esi]
        0xee,                         // out dx, al
        0xeb, 0xeb,                   // jmp to the first mov dx
    ];

    /// <summary>Writes its mark, and then to COM1 what comes in on it, as a terminal echoes.</summary>
    public static readonly byte[] Echo =
    [
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xb0, Mark,             // mov al, '!'
        0xee,                   // out dx, al
        0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd
        0xec,                   // in al, dx
        0xa8, 0x01,             // test al, 1
        0x74, 0xfb,             // jz in
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xec,                   // in al, dx
        0xee,                   // out dx, al
        0xeb, 0xef,             // jmp to the second mov dx
    ];

    /// <summary>Runs for ever and says nothing.</summary>
    public static readonly byte[] Silent =
    [
        0xf3, 0x90,             // pause
        0xeb, 0xfc,             // jmp pause
    ];

    public static void Write(string path, byte[] code)
    {
        const int headers = 64 + (2 * 56);
        const int note = 20;
        var file = new byte[headers + note + code.Length];
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
        Segment(elf[64..], 1, 7, headers + note, LoadAddress, code.Length);
        Segment(elf[120..], 4, 4, headers, 0, note);

        var pvh = elf[headers..];
        BinaryPrimitives.WriteUInt32LittleEndian(pvh, 4);               // namesz
        BinaryPrimitives.WriteUInt32LittleEndian(pvh[4..], 4);          // descsz
        BinaryPrimitives.WriteUInt32LittleEndian(pvh[8..], 18);         // XEN_ELFNOTE_PHYS32_ENTRY
        "Xen\0"u8.CopyTo(pvh[12..]);
        BinaryPrimitives.WriteUInt32LittleEndian(pvh[16..], (uint)LoadAddress);
        code.CopyTo(pvh[note..]);
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
