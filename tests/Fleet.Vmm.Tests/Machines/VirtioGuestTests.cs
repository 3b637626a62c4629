using System.Buffers.Binary;
using Fleet.Vmm.Machines;

namespace Fleet.Vmm.Tests.Machines;

/// <summary>A driver of a few bytes drives a device over the real KVM: registers by exits, notifications by ioeventfd.</summary>
public class VirtioGuestTests
{
    private const uint Registers = 0xc0001000;
    private const uint Descriptors = 0x300000;
    private const uint Available = 0x301000;
    private const uint Used = 0x302000;
    private const uint Data = 0x303000;
    private const int Bytes = 32;

    [SkippableFact]
    public void Should_give_a_guest_randomness()
    {
        using var run = new MachineRun(ElfImage.Pvh(Driver(notify: 0)), entropy: true);
        Assert.Equal(MachineEndKind.GuestShutdown, run.RunToEnd().Kind);
        var counters = run.Machine.ReadCounters();
        var got = run.ConsoleBytes();
        Assert.Equal(Bytes, got.Length);
        Assert.True(got.Distinct().Count() > Bytes / 3, Convert.ToHexString(got));

        // Every register but the notification, which the kernel takes by itself.
        Assert.Equal((ulong)Setup().Count, counters.ExitsMmioWrite);
    }

    [SkippableFact]
    public void Should_ignore_a_notification_of_a_queue_that_is_none()
    {
        using var run = new MachineRun(ElfImage.Pvh(Driver(notify: 5)), entropy: true);

        // What it put into the queue before it was ready is served without a notification.
        Assert.Equal(MachineEndKind.GuestShutdown, run.RunToEnd().Kind);
        Assert.Equal((ulong)Setup().Count + 1, run.Machine.ReadCounters().ExitsMmioWrite);
        Assert.Equal(Bytes, run.ConsoleBytes().Length);
    }

    [SkippableFact]
    public void Should_serve_nothing_while_paused()
    {
        using var run = new MachineRun(ElfImage.Pvh(Driver(notify: 0)), entropy: true);
        var resumed = false;
        run.Machine.Start();
        run.Machine.Pause();
        run.After(TimeSpan.FromMilliseconds(50), () =>
        {
            Assert.False(resumed);
            resumed = true;
            run.Machine.Resume();
        });
        Assert.Equal(MachineEndKind.GuestShutdown, run.RunToEnd(started: true).Kind);
        Assert.True(resumed);
        Assert.Equal(Bytes, run.ConsoleBytes().Length);
    }

    private static List<(uint Address, uint Value)> Setup() =>
    [
        (Registers + 0x70, 1), (Registers + 0x70, 3),
        (Registers + 0x24, 1), (Registers + 0x20, 1), (Registers + 0x70, 11),
        (Registers + 0x38, 8),
        (Registers + 0x80, Descriptors), (Registers + 0x90, Available), (Registers + 0xa0, Used),
        (Registers + 0x44, 1), (Registers + 0x70, 15),
    ];

    // 32-bit: writes a table of words, waits for the used index, sends the data to the console, resets.
    private static byte[] Driver(uint notify)
    {
        byte[] code =
        [
            0xbe, 0, 0, 0, 0,                         // mov $table, %esi
            0xad,                                     // 1: lodsl
            0x85, 0xc0,                               // test %eax, %eax
            0x74, 0x07,                               // jz 2f
            0x89, 0xc7,                               // mov %eax, %edi
            0xad,                                     // lodsl
            0x89, 0x07,                               // mov %eax, (%edi)
            0xeb, 0xf4,                               // jmp 1b
            0x66, 0x83, 0x3d, 2, 0x20, 0x30, 0, 1,    // 2: cmpw $1, 0x302002
            0x75, 0xf6,                               // jne 2b
            0xbe, 0x00, 0x30, 0x30, 0x00,             // mov $0x303000, %esi
            0xb9, Bytes, 0, 0, 0,                     // mov $Bytes, %ecx
            0x66, 0xba, 0xf8, 0x03,                   // mov $0x3f8, %dx
            0xf3, 0x6e,                               // rep outsb
            0xb0, 0xfe,                               // mov $0xfe, %al
            0xe6, 0x64,                               // out %al, $0x64
            0xeb, 0xfe,                               // jmp .
        ];
        var table = Setup();
        table.InsertRange(0,
        [
            (Descriptors, Data), (Descriptors + 4, 0), (Descriptors + 8, Bytes), (Descriptors + 12, 2),
            (Available + 4, 0), (Available, 1 << 16),
        ]);
        table.Add((Registers + 0x50, notify));
        var program = new byte[code.Length + (table.Count * 8) + 4];
        code.CopyTo(program, 0);
        BinaryPrimitives.WriteUInt32LittleEndian(program.AsSpan(1), (uint)ElfImage.LoadAddress + (uint)code.Length);
        for (var i = 0; i < table.Count; i++)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(program.AsSpan(code.Length + (8 * i)), table[i].Address);
            BinaryPrimitives.WriteUInt32LittleEndian(program.AsSpan(code.Length + (8 * i) + 4), table[i].Value);
        }

        return program;
    }
}
