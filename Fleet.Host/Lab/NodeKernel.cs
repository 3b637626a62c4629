using System.Buffers.Binary;
using Fleet.Host.Drivers;
using Fleet.Host.Images;
using Serilog;

namespace Fleet.Host.Lab;

/// <summary>
/// Takes the kernel proper out of a bzImage. A bzImage unpacks itself, which takes an emulated CPU as long as all the
/// rest of a node's boot; unpacked here, QEMU loads it as it is and enters it by its PVH note.
/// Layout: the kernel's documentation, arch/x86/boot.
/// </summary>
internal static class NodeKernel
{
    private const int SetupSectors = 0x1F1, Magic = 0x202, Version = 0x206, PayloadOffset = 0x248, PayloadLength = 0x24C, HeaderEnd = 0x250;

    private static readonly TimeSpan UnpackLimit = TimeSpan.FromMinutes(1);

    /// <summary>
    /// Writes the kernel that QEMU is to load to <paramref name="target"/>: unpacked where <c>xz</c> is on this host and the
    /// kernel was packed with it, else the bzImage itself. <paramref name="work"/> is a folder for what lies between.
    /// </summary>
    public static async Task PlaceAsync(string bzImage, string work, string target, ILogger log, CancellationToken cancellation)
    {
        var packed = Path.Combine(work, "payload.xz");
        var unpacked = Path.Combine(work, "payload");
        var payload = Payload(await File.ReadAllBytesAsync(bzImage, cancellation));
        if (payload.Span.StartsWith((ReadOnlySpan<byte>)[0xFD, (byte)'7', (byte)'z', (byte)'X', (byte)'Z', 0]))
        {
            await File.WriteAllBytesAsync(packed, payload, cancellation);
            try
            {
                await ExternalCommand.RunAsync("xz", ["--decompress", packed], work, UnpackLimit, cancellation);
            }
            catch (LaunchFailedException error)
            {
                log.Warning("Lab nodes boot slower than they could, because the kernel can't be unpacked: {Reason}", error.Message);
            }
        }
        File.Move(File.Exists(unpacked) && IsElf(unpacked) ? unpacked : bzImage, target);
    }

    /// <summary>The packed kernel in a bzImage, without the length that stands behind it; empty when it is none.</summary>
    internal static ReadOnlyMemory<byte> Payload(ReadOnlyMemory<byte> bzImage)
    {
        var image = bzImage.Span;
        // The payload's fields came with version 2.08 of the boot protocol.
        if (image.Length < HeaderEnd || !image[Magic..].StartsWith("HdrS"u8) || BinaryPrimitives.ReadUInt16LittleEndian(image[Version..]) < 0x208) return default;
        var setup = image[SetupSectors] is 0 ? 4 : image[SetupSectors];
        var start = (setup + 1) * 512L + BinaryPrimitives.ReadUInt32LittleEndian(image[PayloadOffset..]);
        var length = BinaryPrimitives.ReadUInt32LittleEndian(image[PayloadLength..]) - 4L;
        return length > 0 && start + length <= image.Length ? bzImage.Slice((int)start, (int)length) : default;
    }

    private static bool IsElf(string path)
    {
        using var file = File.OpenRead(path);
        Span<byte> magic = stackalloc byte[4];
        return file.ReadAtLeast(magic, magic.Length, throwOnEndOfStream: false) == magic.Length && magic.SequenceEqual("\u007fELF"u8);
    }
}
