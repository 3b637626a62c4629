using System.Buffers.Binary;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Boot;

/// <summary>
/// The ACPI tables of a hardware-reduced machine (ACPI 6.5): no PIC, no PIT, no PM timer, no CMOS clock for the guest to
/// wait for. What the DSDT does not name the guest does not have: without COM1 in it, everything that user space writes to
/// the console is lost.
/// </summary>
internal static class AcpiTables
{
    private const int HeaderSize = 36;
    private const int RsdpSize = 36;
    private const int FadtSize = 276;

    // FADT: IAPC_BOOT_ARCH.
    private const ushort Has8042 = 1 << 1;
    private const ushort NoVga = 1 << 2;
    private const ushort NoCmosClock = 1 << 5;

    // FADT: flags.
    private const uint WbinvdWorks = 1 << 0;
    private const uint NoFixedPowerButton = 1 << 4;
    private const uint NoFixedSleepButton = 1 << 5;
    private const uint ResetRegisterSupported = 1 << 10;
    private const uint HardwareReduced = 1 << 20;

    private static ReadOnlySpan<byte> Oem => "FLEET "u8;

    private static ReadOnlySpan<byte> OemTable => "FLEETVMM"u8;

    /// <summary>Writes RSDP, XSDT, FADT, MADT and DSDT for a machine with so many vCPUs and these virtio devices.</summary>
    public static void Write(GuestMemory memory, int vcpus, bool secondSerialPort, IReadOnlyList<VirtioPlace> devices)
    {
        // 64 KiB below 1 MiB are reserved for it in the memory map; the tables of 32 vCPUs and all devices take less than 4 KiB.
        var area = memory.Slice(GuestLayout.AcpiTables, 0x4000);
        area.Clear();
        var used = 0;

        var dsdt = Place(ref used, WriteDsdt(area, secondSerialPort, devices));
        var fadt = Place(ref used, WriteFadt(area[used..], dsdt));
        var madt = Place(ref used, WriteMadt(area[used..], vcpus));
        var xsdt = Place(ref used, WriteXsdt(area[used..], fadt, madt));
        WriteRsdp(memory.Slice(GuestLayout.Rsdp, RsdpSize), xsdt);
    }

    // Returns where the table that was just written stands, and goes on to the next multiple of 16.
    private static ulong Place(ref int used, int size)
    {
        var address = GuestLayout.AcpiTables + (ulong)used;
        used = (used + size + 15) & ~15;
        return address;
    }

    private static int WriteDsdt(Span<byte> table, bool secondSerialPort, IReadOnlyList<VirtioPlace> devices)
    {
        var aml = new AmlWriter(table[HeaderSize..]);
        var scope = aml.BeginScope("_SB_");
        SerialPort(ref aml, "COM1", 1, GuestLayout.Com1Port, GuestLayout.Com1Gsi);
        if (secondSerialPort)
        {
            SerialPort(ref aml, "COM2", 2, GuestLayout.Com2Port, GuestLayout.Com2Gsi);
        }

        var keyboard = aml.BeginDevice("PS2_");
        aml.EisaName("_HID", "PNP0303");
        var resources = aml.BeginResources();
        aml.IoResource(GuestLayout.KeyboardDataPort, 1);
        aml.IoResource(GuestLayout.KeyboardCommandPort, 1);
        aml.IrqResource(GuestLayout.KeyboardGsi);
        aml.EndResources(resources);
        aml.End(keyboard);
        for (var i = 0; i < devices.Count; i++)
        {
            VirtioDevice(ref aml, (byte)i, devices[i]);
        }

        GenerationId(ref aml);
        aml.End(scope);
        aml.BytePackageName("_S5_", [GuestLayout.SoftOffType, GuestLayout.SoftOffType, 0, 0]);
        var size = HeaderSize + aml.Length;
        WriteHeader(table[..size], "DSDT"u8, 2);
        return size;
    }

    private static void SerialPort(ref AmlWriter aml, string name, byte id, ushort port, uint irq)
    {
        var device = aml.BeginDevice(name);
        aml.EisaName("_HID", "PNP0501");
        aml.ByteName("_UID", id);
        var resources = aml.BeginResources();
        aml.IoResource(port, 8);
        aml.IrqResource(irq);
        aml.EndResources(resources);
        aml.End(device);
    }

    private static void VirtioDevice(ref AmlWriter aml, byte id, VirtioPlace place)
    {
        var device = aml.BeginDevice($"V{id:d3}");

        // Under this id Linux takes a device for virtio over memory-mapped I/O.
        aml.StringName("_HID", "LNRO0005");
        aml.ByteName("_UID", id);
        aml.ByteName("_CCA", 1);
        var resources = aml.BeginResources();
        aml.MemoryResource((uint)place.Address, (uint)MmioTransport.Size);
        aml.InterruptResource(place.Gsi);
        aml.EndResources(resources);
        aml.End(device);
    }

