using System.Runtime.InteropServices;
using System.Text;

namespace Fleet.Guest.Linux;

/// <summary>
/// Files by plain system calls. The base library's own file types would make the binary larger, and every byte of it is
/// unpacked at each boot.
/// </summary>
internal static unsafe class Files
{
    /// <summary>A descriptor, or -1 with <paramref name="error"/> set. It is not inherited by programs that are started.</summary>
    public static int Open(string path, int flags, out int error, uint mode = 0)
    {
        using var strings = new NativeStrings();
        int fd;
        do
        {
            // SAFETY: the string ends with NUL and lives until the end of this method.
            fd = Libc.open(strings.Add(path), flags | Libc.O_CLOEXEC, mode);
            error = fd < 0 ? Marshal.GetLastPInvokeError() : 0;
        }
        while (error == Libc.EINTR);
        return fd;
    }

    /// <summary>A file's bytes, or null with <paramref name="error"/> set (0: larger than <paramref name="limit"/>).</summary>
    public static byte[]? Read(string path, int limit, out int error)
    {
        var fd = Open(path, Libc.O_RDONLY, out error);
        if (fd < 0) return null;
        var bytes = new byte[Math.Min(limit + 1, 4096)];
        var length = 0;
        try
        {
            while (true)
            {
                if (length == bytes.Length)
                {
                    if (length > limit) return null;
                    Array.Resize(ref bytes, Math.Min(limit + 1, length * 2));
                }
                nint read;
                // SAFETY: length < bytes.Length, and the array is pinned during the call.
                fixed (byte* start = bytes) read = Libc.read(fd, start + length, (nuint)(bytes.Length - length));
                if (read == 0) break;
                if (read < 0)
                {
                    error = Marshal.GetLastPInvokeError();
                    if (error == Libc.EINTR) continue;
                    return null;
                }
                length += (int)read;
            }
        }
        finally
        {
            Libc.close(fd);
        }
        error = 0;
        return length > limit ? null : bytes[..length];
    }

    /// <summary>Writes all bytes; false when the descriptor does not take them.</summary>
    public static bool WriteAll(int fd, ReadOnlySpan<byte> bytes)
    {
        while (bytes.Length > 0)
        {
            nint written;
            // SAFETY: the span is pinned during the call and its own length is given.
            fixed (byte* start = bytes) written = Libc.write(fd, start, (nuint)bytes.Length);
            if (written < 0 && Marshal.GetLastPInvokeError() == Libc.EINTR) continue;
            if (written <= 0) return false;
            bytes = bytes[(int)written..];
        }
        return true;
    }

    /// <summary>Replaces a small file's content, as a setting in /proc/sys takes it. False when it can't be written.</summary>
    public static bool Write(string path, ReadOnlySpan<byte> bytes)
    {
        var fd = Open(path, Libc.O_WRONLY, out _);
        if (fd < 0) return false;
        var written = WriteAll(fd, bytes);
        Libc.close(fd);
        return written;
    }

    /// <summary>Puts a new file in the place of what has its name; where a link of that name leads to is left alone. 0, or an errno.</summary>
    public static int Replace(string path, ReadOnlySpan<byte> bytes, uint mode)
    {
        using (var strings = new NativeStrings())
        {
            // SAFETY: the string ends with NUL and lives until the end of this block.
            Libc.unlink(strings.Add(path));
        }
        // With O_EXCL no link is followed, should there be one again.
        var file = Open(path, Libc.O_WRONLY | Libc.O_CREAT | Libc.O_EXCL, out var error, mode);
        if (file < 0) return error;
        if (!WriteAll(file, bytes)) error = Marshal.GetLastPInvokeError();
        Libc.close(file);
        return error;
    }

    /// <summary>
    /// Gives a folder another's owner, mode and extended attributes; 0, or the errno that kept it from that. Attributes that its file system does not
    /// take, and overlayfs's own, are left out.
    /// </summary>
    public static int CopyAttributes(string from, string to)
    {
        const int emptyPath = 0x1000, ofMode = 2, ofUser = 8, ofGroup = 0x10;
        var source = Open(from, Libc.O_RDONLY, out var error);
        if (source < 0) return error;
        var target = Open(to, Libc.O_RDONLY, out error);
        try
        {
            if (target < 0) return error;
            byte nothing = 0;
            // SAFETY: struct statx has 256 bytes on every architecture, on this frame: stx_uid stands at 20, stx_gid at 24, stx_mode at 28.
            var status = stackalloc byte[256];
            if (Libc.statx(source, &nothing, emptyPath, ofMode | ofUser | ofGroup, status) != 0
                || Libc.fchown(target, *(uint*)(status + 20), *(uint*)(status + 24)) != 0
                || Libc.fchmod(target, *(ushort*)(status + 28) & 0xFFFu) != 0)
            {
                return Marshal.GetLastPInvokeError();
            }
            CopyXattrs(source, target);
            return 0;
        }
        finally
        {
            Libc.close(source);
            if (target >= 0) Libc.close(target);
        }
    }

    private static void CopyXattrs(int source, int target)
    {
        // XATTR_LIST_MAX and XATTR_SIZE_MAX.
        byte[] names = new byte[65536], value = new byte[65536];
        // SAFETY: both arrays are pinned during the calls and their own lengths are given; each of the names that the kernel wrote ends with NUL.
        fixed (byte* first = names, bytes = value)
        {
            var length = (int)Libc.flistxattr(source, first, (nuint)names.Length);
            for (var at = 0; at < length;)
            {
                var name = MemoryMarshal.CreateReadOnlySpanFromNullTerminated(first + at);
                var size = name.StartsWith("trusted.overlay."u8) ? -1 : Libc.fgetxattr(source, first + at, bytes, (nuint)value.Length);
                if (size >= 0) Libc.fsetxattr(target, first + at, bytes, (nuint)size, 0);
                at += name.Length + 1;
            }
        }
    }

    /// <summary>Makes a folder; one that is there is as good.</summary>
    public static void MakeFolder(string path)
    {
        using var strings = new NativeStrings();
        // SAFETY: the string ends with NUL and lives until the end of this method.
        Libc.mkdir(strings.Add(path), 0x1ED);
    }

    /// <summary>The same with every folder that it is in.</summary>
    public static void MakeFolders(string path)
    {
        for (var slash = path.IndexOf('/', 1); slash > 0; slash = path.IndexOf('/', slash + 1)) MakeFolder(path[..slash]);
        MakeFolder(path);
    }

    /// <summary>The names in a directory; empty when it can't be read.</summary>
    public static IReadOnlyList<string> List(string path)
    {
        if (!System.IO.Directory.Exists(path)) return [];
        var names = new List<string>();
        foreach (var entry in System.IO.Directory.EnumerateFileSystemEntries(path)) names.Add(System.IO.Path.GetFileName(entry));
        return names;
    }

    /// <summary>The C library's words for an error number.</summary>
    public static string Describe(int error)
    {
        var text = Libc.strerror(error);
        // SAFETY: strerror gives a string that ends with NUL; it is copied before any other call.
        return text is null ? $"error {error}" : Encoding.UTF8.GetString(MemoryMarshal.CreateReadOnlySpanFromNullTerminated(text));
    }
}
