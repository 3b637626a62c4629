using System.Buffers.Binary;
using System.Text;
using Fleet.Vmm.Boot;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Tests.Boot;

/// <summary>The tables as a guest finds and checks them.</summary>
public sealed class BootTablesTests : IDisposable
{
    private readonly GuestMemory _memory = new(16 << 20);

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    [InlineData(32)]
    public void Should_write_acpi_tables_that_lead_to_each_other(int vcpus)
    {
        AcpiTables.Write(_memory, vcpus, secondSerialPort: true, []);
        var rsdp = _memory.Slice(GuestLayout.Rsdp, 36);
        Assert.Equal("RSD PTR ", Text(rsdp[..8]));
        Assert.Equal(0, Sum(rsdp[..20]));
        Assert.Equal(0, Sum(rsdp));
        var xsdt = Table(U64(rsdp, 24), "XSDT");
        var fadt = Table(U64(xsdt, 36), "FACP");
        var madt = Table(U64(xsdt, 44), "APIC");
        Assert.Equal(52, xsdt.Length);
        Assert.Equal(276, fadt.Length);
        Table(U64(fadt, 140), "DSDT");

        // Hardware-reduced with a reset register; no VGA, no CMOS clock, but an i8042.
        Assert.Equal((1u << 20) | (1 << 10), U32(fadt, 112) & ((1u << 20) | (1 << 10)));
        Assert.Equal(0x26, BinaryPrimitives.ReadUInt16LittleEndian(fadt[109..]));
        Assert.Equal(GuestLayout.ResetPort, U64(fadt, 120));
        Assert.Equal(GuestLayout.SleepControlPort, U64(fadt, 248));
        Assert.Equal(GuestLayout.SleepStatusPort, U64(fadt, 260));

        var processors = new List<byte>();
        var at = 44;
        while (at < madt.Length)
        {
            if (madt[at] == 0)
            {
                processors.Add(madt[at + 3]);
                Assert.Equal(1u, U32(madt, at + 4));
            }

            Assert.NotEqual(0, madt[at + 1]);
            at += madt[at + 1];
        }

        Assert.Equal(madt.Length, at);
        Assert.Equal(Enumerable.Range(0, vcpus).Select(id => (byte)id), processors);
    }

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Should_describe_the_devices_that_there_are(bool second)
    {
        AcpiTables.Write(_memory, 1, second, []);
        var names = DevicesOf(Table(U64(Table(U64(Table(U64(_memory.Slice(GuestLayout.Rsdp, 36), 24), "XSDT"), 36), "FACP"), 140), "DSDT")[36..]);
        string[] expected = second ? ["COM1", "COM2", "PS2_", "VGEN", "GED_"] : ["COM1", "PS2_", "VGEN", "GED_"];
        Assert.Equal(expected, names);
    }

    [Fact]
    public void Should_describe_every_virtio_device_at_its_place()
    {
        var places = Enumerable.Range(0, GuestLayout.MostVirtioDevices)
            .Select(i => new VirtioPlace(GuestLayout.VirtioDevices + ((ulong)i * 0x1000), GuestLayout.FirstVirtioGsi + (uint)i)).ToList();
        AcpiTables.Write(_memory, 32, true, places);
        var dsdt = Table(U64(Table(U64(Table(U64(_memory.Slice(GuestLayout.Rsdp, 36), 24), "XSDT"), 36), "FACP"), 140), "DSDT");
        string[] expected = ["COM1", "COM2", "PS2_", .. places.Select((_, i) => $"V{i:d3}"), "VGEN", "GED_"];
        Assert.Equal(expected, DevicesOf(dsdt[36..]));
        foreach (var place in places)
        {
            // Memory32Fixed and the extended interrupt, as ACPI 6.5 §6.4.3 writes them.
            byte[] resources =
            [
                0x86, 9, 0, 1, .. BitConverter.GetBytes((uint)place.Address), 0, 0x10, 0, 0,
                0x89, 6, 0, 3, 1, .. BitConverter.GetBytes(place.Gsi), 0x79, 0,
            ];
            Assert.True(dsdt.IndexOf(resources) > 0, $"{place}");
        }
    }

    [Theory]
    [InlineData(1)]
    [InlineData(32)]
    public void Should_write_an_mp_table_whose_entries_end_where_it_ends(int vcpus)
    {
        MpTable.Write(_memory, vcpus);
        var pointer = _memory.Slice(GuestLayout.MpTable, 16);
        Assert.Equal("_MP_", Text(pointer[..4]));
        Assert.Equal(0, Sum(pointer));
        var header = _memory.Slice(U32(pointer, 4), 44);
        var length = BinaryPrimitives.ReadUInt16LittleEndian(header[4..]);
        var table = _memory.Slice(U32(pointer, 4), length);
        Assert.True(U32(pointer, 4) + length <= GuestLayout.MpTableEnd);
        Assert.Equal("PCMP", Text(table[..4]));
        Assert.Equal(0, Sum(table));
        var at = 44;
        var entries = 0;
        var processors = 0;
        while (at < length)
        {
            processors += table[at] == 0 ? 1 : 0;
            at += table[at] == 0 ? 20 : 8;
            entries++;
        }

        Assert.Equal(length, at);
        Assert.Equal(vcpus, processors);
        Assert.Equal(entries, BinaryPrimitives.ReadUInt16LittleEndian(table[34..]));
    }

