using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>A regular file read at positions, straight into where the bytes belong.</summary>
internal unsafe partial class FileContent : IDisposable
{
    /// <summary>What read(2) moves at most in one call, rounded down.</summary>
    private const ulong LargestRead = 1UL << 30;

    private const int FromEnd = 2;

    private int _fd;

    /// <summary>Throws <see cref="SystemCallException"/> or <see cref="NotARegularFileException"/>.</summary>
    public FileContent(string path, int access = Descriptors.ReadOnly)
    {
        _fd = Descriptors.OpenRegularFile(path, access);
        var size = SizeOf(_fd);
        if (size < 0)
        {
            var failure = SystemCallException.Last("lseek");
            Dispose();
            throw failure;
        }

        Size = (ulong)size;
    }

    /// <summary>Bytes, as of the opening.</summary>
    public ulong Size { get; }

    /// <summary>For what else is done with the file; negative once it is closed.</summary>
    protected int Descriptor => _fd;

    /// <summary>Bytes of an open file; negative, with errno, for what has no size. Moves the read position.</summary>
    public static long SizeOf(int fd) => lseek(fd, 0, FromEnd);

    /// <summary>A private, writable mapping of a part; only <see cref="VirtualMemory.Unmap"/> ends it. Throws <see cref="SystemCallException"/>.</summary>
    public byte* Map(ulong offset, nuint size) => VirtualMemory.MapPrivate(_fd, size, (long)offset);

    /// <summary>Reads all of it or says false: the range is not in the file (any more).</summary>
    /// <remarks>The caller answers for <paramref name="length"/> writable bytes at <paramref name="target"/>.</remarks>
    public bool TryRead(ulong offset, byte* target, ulong length)
    {
        if (offset > Size || length > Size - offset)
        {
            return false;
        }

        while (length > 0)
        {
            // SAFETY: never asks for more than the caller's range still has; the step below is what was really read.
            var got = pread(_fd, target, (nint)Math.Min(length, LargestRead), (long)offset);
            if (got < 0)
            {
                if (Marshal.GetLastPInvokeError() == SystemCallException.Interrupted)
                {
                    continue;
                }

                throw SystemCallException.Last("pread");
            }

            if (got == 0)
            {
                return false;
            }

            target += got;
            offset += (ulong)got;
            length -= (ulong)got;
        }

        return true;
    }

    /// <summary>As above, into a span.</summary>
    public bool TryRead(ulong offset, Span<byte> target)
    {
        // SAFETY: pinned for the call, length as given.
        fixed (byte* start = target)
        {
            return TryRead(offset, start, (ulong)target.Length);
        }
    }

    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial long lseek(int fd, long offset, int whence);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint pread(int fd, byte* buffer, nint size, long offset);
}
