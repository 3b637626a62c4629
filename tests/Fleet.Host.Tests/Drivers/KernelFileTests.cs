using System.Buffers.Binary;
using CsCheck;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;

namespace Fleet.Host.Tests.Drivers;

public sealed class KernelFileTests : IDisposable
{
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-kernel-").FullName;

    public void Dispose() => Directory.Delete(_folder, recursive: true);

    private string Kernel(byte[] content) => TinyKernel.Write(_folder, content);

    private static byte[] BzImage(ushort protocol = 0x20f, ushort flags = 0x7f, ulong preferred = 16 << 20, uint initSize = 54 << 20)
    {
        var image = new byte[8192];
        BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(0x1fe), 0xaa55);
        "HdrS"u8.CopyTo(image.AsSpan(0x202));
        BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(0x206), protocol);
        BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(0x236), flags);
        BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(0x258), preferred);
        BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(0x260), initSize);
        return image;
    }

    private static (string Code, string Message) Refusal(Action check)
    {
        var refused = Assert.Throws<LaunchFailedException>(check);
        return (refused.Code, refused.Message);
    }

    [Fact]
    public void Should_know_kernels()
    {
        Assert.Equal(new KernelFile(KernelFormat.BzImage, false), KernelFile.Check(Kernel(BzImage()), "", 128));
        Assert.Equal(new KernelFile(KernelFormat.Elf, true), KernelFile.Check(Kernel(TinyKernel.Halting()), "", 128));
        var silent = TinyKernel.Halting();
        silent[0x108] = 17;
        Assert.Equal(new KernelFile(KernelFormat.Elf, false), KernelFile.Check(Kernel(silent), "", 128));
    }

    [Fact]
    public void Should_refuse_too_little_memory_and_say_how_much_it_takes()
    {
        string kernel = Kernel(BzImage());
        KernelFile.Check(kernel, "", 70);
        var (code, message) = Refusal(() => KernelFile.Check(kernel, "", 69));
        Assert.Equal("kernel_invalid", code);
        Assert.Contains("70 MiB", message, StringComparison.Ordinal);
        string initrd = Kernel(new byte[1 << 20]);
        Assert.Contains("71 MiB", Refusal(() => KernelFile.Check(kernel, initrd, 70)).Message, StringComparison.Ordinal);
        string absurd = Kernel(BzImage(preferred: ulong.MaxValue, initSize: uint.MaxValue));
        Assert.Equal("kernel_invalid", Refusal(() => KernelFile.Check(absurd, "", 128)).Code);
    }

    [Fact]
    public void Should_refuse_what_is_no_kernel()
    {
        byte[][] wrong =
        [
            [], "text"u8.ToArray(), new byte[1 << 16], BzImage(protocol: 0x203), BzImage(flags: 0), BzImage()[..0x220],
            "\u007fELF"u8.ToArray(), TinyKernel.Halting()[..100], TinyKernel.Halting().Select((b, i) => i == 18 ? (byte)3 : b).ToArray(),
            TinyKernel.Halting().Select((b, i) => i == 4 ? (byte)1 : b).ToArray(),
        ];
        foreach (var content in wrong)
        {
            string path = Kernel(content);
            var (code, message) = Refusal(() => KernelFile.Check(path, "", 128));
            Assert.Equal("kernel_invalid", code);
            Assert.Contains(path, message, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Should_name_the_file_that_is_missing()
    {
        string nowhere = Path.Combine(_folder, "nowhere");
        Assert.Equal("kernel_missing", Refusal(() => KernelFile.Check(nowhere, "", 128)).Code);
        Assert.Equal("kernel_missing", Refusal(() => KernelFile.Check(_folder, "", 128)).Code);
        Assert.Equal("kernel_missing", Refusal(() => KernelFile.Check("/dev/zero", "", 128)).Code);
        string fifo = Path.Combine(_folder, "fifo");
        Posix.MakeFifo(fifo);
        Assert.Equal("kernel_missing", Refusal(() => KernelFile.Check(fifo, "", 128)).Code);
        Assert.Equal("kernel_missing", Refusal(() => KernelFile.Check(Kernel([]) + "/below", "", 128)).Code);
        var (code, message) = Refusal(() => KernelFile.Check(Kernel(BzImage()), nowhere, 128));
        Assert.Equal("initrd_missing", code);
        Assert.Contains(nowhere, message, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_stand_any_change_of_a_kernel()
    {
        byte[][] kernels = [BzImage(), TinyKernel.Halting()];
        string path = Path.Combine(_folder, "changed");
        Gen.Select(Gen.Int[0, 1], Gen.Select(Gen.Int[0, 0x260], Gen.Byte).Array[1, 8], Gen.Int[0, 4500]).Sample((which, changes, length) =>
        {
            var kernel = kernels[which].ToArray();
            foreach (var (at, value) in changes) kernel[at] = value;
            File.WriteAllBytes(path, kernel[..Math.Min(length, kernel.Length)]);
            try
            {
                KernelFile.Check(path, "", 128);
            }
            catch (LaunchFailedException refused)
            {
                Assert.Equal("kernel_invalid", refused.Code);
            }
        }, iter: 500, threads: 1);
    }
}
