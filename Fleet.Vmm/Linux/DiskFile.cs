using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>A file as a disk: read and written at positions, straight from and to guest memory.</summary>
internal sealed unsafe partial class DiskFile : IDisposable
{
    private int _fd;

    /// <summary>Throws <see cref="SystemCallException"/> or <see cref="NotARegularFileException"/>.</summary>
    public DiskFile(string path, bool readOnly)
    {
        _fd = Descriptors.OpenRegularFile(path, readOnly ? Descriptors.ReadOnly : Descriptors.ReadWrite);
        var size = FileContent.SizeOf(_fd);
        if (size < 0)
        {
            var failure = SystemCallException.Last("lseek");
            Dispose();
            throw failure;
        }

        Size = (ulong)size;
    }

    /// <summary>Bytes, as of the opening: the guest's disk does not grow or shrink under it.</summary>
    public ulong Size { get; }

    /// <summary>Fills the span from a position; false when the host can't read it.</summary>
    public bool TryRead(ulong offset, Span<byte> target)
    {
        while (!target.IsEmpty)
        {
            nint got;

            // SAFETY: pinned for the call, length as given.
            fixed (byte* start = target)
            {
                got = pread(_fd, start, target.Length, (long)offset);
            }

            if (got <= 0)
            {
                if (got < 0 && Marshal.GetLastPInvokeError() == SystemCallException.Interrupted)
                {
                    continue;
                }

                return false;
            }

            target = target[(int)got..];
            offset += (ulong)got;
        }

        return true;
    }

    /// <summary>Writes the span at a position; false when the host can't (a full disk, a limit).</summary>
    public bool TryWrite(ulong offset, ReadOnlySpan<byte> source)
    {
        while (!source.IsEmpty)
        {
            nint put;

            // SAFETY: pinned for the call, length as given.
            fixed (byte* start = source)
            {
                put = pwrite(_fd, start, source.Length, (long)offset);
            }

            if (put <= 0)
            {
                if (put < 0 && Marshal.GetLastPInvokeError() == SystemCallException.Interrupted)
                {
                    continue;
                }

                return false;
            }

            source = source[(int)put..];
            offset += (ulong)put;
        }

        return true;
    }

    /// <summary>What was written is on the host's disk afterwards; false when that failed.</summary>
    public bool TryFlush() => fdatasync(_fd) == 0;

    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint pread(int fd, byte* buffer, nint size, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint pwrite(int fd, byte* buffer, nint size, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fdatasync(int fd);
}
