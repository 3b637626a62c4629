using System.Buffers.Binary;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Boot;

/// <summary>The tables of the MultiProcessor Specification 1.4, for kernels that are built without ACPI.</summary>
internal static class MpTable
{
    private const int PointerSize = 16;
    private const int HeaderSize = 44;
    private const byte LocalApicVersion = 0x14;
    private const byte IoApicVersion = 0x11;
    private const int IoApicPins = 24;

    private const byte InterruptVectored = 0;
    private const byte InterruptNmi = 1;
    private const byte InterruptExternal = 3;
    private const byte AllApics = 0xff;

    public static void Write(GuestMemory memory, int vcpus)
    {
        var area = memory.Slice(GuestLayout.MpTable, (int)(GuestLayout.MpTableEnd - GuestLayout.MpTable));
        area.Clear();
        var table = area[PointerSize..];
        var at = HeaderSize;
        var entries = 0;
        for (var i = 0; i < vcpus; i++)
        {
            // Enabled, and the first is the one that boots. Signature and features: family 6, APIC and FPU.
            table[at] = 0;
            table[at + 1] = (byte)i;
            table[at + 2] = LocalApicVersion;
            table[at + 3] = (byte)(i == 0 ? 3 : 1);
            U32(table, at + 4, 0x600);
            U32(table, at + 8, 0x201);
            at += 20;
            entries++;
        }

        var ioApicId = (byte)vcpus;
        table[at] = 1;
        "ISA   "u8.CopyTo(table[(at + 2)..]);
        at += 8;
        entries++;

        table[at] = 2;
        table[at + 1] = ioApicId;
        table[at + 2] = IoApicVersion;
        table[at + 3] = 1;
        U32(table, at + 4, GuestLayout.IoApic);
        at += 8;
        entries++;

        for (var irq = 0; irq < IoApicPins; irq++)
        {
            Interrupt(table[at..], 3, InterruptVectored, (byte)irq, ioApicId, (byte)irq);
            at += 8;
            entries++;
        }

        Interrupt(table[at..], 4, InterruptExternal, 0, 0, 0);
        Interrupt(table[(at + 8)..], 4, InterruptNmi, 0, AllApics, 1);
        at += 16;
        entries += 2;

        table = table[..at];
        "PCMP"u8.CopyTo(table);
        BinaryPrimitives.WriteUInt16LittleEndian(table[4..], (ushort)at);
        table[6] = 4;
        "FLEET   "u8.CopyTo(table[8..]);
        "FLEET-VMM   "u8.CopyTo(table[16..]);
        BinaryPrimitives.WriteUInt16LittleEndian(table[34..], (ushort)entries);
        U32(table, 36, GuestLayout.LocalApic);
        table[7] = AcpiTables.ChecksumFor(table);

        var pointer = area[..PointerSize];
        "_MP_"u8.CopyTo(pointer);
        U32(pointer, 4, (uint)GuestLayout.MpTable + PointerSize);
        pointer[8] = 1;
        pointer[9] = 4;
        pointer[10] = AcpiTables.ChecksumFor(pointer);
    }

    private static void Interrupt(Span<byte> entry, byte type, byte kind, byte source, byte apic, byte pin)
    {
        entry[0] = type;
        entry[1] = kind;
        entry[5] = source;
        entry[6] = apic;
        entry[7] = pin;
    }

    private static void U32(Span<byte> target, int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(target[offset..], value);
}
