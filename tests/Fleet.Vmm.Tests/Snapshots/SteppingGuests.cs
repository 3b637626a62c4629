using System.Buffers.Binary;
using Fleet.Vmm.Tests.Machines;

namespace Fleet.Vmm.Tests.Snapshots;

/// <summary>Guests that do one step for each byte they are sent, so that a test knows where they stand; "q" resets.</summary>
internal static class SteppingGuests
{
    /// <summary>64-bit: counts in a register and in memory at 2 MiB, and sends the count as a digit while both agree.</summary>
    public static byte[] Counter => ElfImage.Linux64(
    [
        0x66, 0xba, 0xfd, 0x03,                   // start: mov $0x3fd,%dx
        0xec,                                     // 1: in %dx,%al
        0xa8, 0x01,                               // test $1,%al
        0x74, 0xfb,                               // jz 1b
        0x66, 0xba, 0xf8, 0x03,                   // mov $0x3f8,%dx
        0xec,                                     // in %dx,%al
        0x3c, 0x71,                               // cmp $'q',%al
        0x74, 0x19,                               // je 2f
        0xff, 0xc1,                               // inc %ecx
        0xff, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, // incl 0x200000
        0x8b, 0x04, 0x25, 0x00, 0x00, 0x20, 0x00, // mov 0x200000,%eax
        0x39, 0xc8,                               // cmp %ecx,%eax
        0x75, 0x05,                               // jne 2f
        0x04, 0x30,                               // add $'0',%al
        0xee,                                     // out %al,%dx
        0xeb, 0xd5,                               // jmp start
        0xb0, 0xfe,                               // 2: mov $0xfe,%al
        0xe6, 0x64,                               // out %al,$0x64
        0xeb, 0xfa,                               // jmp 2b
    ]);

    /// <summary>32-bit: the second vCPU counts in memory without end; the first sends "M" once it has seen it move.</summary>
    public static byte[] TwoVcpus => ElfImage.Pvh(
    [
        0xbf, 0x00, 0x80, 0x00, 0x00,                                 // mov $0x8000,%edi
        0xbe, 0x68, 0x00, 0x10, 0x00,                                 // mov $0x100000+(ap-start0),%esi
        0xb9, 0x0c, 0x00, 0x00, 0x00,                                 // mov $apend-ap,%ecx
        0xf3, 0xa4,                                                   // rep movsb
        0xc7, 0x05, 0x00, 0x88, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,   // movl $0,0x8800
        0xbb, 0x00, 0x00, 0xe0, 0xfe,                                 // mov $0xfee00000,%ebx
        0xc7, 0x83, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00,   // movl $0x1ff,0xf0(%ebx)
        0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x00, 0x45, 0x0c, 0x00,   // movl $0xc4500,0x300(%ebx)
        0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x08, 0x46, 0x0c, 0x00,   // movl $0xc4608,0x300(%ebx)
        0x66, 0xba, 0xfd, 0x03,                                       // start: mov $0x3fd,%dx
        0xec,                                                         // 1: in %dx,%al
        0xa8, 0x01,                                                   // test $1,%al
        0x74, 0xfb,                                                   // jz 1b
        0x66, 0xba, 0xf8, 0x03,                                       // mov $0x3f8,%dx
        0xec,                                                         // in %dx,%al
        0x3c, 0x71,                                                   // cmp $'q',%al
        0x74, 0x12,                                                   // je 2f
        0xa1, 0x00, 0x88, 0x00, 0x00,                                 // mov 0x8800,%eax
        0x3b, 0x05, 0x00, 0x88, 0x00, 0x00,                           // 3: cmp 0x8800,%eax
        0x74, 0xf8,                                                   // je 3b
        0xb0, 0x4d,                                                   // mov $'M',%al
        0xee,                                                         // out %al,%dx
        0xeb, 0xdc,                                                   // jmp start
        0xb0, 0xfe,                                                   // 2: mov $0xfe,%al
        0xe6, 0x64,                                                   // out %al,$0x64
        0xeb, 0xfa,                                                   // jmp 2b
        0x31, 0xc0,                                                   // ap: xor %ax,%ax
        0x8e, 0xd8,                                                   // mov %ax,%ds
        0x66, 0xf0, 0xff, 0x06, 0x00, 0x88,                           // 4: lock incl 0x8800
        0xeb, 0xf8,                                                   // jmp 4b
    ]);

