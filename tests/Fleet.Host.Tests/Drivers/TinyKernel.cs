using System.Buffers.Binary;
using System.Text;

namespace Fleet.Host.Tests.Drivers;

/// <summary>
/// Kernels of a few dozen bytes: an ELF64 program with a PVH entry note, entered in flat 32-bit protected mode with
/// interrupts off, loaded at 1 MiB.
/// </summary>
internal static class TinyKernel
{
    private const uint LoadAddress = 0x100000;
    private const int HeaderBytes = 64 + 2 * 56;
    private const int NoteOffset = 0x100;
    private const int CodeOffset = 0x1000;
    private const int DataOffset = 0x100;

    /// <summary>cli; hlt, for ever.</summary>
    public static byte[] Halting() => Build([0xfa, 0xf4, 0xeb, 0xfc]);

    /// <summary>Runs in a circle.</summary>
    public static byte[] Spinning() => Build([0xeb, 0xfe]);

    /// <summary>An exception without a handler: lidt of an empty table; int3.</summary>
    public static byte[] Crashing() => Build([0x0f, 0x01, 0x1d, .. Word(LoadAddress + DataOffset), 0xcc]);

    /// <summary>Writes text to both serial ports, then resets by the keyboard controller.</summary>
    public static byte[] Speaking(string console, string status) =>
        Build([.. Print(0x3f8, 0), .. Print(0x2f8, Encoding.Latin1.GetByteCount(console) + 1), .. Reset()],
            $"{console}\0{status}\0");

    /// <summary>Writes text to the status port and runs on.</summary>
    public static byte[] Reporting(string status) => Build([.. Print(0x2f8, 0), 0xeb, 0xfe], status + "\0");

    /// <summary>Tells that it is ready and runs on.</summary>
    public static byte[] Ready() => Reporting("FLEET 1 ready\n");

    /// <summary>Ready, then sends back each byte that comes in on the first serial port.</summary>
    public static byte[] Echoing() => Build(
    [
        .. Print(0x2f8, 0),
        .. Receive,
        0xee,       // out dx, al
        0xeb, 0xef, // jmp to Receive
    ], "FLEET 1 ready\n\0");

    /// <summary>Ready, then counts in memory the bytes that come in on the first serial port, and sends each time the count as a digit.</summary>
    public static byte[] Counting() => Build(
    [
        .. Print(0x2f8, 0),
        .. Receive,
        0xfe, 0x05, .. Word(LoadAddress + DataOffset + 16 + 15), // inc byte [count]
        0xa0, .. Word(LoadAddress + DataOffset + 16 + 15),       // mov al, [count]
        0xee,                                                   // out dx, al
        0xeb, 0xe4,                                             // jmp to Receive
    ], "FLEET 1 ready\n\00");

    /// <summary>Ready, then resets as soon as a key is pressed.</summary>
    public static byte[] EndingOnKey() => Build(
    [
        .. Print(0x2f8, 0),
        0xb0, 0xae, 0xe6, 0x64, // enable the keyboard
        0xe4, 0x64,             // in al, 0x64
        0xa8, 0x01,             // test al, 1
        0x74, 0xfa,             // jz back to in
        .. Reset(),
    ], "FLEET 1 ready\n\0");

    /// <summary>Ready, then writes 0000000 0000001 0000002 … in hexadecimal, each with a line feed: eight bytes each.</summary>
    public static byte[] Flooding() => Build(
    [
        .. Print(0x2f8, 0),
        0x31, 0xdb,             // xor ebx, ebx: the number
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        // next:
        0xb9, 7, 0, 0, 0,       // mov ecx, 7
        0x89, 0xde,             // mov esi, ebx
        0xc1, 0xe6, 0x04,       // shl esi, 4: drop the highest of eight digits
        // digit:
        0xc1, 0xc6, 0x04,       // rol esi, 4
        0x89, 0xf0,             // mov eax, esi
        0x24, 0x0f,             // and al, 15
        0x04, 0x30,             // add al, '0'
        0x3c, 0x3a,             // cmp al, ':'
        0x72, 0x02,             // jb out
        0x04, 0x27,             // add al, 'a' - ':'
        0xee,                   // out: out dx, al
        0xe2, 0xee,             // loop digit
        0xb0, 0x0a,             // mov al, '\n'
        0xee,                   // out dx, al
        0x43,                   // inc ebx
        0xeb, 0xde,             // jmp next
    ], "FLEET 1 ready\n\0");