    // Where the generation id is, and the generic event device whose interrupt becomes a notification of it.
    private static void GenerationId(ref AmlWriter aml)
    {
        const byte Changed = 0x80;
        var device = aml.BeginDevice("VGEN");
        aml.StringName("_HID", "VMGENCTR");
        aml.StringName("_CID", "VM_Gen_Counter");
        aml.StringName("_DDN", "VM_Gen_Counter");
        aml.DwordPackageName("ADDR", [(uint)GuestLayout.GenerationId, (uint)(GuestLayout.GenerationId >> 32)]);
        aml.End(device);

        var events = aml.BeginDevice("GED_");
        aml.StringName("_HID", "ACPI0013");
        var resources = aml.BeginResources();
        aml.InterruptResource(GuestLayout.GenerationIdGsi);
        aml.EndResources(resources);
        var method = aml.BeginMethod("_EVT", 1);
        aml.Notify("VGEN", Changed);
        aml.End(method);
        aml.End(events);
    }

    private static int WriteFadt(Span<byte> table, ulong dsdt)
    {
        table = table[..FadtSize];
        U32(table, 40, (uint)dsdt);
        U16(table, 109, Has8042 | NoVga | NoCmosClock);
        U32(table, 112, WbinvdWorks | NoFixedPowerButton | NoFixedSleepButton | ResetRegisterSupported | HardwareReduced);
        Register(table[116..], GuestLayout.ResetPort);
        table[128] = GuestLayout.ResetValue;

        // Minor version: 6.5.
        table[131] = 5;
        U64(table, 140, dsdt);
        Register(table[244..], GuestLayout.SleepControlPort);
        Register(table[256..], GuestLayout.SleepStatusPort);
        OemTable.CopyTo(table[268..]);
        WriteHeader(table, "FACP"u8, 6);
        return FadtSize;
    }

    private static int WriteMadt(Span<byte> table, int vcpus)
    {
        U32(table, HeaderSize, GuestLayout.LocalApic);
        var at = HeaderSize + 8;
        for (var i = 0; i < vcpus; i++)
        {
            // Processor local APIC: uid, APIC id, enabled.
            table[at] = 0;
            table[at + 1] = 8;
            table[at + 2] = (byte)i;
            table[at + 3] = (byte)i;
            U32(table, at + 4, 1);
            at += 8;
        }

        // I/O APIC whose pins are the interrupt numbers from 0 on.
        table[at] = 1;
        table[at + 1] = 12;
        table[at + 2] = (byte)vcpus;
        U32(table, at + 4, GuestLayout.IoApic);
        at += 12;

        // The NMI comes to LINT1 of every processor.
        table[at] = 4;
        table[at + 1] = 6;
        table[at + 2] = 0xff;
        table[at + 5] = 1;
        at += 6;
        WriteHeader(table[..at], "APIC"u8, 5);
        return at;
    }

    private static int WriteXsdt(Span<byte> table, ulong fadt, ulong madt)
    {
        const int Size = HeaderSize + 2 * 8;
        table = table[..Size];
        U64(table, HeaderSize, fadt);
        U64(table, HeaderSize + 8, madt);
        WriteHeader(table, "XSDT"u8, 1);
        return Size;
    }

    private static void WriteRsdp(Span<byte> table, ulong xsdt)
    {
        table.Clear();
        "RSD PTR "u8.CopyTo(table);
        Oem.CopyTo(table[9..]);
        table[15] = 2;
        U32(table, 20, RsdpSize);
        U64(table, 24, xsdt);
        table[8] = ChecksumFor(table[..20]);
        table[32] = ChecksumFor(table);
    }

    private static void WriteHeader(Span<byte> table, ReadOnlySpan<byte> signature, byte revision)
    {
        signature.CopyTo(table);
        U32(table, 4, (uint)table.Length);
        table[8] = revision;
        Oem.CopyTo(table[10..]);
        OemTable.CopyTo(table[16..]);
        U32(table, 24, 1);
        "FLVM"u8.CopyTo(table[28..]);
        U32(table, 32, 1);
        table[9] = ChecksumFor(table);
    }

    // Generic address structure: a byte in I/O space.
    private static void Register(Span<byte> target, ushort port)
    {
        target[0] = 1;
        target[1] = 8;
        target[3] = 1;
        U64(target, 4, port);
    }

    /// <summary>The byte that makes the sum of all bytes 0; the place it goes to must be 0 still.</summary>
    internal static byte ChecksumFor(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (var value in bytes)
        {
            sum += value;
        }

        return (byte)-sum;
    }

    private static void U16(Span<byte> target, int offset, ushort value) => BinaryPrimitives.WriteUInt16LittleEndian(target[offset..], value);

    private static void U32(Span<byte> target, int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(target[offset..], value);

    private static void U64(Span<byte> target, int offset, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(target[offset..], value);
}