    /// <summary>32-bit: sends the 16 bytes of the generation id.</summary>
    public static byte[] GenerationId => ElfImage.Pvh(
    [
        0x66, 0xba, 0xfd, 0x03,                                       // start: mov $0x3fd,%dx
        0xec,                                                         // 1: in %dx,%al
        0xa8, 0x01,                                                   // test $1,%al
        0x74, 0xfb,                                                   // jz 1b
        0x66, 0xba, 0xf8, 0x03,                                       // mov $0x3f8,%dx
        0xec,                                                         // in %dx,%al
        0x3c, 0x71,                                                   // cmp $'q',%al
        0x74, 0x0e,                                                   // je 2f
        0xbe, 0x00, 0x60, 0x0e, 0x00,                                 // mov $0xe6000,%esi
        0xb9, 0x10, 0x00, 0x00, 0x00,                                 // mov $16,%ecx
        0xf3, 0x6e,                                                   // rep outsb
        0xeb, 0xe0,                                                   // jmp start
        0xb0, 0xfe,                                                   // 2: mov $0xfe,%al
        0xe6, 0x64,                                                   // out %al,$0x64
        0xeb, 0xfa,                                                   // jmp 2b
    ]);

    /// <summary>32-bit: sends each byte back plus one, and "G" for each interrupt of the generation id.</summary>
    public static byte[] GenerationInterrupt => ElfImage.Pvh(
    [
        0xbf, 0x00, 0x00, 0x20, 0x00,                                 // mov $0x200000,%edi
        0xb8, 0x8a, 0x00, 0x10, 0x00,                                 // mov $0x100000+(isr-start0),%eax
        0x89, 0xc3,                                                   // mov %eax,%ebx
        0x25, 0xff, 0xff, 0x00, 0x00,                                 // and $0xffff,%eax
        0x0d, 0x00, 0x00, 0x08, 0x00,                                 // or $0x00080000,%eax
        0x89, 0x87, 0x00, 0x02, 0x00, 0x00,                           // mov %eax,0x200(%edi)
        0x81, 0xe3, 0x00, 0x00, 0xff, 0xff,                           // and $0xffff0000,%ebx
        0x81, 0xcb, 0x00, 0x8e, 0x00, 0x00,                           // or $0x8e00,%ebx
        0x89, 0x9f, 0x04, 0x02, 0x00, 0x00,                           // mov %ebx,0x204(%edi)
        0x0f, 0x01, 0x1d, 0xa6, 0x00, 0x10, 0x00,                     // lidt 0x100000+(idtr-start0)
        0xc7, 0x05, 0xf0, 0x00, 0xe0, 0xfe, 0xff, 0x01, 0x00, 0x00,   // movl $0x1ff,0xfee000f0
        0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x3f, 0x00, 0x00, 0x00,   // movl $0x3f,0xfec00000
        0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x00, 0x00, 0x00, 0x00,   // movl $0,0xfec00010
        0xc7, 0x05, 0x00, 0x00, 0xc0, 0xfe, 0x3e, 0x00, 0x00, 0x00,   // movl $0x3e,0xfec00000
        0xc7, 0x05, 0x10, 0x00, 0xc0, 0xfe, 0x40, 0x00, 0x00, 0x00,   // movl $0x40,0xfec00010
        0xbc, 0x00, 0x00, 0x09, 0x00,                                 // mov $0x90000,%esp
        0xfb,                                                         // sti
        0x66, 0xba, 0xfd, 0x03,                                       // start: mov $0x3fd,%dx
        0xec,                                                         // 1: in %dx,%al
        0xa8, 0x01,                                                   // test $1,%al
        0x74, 0xfb,                                                   // jz 1b
        0x66, 0xba, 0xf8, 0x03,                                       // mov $0x3f8,%dx
        0xec,                                                         // in %dx,%al
        0x3c, 0x71,                                                   // cmp $'q',%al
        0x74, 0x05,                                                   // je 2f
        0xfe, 0xc0,                                                   // inc %al
        0xee,                                                         // out %al,%dx
        0xeb, 0xe9,                                                   // jmp start
        0xb0, 0xfe,                                                   // 2: mov $0xfe,%al
        0xe6, 0x64,                                                   // out %al,$0x64
        0xeb, 0xfa,                                                   // jmp 2b
        0x50,                                                         // isr: push %eax
        0x52,                                                         // push %edx
        0x66, 0xba, 0xf8, 0x03,                                       // mov $0x3f8,%dx
        0xb0, 0x47,                                                   // mov $'G',%al
        0xee,                                                         // out %al,%dx
        0xc7, 0x05, 0xb0, 0x00, 0xe0, 0xfe, 0x00, 0x00, 0x00, 0x00,   // movl $0,0xfee000b0
        0x5a,                                                         // pop %edx
        0x58,                                                         // pop %eax
        0x5b,                                                         // pop %ebx
        0x83, 0xc4, 0x04,                                             // add $4,%esp
        0x9d,                                                         // popf
        0xff, 0xe3,                                                   // jmp *%ebx
        0xff, 0x07,                                                   // idtr: .word 0x7ff
        0x00, 0x00, 0x20, 0x00,                                       // .long 0x200000
    ]);

