namespace Fleet.Vmm.Tests.Machines;

/// <summary>Guests of a few bytes; they run on every kind of KVM, interpreted ones included.</summary>
internal static class GuestPrograms
{
    /// <summary>64-bit: sends "hello" by one string instruction, then resets through the keyboard controller.</summary>
    public static byte[] Hello =>
    [
        0x66, 0xba, 0xf8, 0x03,                   // mov $0x3f8, %dx
        0x48, 0x8d, 0x35, 0x0d, 0x00, 0x00, 0x00, // lea msg(%rip), %rsi
        0xb9, 0x05, 0x00, 0x00, 0x00,             // mov $5, %ecx
        0xf3, 0x6e,                               // rep outsb
        0xb0, 0xfe,                               // mov $0xfe, %al
        0xe6, 0x64,                               // out %al, $0x64
        0xeb, 0xfe,                               // jmp .
        (byte)'h', (byte)'e', (byte)'l', (byte)'l', (byte)'o',
    ];

    /// <summary>64-bit: as <see cref="Hello"/>, to COM2.</summary>
    public static byte[] HelloOnCom2
    {
        get
        {
            var code = Hello;
            code[3] = 0x02;
            return code;
        }
    }

    /// <summary>Halts with interrupts off.</summary>
    public static byte[] Halt => [0xfa, 0xf4, 0xeb, 0xfd]; // cli; 1: hlt; jmp 1b

    /// <summary>Halts with interrupts on, for ever.</summary>
    public static byte[] Idle => [0xfb, 0xf4, 0xeb, 0xfd]; // sti; 1: hlt; jmp 1b

    public static byte[] Spin => [0xeb, 0xfe];

    /// <summary>An exception without a handler.</summary>
    public static byte[] TripleFault => [0x0f, 0x0b]; // ud2

    /// <summary>Writes "." to COM1 without end.</summary>
    public static byte[] Flood =>
    [
        0x66, 0xba, 0xf8, 0x03, // mov $0x3f8, %dx
        0xb0, 0x2e,             // mov $'.', %al
        0xee,                   // 1: out %al, %dx
        0xeb, 0xfd,             // jmp 1b
    ];

    /// <summary>64-bit: sends each received byte back plus one; "q" resets.</summary>
    public static byte[] Echo =>
    [
        0x66, 0xba, 0xfd, 0x03, // start: mov $0x3fd, %dx
        0xec,                   // 1: in %dx, %al
        0xa8, 0x01,             // test $1, %al
        0x74, 0xfb,             // jz 1b
        0x66, 0xba, 0xf8, 0x03, // mov $0x3f8, %dx
        0xec,                   // in %dx, %al
        0x3c, (byte)'q',        // cmp $'q', %al
        0x74, 0x05,             // je 2f
        0xfe, 0xc0,             // inc %al
        0xee,                   // out %al, %dx
        0xeb, 0xe9,             // jmp start
        0xb0, 0xfe,             // 2: mov $0xfe, %al
        0xe6, 0x64,             // out %al, $0x64
        0xeb, 0xfa,             // jmp 2b
    ];

    /// <summary>64-bit: at each received byte counts in a register and in memory, and sends both as digits; "q" resets.</summary>
    public static byte[] Count =>
    [
        0x31, 0xdb,                   // xor %ebx, %ebx
        0xbf, 0x00, 0x00, 0x30, 0x00, // mov $0x300000, %edi
        0x66, 0xba, 0xfd, 0x03,       // start: mov $0x3fd, %dx
        0xec,                         // 1: in %dx, %al
        0xa8, 0x01,                   // test $1, %al
        0x74, 0xfb,                   // jz 1b
        0x66, 0xba, 0xf8, 0x03,       // mov $0x3f8, %dx
        0xec,                         // in %dx, %al
        0x3c, (byte)'q',              // cmp $'q', %al
        0x74, 0x10,                   // je 2f
        0xff, 0xc3,                   // inc %ebx
        0x88, 0xd8,                   // mov %bl, %al
        0x04, 0x30,                   // add $'0', %al
        0xee,                         // out %al, %dx
        0xff, 0x07,                   // incl (%edi)
        0x8a, 0x07,                   // mov (%edi), %al
        0x04, 0x30,                   // add $'0', %al
        0xee,                         // out %al, %dx
        0xeb, 0xde,                   // jmp start
        0xb0, 0xfe,                   // 2: mov $0xfe, %al
        0xe6, 0x64,                   // out %al, $0x64
        0xeb, 0xfa,                   // jmp 2b
    ];

