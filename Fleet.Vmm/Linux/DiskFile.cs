using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>
/// A file as a disk: read and written at positions, straight from and to guest memory. Its size is that of the opening: the
/// guest's disk does not grow or shrink under it.
/// </summary>
/// <exception cref="SystemCallException">It can't be opened.</exception>
/// <exception cref="NotARegularFileException">It is something else.</exception>
internal sealed unsafe partial class DiskFile(string path, bool readOnly)
    : FileContent(path, readOnly ? Descriptors.ReadOnly : Descriptors.ReadWrite)
{
    /// <summary>Fills the span from a position; false when the host can't read it.</summary>
    public bool TryFill(ulong offset, Span<byte> target)
    {
        try
        {
            return TryRead(offset, target);
        }
        catch (SystemCallException)
        {
            return false;
        }
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
                put = pwrite(Descriptor, start, source.Length, (long)offset);
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
    public bool TryFlush() => fdatasync(Descriptor) == 0;

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint pwrite(int fd, byte* buffer, nint size, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fdatasync(int fd);
}
