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
    /// <summary>For the kernel's asynchronous interface.</summary>
    public int Handle => Descriptor;

    /// <summary>Fills the pieces from a position; false when the host can't read it.</summary>
    /// <remarks>The caller answers for the pieces: so many bytes each that may be written.</remarks>
    public bool TryFill(ulong offset, IoPiece* pieces, int count) => TryMove(offset, pieces, count, reads: true);

    /// <summary>Writes the pieces at a position; false when the host can't (a full disk, a limit).</summary>
    /// <remarks>The caller answers for the pieces: so many bytes each.</remarks>
    public bool TryWrite(ulong offset, IoPiece* pieces, int count) => TryMove(offset, pieces, count, reads: false);

    private bool TryMove(ulong offset, IoPiece* pieces, int count, bool reads)
    {
        while (count > 0)
        {
            // SAFETY: the caller's pieces; below they are made shorter by what was moved, never longer.
            var moved = reads ? preadv(Descriptor, pieces, count, (long)offset) : pwritev(Descriptor, pieces, count, (long)offset);
            if (moved <= 0)
            {
                if (moved < 0 && Marshal.GetLastPInvokeError() == SystemCallException.Interrupted)
                {
                    continue;
                }

                // The end of a file that was cut short meanwhile is an error too.
                return false;
            }

            offset += (ulong)moved;
            IoPiece.Advance(ref pieces, ref count, (nuint)moved);
        }

        return true;
    }

    /// <summary>What was written is on the host's disk afterwards; false when that failed.</summary>
    public bool TryFlush() => fdatasync(Descriptor) == 0;

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint preadv(int fd, IoPiece* pieces, int count, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint pwritev(int fd, IoPiece* pieces, int count, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fdatasync(int fd);
}