    [Fact]
    public void Should_write_a_zero_page_that_linux_accepts()
    {
        var kernel = new LoadedKernel { Mode = EntryMode.Linux64, Entry = 0x100000, End = 0x200000 };
        BootInformation.WriteZeroPage(_memory, kernel, 17, new MemoryRange(0x800000, 5000));
        var page = _memory.Slice(GuestLayout.ZeroPage, 4096);
        Assert.Equal("HdrS", Text(page.Slice(0x202, 4)));
        Assert.Equal(0xff, page[0x210]);
        Assert.Equal(0x800000u, U32(page, 0x218));
        Assert.Equal(5000u, U32(page, 0x21c));
        Assert.Equal((uint)GuestLayout.CommandLine, U32(page, 0x228));
        Assert.Equal(17u, U32(page, 0x238));
        Assert.Equal(GuestLayout.Rsdp, U64(page, 0x70));
        Assert.Equal(3, page[0x1e8]);
        Assert.Equal(GuestLayout.MpTable, U64(page, 0x2d0 + 8));
        Assert.Equal((16UL << 20) - GuestLayout.HighMemory, U64(page, 0x2d0 + 40 + 8));
    }

    [Fact]
    public void Should_never_pass_on_a_list_that_the_kernel_file_made_up()
    {
        var header = Enumerable.Repeat((byte)0xff, 0x26c - 0x1f1).ToArray();
        var kernel = new LoadedKernel { Mode = EntryMode.Linux64, Entry = 0x100200, End = 0x200000, SetupHeader = header };
        BootInformation.WriteZeroPage(_memory, kernel, 1, default);
        var page = _memory.Slice(GuestLayout.ZeroPage, 4096);
        Assert.Equal(0UL, U64(page, 0x250));
        Assert.Equal(0UL, U64(page, 0x218));
    }

    [Fact]
    public void Should_write_a_pvh_start_info_with_memory_map_and_module()
    {
        BootInformation.WritePvhStartInfo(_memory, new MemoryRange(0x800000, 5000));
        var info = _memory.Slice(GuestLayout.PvhStartInfo, 56);
        Assert.Equal(0x336ec578u, U32(info, 0));
        Assert.Equal(1u, U32(info, 4));
        Assert.Equal(1u, U32(info, 12));
        Assert.Equal(0x800000UL, U64(_memory.Slice(U64(info, 16), 16), 0));
        Assert.Equal(GuestLayout.CommandLine, U64(info, 24));
        Assert.Equal(GuestLayout.Rsdp, U64(info, 32));
        Assert.Equal(3u, U32(info, 48));
        Assert.Equal(2u, U32(_memory.Slice(U64(info, 40) + 24, 24), 16));
    }

    public void Dispose() => _memory.Dispose();

    // Follows the AML of the DSDT: a scope that holds devices, package lengths of two bytes.
    private static List<string> DevicesOf(ReadOnlySpan<byte> aml)
    {
        Assert.Equal(0x10, aml[0]);
        var scopeEnd = 1 + Length(aml[1..]);
        Assert.Equal("_SB_", Text(aml.Slice(3, 4)));
        var names = new List<string>();
        var at = 7;
        while (at < scopeEnd)
        {
            Assert.Equal(0x5b, aml[at]);
            Assert.Equal(0x82, aml[at + 1]);
            names.Add(Text(aml.Slice(at + 4, 4)));
            at += 2 + Length(aml[(at + 2)..]);
        }

        Assert.Equal(scopeEnd, at);
        Assert.Equal(0x08, aml[at]);
        Assert.Equal("_S5_", Text(aml.Slice(at + 1, 4)));
        Assert.Equal(aml.Length, at + 6 + Length(aml[(at + 6)..]));
        return names;

        static int Length(ReadOnlySpan<byte> encoded)
        {
            Assert.Equal(0x40, encoded[0] & 0xf0);
            return (encoded[0] & 0xf) | (encoded[1] << 4);
        }
    }

    private Span<byte> Table(ulong address, string signature)
    {
        var length = (int)U32(_memory.Slice(address, 36), 4);
        var table = _memory.Slice(address, length);
        Assert.Equal(signature, Text(table[..4]));
        Assert.Equal(0, Sum(table));
        Assert.True(address + (ulong)length <= GuestLayout.HighMemory);
        return table;
    }

    private static string Text(ReadOnlySpan<byte> bytes) => Encoding.ASCII.GetString(bytes);

    private static byte Sum(ReadOnlySpan<byte> bytes)
    {
        byte sum = 0;
        foreach (var value in bytes)
        {
            sum += value;
        }

        return sum;
    }

    private static uint U32(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt32LittleEndian(bytes[offset..]);

    private static ulong U64(ReadOnlySpan<byte> bytes, int offset) => BinaryPrimitives.ReadUInt64LittleEndian(bytes[offset..]);
}
