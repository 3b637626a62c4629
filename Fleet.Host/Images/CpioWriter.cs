using System.Globalization;
using System.Text;

namespace Fleet.Host.Images;

/// <summary>
/// Makes cpio archives in the "new ASCII" format, the one the Linux kernel unpacks as an initramfs
/// (format: kernel documentation, driver-api/early-userspace/buffer-format).
/// The same entries always give the same bytes: entries are sorted by path, owners are root, times are zero and inode
/// numbers count up. Parent directories that were not added are made with mode 0755. A finished archive is padded to
/// 4 bytes, so that another one may follow it in the same file; of two entries with one path the later archive wins.
/// </summary>
public sealed class CpioWriter
{
    /// <summary>The kernel drops entries with longer names without a word (PATH_MAX counts the final NUL).</summary>
    private const int LongestPath = 4095;

    private const string Trailer = "TRAILER!!!";
    private const uint TypeDirectory = 0x4000, TypeFile = 0x8000, TypeSymlink = 0xA000, TypeCharacterDevice = 0x2000;

    private readonly SortedDictionary<string, Entry> _entries = new(StringComparer.Ordinal);

    private sealed record Entry(uint Mode, ReadOnlyMemory<byte> Content, string? SourcePath, uint Major, uint Minor);

    /// <summary>Adds a directory. <paramref name="path"/> is relative to the root: <c>usr/bin</c>.</summary>
    public CpioWriter AddDirectory(string path, int permissions = 0x1ED) =>
        Add(path, new Entry(TypeDirectory | Permissions(permissions), default, null, 0, 0));

    /// <summary>Adds a file with these bytes; they must not change until the archive is written.</summary>
    public CpioWriter AddFile(string path, ReadOnlyMemory<byte> content, int permissions = 0x1A4) =>
        Add(path, new Entry(TypeFile | Permissions(permissions), content, null, 0, 0));

    /// <summary>Adds a file whose bytes are read from the host's <paramref name="sourcePath"/> when the archive is written.</summary>
    public CpioWriter AddFileFrom(string path, string sourcePath, int permissions = 0x1A4) =>
        Add(path, new Entry(TypeFile | Permissions(permissions), default, sourcePath, 0, 0));

    /// <summary>Adds a symbolic link that points to <paramref name="target"/>, which is stored as it is.</summary>
    public CpioWriter AddSymlink(string path, string target)
    {
        var bytes = Encoding.UTF8.GetBytes(target);
        if (bytes.Length is 0 or > LongestPath || target.Contains('\0', StringComparison.Ordinal))
            throw new ArgumentException($"A symbolic link can't point to '{Show(target)}': 1 to {LongestPath} bytes without NUL.", nameof(target));
        return Add(path, new Entry(TypeSymlink | 0x1FF, bytes, null, 0, 0));
    }

