using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>
/// Files and pipes by number. System.IO costs more memory at start than the rest of the process together, and its
/// streams block; here every open says O_NONBLOCK and every size is bounded by the caller.
/// </summary>
internal static unsafe partial class Descriptors
{
    internal const int ReadOnly = 0;
    internal const int WriteOnly = 1;
    internal const int ReadWrite = 2;
    internal const int Create = 0x40;
    internal const int Truncate = 0x200;
    internal const int NoTerminal = 0x100;
    internal const int Append = 0x400;
    internal const int NonBlocking = 0x800;
    internal const int CloseOnExec = 0x80000;
    internal const int OnlyDirectory = 0x10000;
    internal const int NoFollow = 0x20000;

    internal const uint FileTypeMask = 0xf000;
    internal const uint RegularFile = 0x8000;
    internal const int PollWritable = 4;

    /// <summary>Of st_mode in struct stat, x86-64; 24 behind device, inode and link count. The struct has 144 bytes.</summary>
    internal const int ModeOffset = 24;

    /// <summary>Opens a regular file. Anything else (a FIFO, a directory, a device) is refused, so that no open ever hangs.</summary>
    public static int OpenRegularFile(string path, int access = ReadOnly)
    {
        var fd = Open(path, access | NonBlocking | NoTerminal | CloseOnExec, 0);
        if (fd < 0)
        {
            throw SystemCallException.Last("open");
        }

        var status = stackalloc byte[256];

        // SAFETY: the buffer is larger than the struct on every architecture.
        if (fstat(fd, status) < 0 || (*(uint*)(status + ModeOffset) & FileTypeMask) != RegularFile)
        {
            _ = close(fd);
            throw new NotARegularFileException();
        }

        return fd;
    }

    /// <summary>
    /// Opens a file or a FIFO for log lines: appended, made when it is missing, never waiting for a FIFO's reader.
    /// Read-write because a FIFO without a reader would otherwise refuse (fifo(7)).
    /// </summary>
    public static int OpenSink(string path)
    {
        var fd = Open(path, ReadWrite | Append | Create | NonBlocking | NoTerminal | CloseOnExec, 0x180);
        return fd >= 0 ? fd : throw SystemCallException.Last("open");
    }

    /// <summary>Opens a device such as /dev/kvm for reading and writing, with further flags.</summary>
    public static int OpenDevice(string path, int flags = 0)
    {
        var fd = open(path, ReadWrite | NoTerminal | CloseOnExec | flags, 0);
        return fd >= 0 ? fd : throw SystemCallException.Last("open");
    }

    /// <summary>The whole of a regular file; more than <paramref name="limit"/> bytes throw <see cref="FileTooLargeException"/>.</summary>
    public static byte[] ReadFile(string path, int limit)
    {
        var fd = OpenRegularFile(path);
        try
        {
            var content = new byte[4096];
            var length = 0;
            while (true)
            {
                if (length == content.Length)
                {
                    Array.Resize(ref content, content.Length * 2);
                }

                nint got;

                // SAFETY: pinned for the call, and never told more room than there is behind the index.
                fixed (byte* start = &content[length])
                {
                    got = read(fd, start, content.Length - length);
                }

                if (got < 0)
                {
                    throw SystemCallException.Last("read");
                }

                if (got == 0)
                {
                    Array.Resize(ref content, length);
                    return content;
                }

                length += (int)got;
                if (length > limit)
                {
                    throw new FileTooLargeException(limit);
                }
            }
        }
        finally
        {
            _ = close(fd);
        }
    }

    /// <summary>Replaces the file in one step: whoever reads it sees the old content or the new one, never a part.</summary>
    public static void ReplaceFile(string path, ReadOnlySpan<byte> content)
    {
        // What is behind a passed descriptor has no name that could be replaced; who passed it reads it after our end.
        if (PassedDescriptor.NumberOf(path) is { } passed)
        {
            if (!WriteAll(passed, content))
            {
                throw SystemCallException.Last("write");
            }

            return;
        }

        var temporary = path + ".new";
        var fd = open(temporary, WriteOnly | Create | Truncate | NoFollow | NonBlocking | NoTerminal | CloseOnExec, 0x1a4);
        if (fd < 0)
        {
            throw SystemCallException.Last("open");
        }

        var failed = !WriteAll(fd, content) ? SystemCallException.Last("write") : null;
        _ = close(fd);
        if (failed is null && rename(temporary, path) < 0)
        {
            failed = SystemCallException.Last("rename");
        }

        if (failed is not null)
        {
            _ = unlink(temporary);
            throw failed;
        }
    }

    /// <summary>Writes everything or says false and leaves errno. For files: a partial write to them means the disk is full.</summary>
    public static bool WriteAll(int fd, ReadOnlySpan<byte> content)
    {
        while (!content.IsEmpty)
        {
            nint written;

            // SAFETY: pinned for the call, length as given.
            fixed (byte* start = content)
            {
                written = write(fd, start, content.Length);
            }

            if (written <= 0)
            {
                return false;
            }

            content = content[(int)written..];
        }

        return true;
    }

    /// <summary>
    /// Whether a write of at most PIPE_BUF (4096) bytes goes through now. A blocking pipe says yes only when it has
    /// that much room (pipe(7)), so a write after a yes can't hang even where the fd is not ours to make non-blocking.
    /// </summary>
    public static bool CanWrite(int fd)
    {
        var request = new PollRequest { Fd = fd, Events = PollWritable };

        // SAFETY: one entry, on this frame, for the length of the call.
        return poll(&request, 1, 0) == 1 && (request.Answered & PollWritable) != 0;
    }

    private static int Open(string path, int flags, uint mode) =>
        PassedDescriptor.NumberOf(path) is { } passed ? PassedDescriptor.Open(passed) : open(path, flags, mode);

    [StructLayout(LayoutKind.Sequential)]
    internal struct PollRequest
    {
        public int Fd;
        public short Events;
        public short Answered;
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int open(string path, int flags, uint mode);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fstat(int fd, byte* status);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int poll(PollRequest* requests, ulong count, int timeoutMilliseconds);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int rename(string from, string to);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int unlink(string path);

    [LibraryImport("libc", SetLastError = true)]
    public static partial nint read(int fd, byte* buffer, nint size);

    [LibraryImport("libc", SetLastError = true)]
    public static partial nint write(int fd, byte* buffer, nint size);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int dup(int fd);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int close(int fd);
}

/// <summary>The path names something that can't be read like a file.</summary>
internal sealed class NotARegularFileException() : Exception("not a regular file");

/// <summary>A file that is larger than anything it could rightly be.</summary>
internal sealed class FileTooLargeException(int limit) : Exception($"larger than {limit} bytes");
