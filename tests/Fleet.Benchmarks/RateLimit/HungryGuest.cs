using System.Buffers.Binary;

namespace Fleet.Benchmarks.RateLimit;

/// <summary>A guest of a few bytes that asks its first virtio device, an entropy device, for bytes, one request behind the other, for ever.</summary>
internal static class HungryGuest
{
    /// <summary>Bytes of each request.</summary>
    public const int RequestBytes = 4096;

    private const uint CodeAddress = 0x100000;
    private const uint Registers = 0xc0001000;
    private const uint Descriptors = 0x300000;
    private const uint Available = 0x301000;
    private const uint Used = 0x302000;
    private const uint Data = 0x303000;

    public static byte[] Code
    {
        get
        {
            byte[] code =
            [
                0xbe, 0, 0, 0, 0,                           // mov $table, %esi
                0xad,                                       // 1: lodsl
                0x85, 0xc0,                                 // test %eax, %eax
                0x74, 0x07,                                 // jz 2f
                0x89, 0xc7,                                 // mov %eax, %edi
                0xad,                                       // lodsl
                0x89, 0x07,                                 // mov %eax, (%edi)
                0xeb, 0xf4,                                 // jmp 1b
                0x31, 0xdb,                                 // 2: xor %ebx, %ebx
                0x43,                                       // 3: inc %ebx
                0x66, 0x89, 0x1d, 0x02, 0x10, 0x30, 0x00,   // mov %bx, available.idx
                0xc7, 0x05, 0x50, 0x10, 0x00, 0xc0, 0, 0, 0, 0, // movl $0, notify
                0xf3, 0x90,                                 // 4: pause
                0x66, 0x39, 0x1d, 0x02, 0x20, 0x30, 0x00,   // cmp %bx, used.idx
                0x75, 0xf5,                                 // jne 4b
                0xeb, 0xe1,                                 // jmp 3b
            ];
            (uint Address, uint Value)[] table =
            [
                (Descriptors, Data), (Descriptors + 4, 0), (Descriptors + 8, RequestBytes), (Descriptors + 12, 2),
                (Registers + 0x70, 1), (Registers + 0x70, 3),
                (Registers + 0x24, 1), (Registers + 0x20, 1), (Registers + 0x70, 11),
                (Registers + 0x38, 8),
                (Registers + 0x80, Descriptors), (Registers + 0x90, Available), (Registers + 0xa0, Used),
                (Registers + 0x44, 1), (Registers + 0x70, 15),
            ];
            var program = new byte[code.Length + (8 * table.Length) + 4];
            code.CopyTo(program, 0);
            BinaryPrimitives.WriteUInt32LittleEndian(program.AsSpan(1), CodeAddress + (uint)code.Length);
            for (var i = 0; i < table.Length; i++)
            {
                BinaryPrimitives.WriteUInt32LittleEndian(program.AsSpan(code.Length + (8 * i)), table[i].Address);
                BinaryPrimitives.WriteUInt32LittleEndian(program.AsSpan(code.Length + (8 * i) + 4), table[i].Value);
            }

            return program;
        }
    }
}
