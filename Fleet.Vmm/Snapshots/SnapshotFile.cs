using System.Buffers.Binary;

namespace Fleet.Vmm.Snapshots;

/// <summary>
/// The frame of a state file: magic, version of its content, length, content, checksum. A file of another version, one that
/// was cut off and one that was changed are told apart and refused.
/// </summary>
internal static class SnapshotFile
{
    /// <summary>Of the content: any change of what is saved, or in which order, makes a new one.</summary>
    public const uint Version = 1;

    /// <summary>Far above what 32 vCPUs and 19 devices need.</summary>
    public const int LargestFile = 10 << 20;

    private const int HeaderSize = 16;
    private const int ChecksumSize = 8;

    private static ReadOnlySpan<byte> Magic => "FLEETVM\0"u8;

    public static byte[] Frame(ReadOnlySpan<byte> content)
    {
        var file = new byte[HeaderSize + content.Length + ChecksumSize];
        Magic.CopyTo(file);
        BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(8), Version);
        BinaryPrimitives.WriteUInt32LittleEndian(file.AsSpan(12), (uint)content.Length);
        content.CopyTo(file.AsSpan(HeaderSize));
        BinaryPrimitives.WriteUInt64LittleEndian(file.AsSpan(^ChecksumSize..), Checksum(file.AsSpan(..^ChecksumSize)));
        return file;
    }

    /// <summary>The content. Throws <see cref="SnapshotException"/>.</summary>
    public static ReadOnlySpan<byte> Open(ReadOnlySpan<byte> file)
    {
        if (file.Length < HeaderSize + ChecksumSize || !file[..8].SequenceEqual(Magic))
        {
            throw new SnapshotException("it is not a state file of fleet-vmm");
        }

        var version = VersionOf(file);
        if (version != Version)
        {
            throw new SnapshotException($"its version is {version}, this fleet-vmm reads version {Version}");
        }

        var length = BinaryPrimitives.ReadUInt32LittleEndian(file[12..]);
        if (length != file.Length - HeaderSize - ChecksumSize)
        {
            throw new SnapshotException($"it is torn: {file.Length - HeaderSize - ChecksumSize} bytes of content instead of {length}");
        }

        if (BinaryPrimitives.ReadUInt64LittleEndian(file[^ChecksumSize..]) != Checksum(file[..^ChecksumSize]))
        {
            throw new SnapshotException("its checksum is wrong: it was changed after it was written");
        }

        return file[HeaderSize..^ChecksumSize];
    }

    /// <summary>For <c>--describe-snapshot</c>; the file begins as a state file does.</summary>
    public static uint VersionOf(ReadOnlySpan<byte> file) => BinaryPrimitives.ReadUInt32LittleEndian(file[8..]);

    // CRC-64 with ECMA-182's polynomial, reflected.
    private static ulong Checksum(ReadOnlySpan<byte> bytes)
    {
        Span<ulong> table = stackalloc ulong[256];
        for (var i = 0; i < table.Length; i++)
        {
            var value = (ulong)i;
            for (var bit = 0; bit < 8; bit++)
            {
                value = (value >> 1) ^ ((value & 1) * 0xc96c5795d7870f42);
            }

            table[i] = value;
        }

        var crc = ulong.MaxValue;
        foreach (var value in bytes)
        {
            crc = table[(byte)(crc ^ value)] ^ (crc >> 8);
        }

        return ~crc;
    }
}

/// <summary>A snapshot that can't be made or used; the sentence says why.</summary>
internal sealed class SnapshotException(string message, Exception? inner = null) : Exception(message, inner);