    /// <summary>32-bit: prints X if unclaimed memory and ports read as ones; powers off through ACPI.</summary>
    public static byte[] Unclaimed =>
    [
        0xbb, 0x00, 0x00, 0x00, 0xd0, // mov $0xd0000000, %ebx
        0x8b, 0x03,                   // mov (%ebx), %eax
        0x89, 0x03,                   // mov %eax, (%ebx)
        0x83, 0xf8, 0xff,             // cmp $-1, %eax
        0x75, 0x11,                   // jne off
        0x66, 0xba, 0x34, 0x12,       // mov $0x1234, %dx
        0xed,                         // in %dx, %eax
        0x83, 0xf8, 0xff,             // cmp $-1, %eax
        0x75, 0x07,                   // jne off
        0x66, 0xba, 0xf8, 0x03,       // mov $0x3f8, %dx
        0xb0, (byte)'X',              // mov $'X', %al
        0xee,                         // out %al, %dx
        0x66, 0xba, 0x00, 0x06,       // off: mov $0x600, %dx
        0xb0, 0x34,                   // mov $0x34, %al
        0xee,                         // out %al, %dx
        0xeb, 0xfe,                   // jmp .
    ];

    /// <summary>32-bit: starts all other vCPUs by INIT and SIPI, waits until three have counted, prints how many, resets.</summary>
    public static byte[] StartOthers =>
    [
        0xbf, 0x00, 0x80, 0x00, 0x00,                               // mov $0x8000, %edi
        0xbe, 0x55, 0x00, 0x10, 0x00,                               // mov $ap, %esi
        0xb9, 0x0e, 0x00, 0x00, 0x00,                               // mov $apend-ap, %ecx
        0xf3, 0xa4,                                                 // rep movsb
        0xc7, 0x05, 0x00, 0x88, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, // movl $0, 0x8800
        0xbb, 0x00, 0x00, 0xe0, 0xfe,                               // mov $0xfee00000, %ebx
        0xc7, 0x83, 0xf0, 0x00, 0x00, 0x00, 0xff, 0x01, 0x00, 0x00, // movl $0x1ff, 0xf0(%ebx)    APIC on
        0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x00, 0x45, 0x0c, 0x00, // movl $0xc4500, 0x300(%ebx) INIT to all others
        0xc7, 0x83, 0x00, 0x03, 0x00, 0x00, 0x08, 0x46, 0x0c, 0x00, // movl $0xc4608, 0x300(%ebx) SIPI, vector 8
        0xa1, 0x00, 0x88, 0x00, 0x00,                               // 1: mov 0x8800, %eax
        0x83, 0xf8, 0x03,                                           // cmp $3, %eax
        0x72, 0xf6,                                                 // jb 1b
        0x04, 0x30,                                                 // add $'0', %al
        0x66, 0xba, 0xf8, 0x03,                                     // mov $0x3f8, %dx
        0xee,                                                       // out %al, %dx
        0xb0, 0xfe,                                                 // mov $0xfe, %al
        0xe6, 0x64,                                                 // out %al, $0x64
        0xeb, 0xfe,                                                 // jmp .
        0x31, 0xc0,                                                 // ap: xor %ax, %ax   (16-bit)
        0x8e, 0xd8,                                                 // mov %ax, %ds
        0xf0, 0x66, 0xff, 0x06, 0x00, 0x88,                         // lock incl 0x8800
        0xfa, 0xf4, 0xeb, 0xfd,                                     // cli; 1: hlt; jmp 1b
    ];
}