    /// <summary>32-bit, behind a driver that has set up queue 0: offers the buffer once more, waits for it, sends its first byte.</summary>
    private static ReadOnlySpan<byte> QueueSteps =>
    [
        0x66, 0xba, 0xfd, 0x03,                                       // start: mov $0x3fd,%dx
        0xec,                                                         // 1: in %dx,%al
        0xa8, 0x01,                                                   // test $1,%al
        0x74, 0xfb,                                                   // jz 1b
        0x66, 0xba, 0xf8, 0x03,                                       // mov $0x3f8,%dx
        0xec,                                                         // in %dx,%al
        0x3c, 0x71,                                                   // cmp $'q',%al
        0x74, 0x28,                                                   // je 2f
        0x66, 0xff, 0x05, 0x02, 0x10, 0x30, 0x00,                     // incw 0x301002
        0xc7, 0x05, 0x50, 0x10, 0x00, 0xc0, 0x00, 0x00, 0x00, 0x00,   // movl $0,0xc0001050
        0x66, 0xa1, 0x02, 0x10, 0x30, 0x00,                           // mov 0x301002,%ax
        0x66, 0x39, 0x05, 0x02, 0x20, 0x30, 0x00,                     // 3: cmpw %ax,0x302002
        0x75, 0xf7,                                                   // jne 3b
        0xa0, 0x00, 0x30, 0x30, 0x00,                                 // mov 0x303000,%al
        0xee,                                                         // out %al,%dx
        0xeb, 0xc6,                                                   // jmp start
        0xb0, 0xfe,                                                   // 2: mov $0xfe,%al
        0xe6, 0x64,                                                   // out %al,$0x64
        0xeb, 0xfa,                                                   // jmp 2b
    ];

    /// <summary>32-bit: sets up the first device's queue 0 with one request of 32 writable bytes, which it offers again and again.</summary>
    public static byte[] Entropy => EntropyDriver(waitsFirst: true);

    /// <summary>The same, but offers the buffer once before it waits for the first byte.</summary>
    public static byte[] EntropyAtOnce => EntropyDriver(waitsFirst: false);

    private static byte[] EntropyDriver(bool waitsFirst)
    {
        const uint Registers = 0xc0001000;
        const uint Descriptors = 0x300000;
        const uint Available = 0x301000;
        const uint Used = 0x302000;
        (uint Address, uint Value)[] writes =
        [
            (Descriptors, 0x303000), (Descriptors + 8, 32), (Descriptors + 12, 2),
            (Registers + 0x70, 1), (Registers + 0x70, 3),
            (Registers + 0x24, 1), (Registers + 0x20, 1), (Registers + 0x70, 11),
            (Registers + 0x38, 8),
            (Registers + 0x80, Descriptors), (Registers + 0x90, Available), (Registers + 0xa0, Used),
            (Registers + 0x44, 1), (Registers + 0x70, 15),
        ];

        // mov $0x3f8,%dx; jmp to the steps, or over those that wait.
        byte[] entry = [0x66, 0xba, 0xf8, 0x03, 0xeb, (byte)(waitsFirst ? 0 : 0x12)];
        var code = new byte[writes.Length * 10 + entry.Length + QueueSteps.Length];
        for (var i = 0; i < writes.Length; i++)
        {
            // movl $value, address
            code[i * 10] = 0xc7;
            code[i * 10 + 1] = 0x05;
            BinaryPrimitives.WriteUInt32LittleEndian(code.AsSpan(i * 10 + 2), writes[i].Address);
            BinaryPrimitives.WriteUInt32LittleEndian(code.AsSpan(i * 10 + 6), writes[i].Value);
        }

        entry.CopyTo(code, writes.Length * 10);
        QueueSteps.CopyTo(code.AsSpan(writes.Length * 10 + entry.Length));
        return ElfImage.Pvh(code);
    }
}