    /// <summary>Writes a kernel into a folder and returns its path.</summary>
    public static string Write(string folder, byte[] kernel)
    {
        Directory.CreateDirectory(folder);
        string path = Path.Combine(folder, $"kernel-{Guid.NewGuid():n}");
        File.WriteAllBytes(path, kernel);
        return path;
    }

    /// <summary>Waits for a byte on the first serial port and has it in al; dx is that port's. Each read of the loop begins here.</summary>
    private static readonly byte[] Receive =
    [
        0x66, 0xba, 0xfd, 0x03, // mov dx, 0x3fd
        0xec,                   // in al, dx
        0xa8, 0x01,             // test al, 1
        0x74, 0xfb,             // jz back to in
        0x66, 0xba, 0xf8, 0x03, // mov dx, 0x3f8
        0xec,                   // in al, dx
    ];

    private static byte[] Reset() => [0xb0, 0xfe, 0xe6, 0x64, 0xf4, 0xeb, 0xfd];

    // Prints the zero-terminated text at an offset of the data.
    private static byte[] Print(ushort port, int textOffset) =>
    [
        0xbe, .. Word(LoadAddress + DataOffset + 16 + (uint)textOffset), // mov esi, text
        0x66, 0xba, (byte)port, (byte)(port >> 8),                       // mov dx, port
        0xac,                                                            // lodsb
        0x84, 0xc0,                                                      // test al, al
        0x74, 0x03,                                                      // jz on
        0xee,                                                            // out dx, al
        0xeb, 0xf8,                                                      // jmp lodsb
    ];

    private static byte[] Word(uint value)
    {
        var bytes = new byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(bytes, value);
        return bytes;
    }

    private static byte[] Build(byte[] code, string data = "")
    {
        // 16 zero bytes come first: the empty interrupt table.
        byte[] text = [.. new byte[16], .. Encoding.Latin1.GetBytes(data)];
        Assert.True(code.Length <= DataOffset);
        int segment = DataOffset + text.Length;
        var image = new byte[CodeOffset + segment];
        var span = image.AsSpan();

        new byte[] { 0x7f, (byte)'E', (byte)'L', (byte)'F', 2, 1, 1 }.CopyTo(span);
        BinaryPrimitives.WriteUInt16LittleEndian(span[16..], 2);
        BinaryPrimitives.WriteUInt16LittleEndian(span[18..], 62);
        BinaryPrimitives.WriteUInt32LittleEndian(span[20..], 1);
        BinaryPrimitives.WriteUInt64LittleEndian(span[24..], LoadAddress);
        BinaryPrimitives.WriteUInt64LittleEndian(span[32..], 64);
        BinaryPrimitives.WriteUInt16LittleEndian(span[52..], 64);
        BinaryPrimitives.WriteUInt16LittleEndian(span[54..], 56);
        BinaryPrimitives.WriteUInt16LittleEndian(span[56..], 2);

        WriteSegment(span[64..], type: 1, CodeOffset, LoadAddress, segment, alignment: 4096);
        WriteSegment(span[120..], type: 4, NoteOffset, 0, 20, alignment: 4);
        Assert.True(HeaderBytes <= NoteOffset);

        BinaryPrimitives.WriteUInt32LittleEndian(span[NoteOffset..], 4);
        BinaryPrimitives.WriteUInt32LittleEndian(span[(NoteOffset + 4)..], 4);
        BinaryPrimitives.WriteUInt32LittleEndian(span[(NoteOffset + 8)..], 18);
        "Xen\0"u8.CopyTo(span[(NoteOffset + 12)..]);
        BinaryPrimitives.WriteUInt32LittleEndian(span[(NoteOffset + 16)..], LoadAddress);

        code.CopyTo(span[CodeOffset..]);
        text.CopyTo(span[(CodeOffset + DataOffset)..]);
        return image;
    }

    private static void WriteSegment(Span<byte> header, uint type, int offset, uint address, int size, ulong alignment)
    {
        BinaryPrimitives.WriteUInt32LittleEndian(header, type);
        BinaryPrimitives.WriteUInt32LittleEndian(header[4..], 7);
        BinaryPrimitives.WriteUInt64LittleEndian(header[8..], (ulong)offset);
        BinaryPrimitives.WriteUInt64LittleEndian(header[16..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(header[24..], address);
        BinaryPrimitives.WriteUInt64LittleEndian(header[32..], (ulong)size);
        BinaryPrimitives.WriteUInt64LittleEndian(header[40..], (ulong)size);
        BinaryPrimitives.WriteUInt64LittleEndian(header[48..], alignment);
    }
}
