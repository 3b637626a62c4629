using System.Buffers.Binary;
using CsCheck;
using Fleet.Vmm.Boot;
using Fleet.Vmm.Machines;
using Fleet.Vmm.Tests.Machines;

namespace Fleet.Vmm.Tests.Boot;

public sealed class KernelImageTests : IDisposable
{
    private readonly TestFiles _files = new();

    [Fact]
    public void Should_load_a_bzimage_at_one_mebibyte()
    {
        var kernel = _files.Load(BzImage());
        Assert.Equal(EntryMode.Linux64, kernel.Mode);
        Assert.Equal(0x100200UL, kernel.Entry);
        Assert.Equal((16UL << 20) + (8 << 20), kernel.End);
        Assert.Equal(0x26c - 0x1f1, kernel.SetupHeader.Length);
        Assert.Equal(0xc5, _files.Memory.Slice(0x100000, 1)[0]);
        Assert.Equal(2047, kernel.CommandLineLimit);
    }

    [Theory]
    [InlineData(0x1fe, 0x00, "boot sector")]
    [InlineData(0x207, 0x01, "boot protocol 1.15")]
    [InlineData(0x206, 0x0b, "boot protocol 2.11")]
    [InlineData(0x211, 0x00, "zImage")]
    [InlineData(0x236, 0x00, "64-bit entry")]
    [InlineData(0x201, 0x10, "setup header")]
    [InlineData(0x201, 0xff, "setup header")]
    [InlineData(0x1f6, 0xff, "cut off")]
    [InlineData(0x1f1, 0xff, "cut off")]
    [InlineData(0x25f, 0x01, "prefers")]
    [InlineData(0x230, 0x01, "alignment")]
    [InlineData(0x263, 0x10, "MiB of memory")]
    public void Should_refuse_a_bzimage_with_a_wrong_field(int offset, byte value, string why)
    {
        var image = BzImage();
        image[offset] = value;
        var refused = Assert.Throws<MachineException>(() => _files.Load(image));
        Assert.Equal(MachineFault.KernelInvalid, refused.Fault);
        Assert.Contains(why, refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_say_how_much_memory_a_kernel_needs()
    {
        using var small = new TestFiles(mebibytes: 20);
        var refused = Assert.Throws<MachineException>(() => small.Load(BzImage()));
        Assert.Equal("The kernel can't be booted: it needs 24 MiB of memory before it can start, the microVM has 20 MiB.", refused.Message);
    }

    [Fact]
    public void Should_enter_an_elf_file_by_its_note_or_else_by_its_header()
    {
        Assert.Equal((EntryMode.Linux64, 0x100000UL), Entry(_files.Load(ElfImage.Linux64([0xf4]))));
        Assert.Equal((EntryMode.Pvh, 0x100000UL), Entry(_files.Load(ElfImage.Pvh([0xf4]))));
        Assert.Equal(0xf4, _files.Memory.Slice(0x100000, 1)[0]);

        static (EntryMode, ulong) Entry(LoadedKernel kernel) => (kernel.Mode, kernel.Entry);
    }

    [Theory]
    [InlineData(4, 1, "64-bit little-endian")]
    [InlineData(18, 3, "x86-64")]
    [InlineData(54, 1, "segments")]
    [InlineData(56, 0, "segments")]
    [InlineData(35, 0x70, "cut off")]
    [InlineData(24, 0xff, "entry")]
    [InlineData(88 + 2, 0, "below 1 MiB")]
    [InlineData(88 + 7, 0xff, "where devices live")]
    [InlineData(88 + 3, 0x40, "MiB of memory")]
    [InlineData(96 + 7, 0x7f, "larger in the file")]
    [InlineData(104 + 7, 0xff, "where devices live")]
    [InlineData(72 + 7, 0xff, "cut off")]
    public void Should_refuse_an_elf_file_with_a_wrong_field(int offset, byte value, string why)
    {
        var image = ElfImage.Linux64(new byte[32]);
        image[offset] = value;
        var refused = Assert.Throws<MachineException>(() => _files.Load(image));
        Assert.Equal(MachineFault.KernelInvalid, refused.Fault);
        Assert.Contains(why, refused.Message, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("")]
    [InlineData("MZ")]
    [InlineData("\u007fELF")]
    [InlineData("This is a text file, and a long one at that: it has more than sixty-four bytes.")]
    public void Should_refuse_what_is_no_kernel(string content)
    {
        Assert.Throws<MachineException>(() => _files.Load(System.Text.Encoding.Latin1.GetBytes(content)));
    }

    [Fact]
    public void Should_load_or_refuse_whatever_it_is_given()
    {
        Mutations(BzImage(), 0x1f0, 0x270);
        Mutations(ElfImage.Linux64(new byte[100]), 0, 130);
        Mutations(ElfImage.Pvh(new byte[100]), 0, 200);
    }

    [Fact]
    public void Should_place_the_initrd_below_both_limits_and_above_the_kernel()
    {
        var kernel = _files.Load(BzImage());
        var content = new byte[5000];
        content[^1] = 9;
        var range = _files.LoadInitrd(content, kernel);
        Assert.Equal((64UL << 20) - 8192, range.Start);
        Assert.Equal(5000UL, range.Size);
        Assert.Equal(9, _files.Memory.Slice(range.End - 1, 1)[0]);

        var limited = _files.LoadInitrd(content, kernel with { InitrdLast = (32 << 20) - 1 });
        Assert.Equal((32UL << 20) - 8192, limited.Start);

        Refused(() => _files.LoadInitrd(content, kernel with { InitrdLast = 0 }));
        Refused(() => _files.LoadInitrd(content, kernel with { End = (64 << 20) - 4096 }));
        Refused(() => _files.LoadInitrd([], kernel));

        static void Refused(Action load) =>
            Assert.Equal(MachineFault.InitrdInvalid, Assert.Throws<MachineException>(load).Fault);
    }

    public void Dispose() => _files.Dispose();

    private void Mutations(byte[] image, int start, int end)
    {
        var interesting = Gen.OneOf(Gen.Byte, Gen.OneOf(Gen.Const((byte)0), Gen.Const((byte)1), Gen.Const((byte)0x7f), Gen.Const((byte)0x80), Gen.Const((byte)0xff)));
        var change = Gen.Select(Gen.Int[start, Math.Min(end, image.Length) - 1], interesting);
        Gen.Select(change.Array[1, 12], Gen.Int[0, image.Length]).Sample(
            (changes, length) =>
            {
                var mutant = image.ToArray();
                foreach (var (offset, value) in changes)
                {
                    mutant[offset] = value;
                }

                _files.LoadOrRefuse(mutant);
                _files.LoadOrRefuse(mutant[..length]);
            },
            iter: 400,
            threads: 1);
    }

    // The fields that a loader reads, as Debian's kernel has them, with a small body.
    private static byte[] BzImage()
    {
        const int SetupSectors = 2;
        const int CodeSize = 0x2000;
        var image = new byte[(SetupSectors + 1) * 512 + CodeSize];
        image[0x1f1] = SetupSectors;
        U32(0x1f4, CodeSize / 16);
        image[0x1fe] = 0x55;
        image[0x1ff] = 0xaa;
        image[0x200] = 0xeb;
        image[0x201] = 0x6a;
        "HdrS"u8.CopyTo(image.AsSpan(0x202));
        image[0x206] = 0x0f;
        image[0x207] = 0x02;
        image[0x211] = 1;
        U32(0x22c, 0x7fffffff);
        U32(0x230, 0x200000);
        image[0x234] = 1;
        image[0x236] = 0x7f;
        U32(0x238, 2047);
        U32(0x258, 16 << 20);
        U32(0x260, 8 << 20);
        image[(SetupSectors + 1) * 512] = 0xc5;
        return image;

        void U32(int offset, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(offset), value);
    }
}
