using System.Buffers.Binary;
using System.Diagnostics;
using System.Text;
using Fleet.Host.Lab;
using Serilog.Core;

namespace Fleet.Host.Tests.Lab;

/// <summary>Taking a kernel out of its bzImage, with small files of the same layout.</summary>
public sealed class NodeKernelTests : IDisposable
{
    private readonly string _root = Directory.CreateTempSubdirectory("fleet-lab-").FullName;

    public void Dispose() => Directory.Delete(_root, recursive: true);

    [SkippableFact]
    public async Task Should_unpack_a_kernel_packed_with_xz()
    {
        var kernel = (byte[])[0x7F, .. "ELF and so on"u8];
        Assert.Equal(kernel, await PlaceAsync(Image(Xz(kernel), sectors: 4)));
        Assert.Equal(kernel, await PlaceAsync(Image(Xz(kernel), sectors: 39)));
        // No count of sectors means four.
        var old = Image(Xz(kernel), sectors: 4);
        old[0x1F1] = 0;
        Assert.Equal(kernel, await PlaceAsync(old));
    }

    [SkippableFact]
    public async Task Should_keep_a_bzimage_that_it_can_not_unpack()
    {
        foreach (var image in (byte[][])[
            Image("LZ4 perhaps"u8.ToArray(), 4),
            Image([.. Xz("packed"u8.ToArray()).Take(20)], 4),
            Image(Xz("no ELF file"u8.ToArray()), 4)])
        {
            Assert.Equal(image, await PlaceAsync(image));
        }
    }

    [Fact]
    public void Should_find_no_payload_outside_the_file()
    {
        var image = Image(new byte[100], 4);
        Assert.Equal(100, NodeKernel.Payload(image).Length);
        Assert.True(NodeKernel.Payload(image.AsMemory(..^5)).IsEmpty);
        Assert.True(NodeKernel.Payload(image.AsMemory(..0x24F)).IsEmpty);
        Assert.True(NodeKernel.Payload(default).IsEmpty);
        foreach (var (offset, value) in new[] { (0x248, uint.MaxValue), (0x24C, uint.MaxValue), (0x24C, 3u), (0x202, 0u), (0x206, 0x0207u) })
        {
            var wrong = (byte[])image.Clone();
            BinaryPrimitives.WriteUInt32LittleEndian(wrong.AsSpan(offset), value);
            Assert.True(NodeKernel.Payload(wrong).IsEmpty, $"{value:x} at {offset:x}");
        }
    }

    private async Task<byte[]> PlaceAsync(byte[] image)
    {
        var work = Directory.CreateDirectory(Path.Combine(_root, Guid.NewGuid().ToString("N"))).FullName;
        var source = Path.Combine(work, "bzimage");
        await File.WriteAllBytesAsync(source, image);
        await NodeKernel.PlaceAsync(source, work, Path.Combine(work, "kernel"), Logger.None, default);
        return await File.ReadAllBytesAsync(Path.Combine(work, "kernel"));
    }

    /// <summary>Set-up sectors, then the protected-mode part: 64 bytes of code, the payload, its unpacked length.</summary>
    private static byte[] Image(byte[] payload, int sectors)
    {
        var image = new byte[(sectors + 1) * 512 + 64 + payload.Length + 4];
        image[0x1F1] = (byte)sectors;
        Encoding.ASCII.GetBytes("HdrS").CopyTo(image, 0x202);
        BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(0x206), 0x20F);
        BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(0x248), 64);
        BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(0x24C), (uint)payload.Length + 4);
        payload.CopyTo(image, (sectors + 1) * 512 + 64);
        return image;
    }

    private static byte[] Xz(byte[] content)
    {
        Skip.IfNot(File.Exists("/usr/bin/xz"), "the package xz-utils is not installed");
        using var xz = Process.Start(new ProcessStartInfo("/usr/bin/xz", ["--stdout"]) { RedirectStandardInput = true, RedirectStandardOutput = true })!;
        xz.StandardInput.BaseStream.Write(content);
        xz.StandardInput.Close();
        using var packed = new MemoryStream();
        xz.StandardOutput.BaseStream.CopyTo(packed);
        xz.WaitForExit();
        return packed.ToArray();
    }
}