    /// <summary>Adds a character device node, for example 5:1 for the console.</summary>
    public CpioWriter AddCharacterDevice(string path, int major, int minor, int permissions = 0x180)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(major);
        ArgumentOutOfRangeException.ThrowIfNegative(minor);
        return Add(path, new Entry(TypeCharacterDevice | Permissions(permissions), default, null, (uint)major, (uint)minor));
    }

    /// <summary>Writes the archive, trailer and padding to 4 bytes included. The writer may be used again.</summary>
    public void WriteTo(Stream output)
    {
        ArgumentNullException.ThrowIfNull(output);
        var inode = 1u;
        foreach (var (path, entry) in WithParents())
        {
            if (entry.SourcePath is null)
            {
                WriteHeader(output, path, entry, inode, (uint)entry.Content.Length);
                output.Write(entry.Content.Span);
                Pad(output, entry.Content.Length);
            }
            else
            {
                WriteFileFrom(output, path, entry, inode);
            }
            inode++;
        }
        WriteHeader(output, Trailer, new Entry(0, default, null, 0, 0), 0, 0);
    }

    /// <summary>The archive as bytes; for small archives.</summary>
    public byte[] ToArray()
    {
        using var buffer = new MemoryStream();
        WriteTo(buffer);
        return buffer.ToArray();
    }

    private CpioWriter Add(string path, Entry entry)
    {
        RefuseHostilePath(path);
        if (!_entries.TryAdd(path, entry))
            throw new ArgumentException($"The archive already has an entry '{Show(path)}'.", nameof(path));
        return this;
    }

    private SortedDictionary<string, Entry> WithParents()
    {
        var all = new SortedDictionary<string, Entry>(_entries, StringComparer.Ordinal);
        foreach (var path in _entries.Keys)
        {
            for (var slash = path.LastIndexOf('/'); slash > 0; slash = path.LastIndexOf('/', slash - 1))
            {
                var parent = path[..slash];
                if (!all.TryGetValue(parent, out var present))
                    all.Add(parent, new Entry(TypeDirectory | 0x1ED, default, null, 0, 0));
                else if ((present.Mode & 0xF000) != TypeDirectory)
                    throw new InvalidOperationException($"'{Show(path)}' can't be inside '{Show(parent)}', which is not a directory.");
            }
        }
        return all;
    }

    private static void WriteFileFrom(Stream output, string path, Entry entry, uint inode)
    {
        using var source = new FileStream(entry.SourcePath!, FileMode.Open, FileAccess.Read, FileShare.Read);
        var length = source.Length;
        if (length > uint.MaxValue)
            throw new InvalidOperationException($"'{entry.SourcePath}' is larger than the 4 GiB that a cpio entry can hold.");
        WriteHeader(output, path, entry, inode, (uint)length);
        var buffer = new byte[81920];
        for (var left = length; left > 0;)
        {
            var read = source.Read(buffer, 0, (int)Math.Min(left, buffer.Length));
            if (read == 0) throw new IOException($"'{entry.SourcePath}' became shorter while it was read.");
            output.Write(buffer, 0, read);
            left -= read;
        }
        Pad(output, length);
    }

    private static void WriteHeader(Stream output, string path, Entry entry, uint inode, uint size)
    {
        var name = Encoding.UTF8.GetBytes(path);
        var links = (entry.Mode & 0xF000) == TypeDirectory ? 2u : 1u;
        // ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
        ReadOnlySpan<uint> fields =
            [inode, entry.Mode, 0, 0, links, 0, size, 0, 0, entry.Major, entry.Minor, (uint)name.Length + 1, 0];
        Span<byte> header = stackalloc byte[6 + 8 * 13];
        "070701"u8.CopyTo(header);
        for (var i = 0; i < fields.Length; i++)
            fields[i].TryFormat(header.Slice(6 + 8 * i, 8), out _, "X8", CultureInfo.InvariantCulture);
        output.Write(header);
        output.Write(name);
        output.WriteByte(0);
        Pad(output, header.Length + name.Length + 1);
    }

    private static void Pad(Stream output, long length)
    {
        ReadOnlySpan<byte> zeroes = [0, 0, 0];
        output.Write(zeroes[..(int)(-length & 3)]);
    }

    private static uint Permissions(int permissions) =>
        permissions is >= 0 and <= 0xFFF
            ? (uint)permissions
            : throw new ArgumentOutOfRangeException(nameof(permissions), permissions, "Permissions are 12 bits: 0 to 7777 octal.");

    private static void RefuseHostilePath(string path)
    {
        ArgumentNullException.ThrowIfNull(path);
        string? wrong = path switch
        {
            "" => "it is empty",
            Trailer => "it marks the end of an archive",
            _ when path.Contains('\0', StringComparison.Ordinal) => "it contains a NUL",
            _ when Encoding.UTF8.GetByteCount(path) > LongestPath => $"it is longer than {LongestPath} bytes",
            _ when path.Split('/').Any(part => part is "" or "." or "..") => "it is absolute or has an empty, '.' or '..' part",
            _ => null,
        };
        if (wrong is not null)
            throw new ArgumentException($"'{Show(path)}' can't be a path in an archive: {wrong}.", nameof(path));
    }

    private static string Show(string path) => path.Length > 200 ? path[..200] + "…" : path.Replace("\0", "\\0", StringComparison.Ordinal);
}
