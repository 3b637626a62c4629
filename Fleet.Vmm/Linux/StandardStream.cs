using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>What stands behind a descriptor that the process was given.</summary>
internal enum StreamKind
{
    /// <summary>Closed.</summary>
    None,

    File,

    /// <summary>A pipe, a FIFO or a socket.</summary>
    Pipe,

    Terminal,

    /// <summary>Anything else, /dev/null for one.</summary>
    Other,
}

/// <summary>
/// A descriptor that the process was given, standard input or output, made non-blocking where it could block. The setting
/// belongs to the open file and so to whoever gave it to us too: it is put back on <see cref="Dispose"/>.
/// </summary>
internal sealed unsafe partial class StandardStream : IDisposable
{
    private const int GetFlags = 3;
    private const int SetFlags = 4;
    private const int NonBlocking = 0x800;

    private const uint TypeMask = 0xf000;
    private const uint TypeFifo = 0x1000;
    private const uint TypeSocket = 0xc000;
    private const uint TypeFile = 0x8000;

    private int _flagsBefore = -1;

    public StandardStream(int fd)
    {
        Descriptor = fd;
        Kind = KindOf(fd);
        if (Kind is StreamKind.Pipe or StreamKind.Terminal or StreamKind.Other)
        {
            var flags = fcntl(fd, GetFlags, 0);
            if (flags >= 0 && (flags & NonBlocking) == 0 && fcntl(fd, SetFlags, flags | NonBlocking) >= 0)
            {
                _flagsBefore = flags;
            }
        }
    }

    public int Descriptor { get; }

    public StreamKind Kind { get; }

    public void Dispose()
    {
        if (_flagsBefore >= 0)
        {
            _ = fcntl(Descriptor, SetFlags, _flagsBefore);
            _flagsBefore = -1;
        }
    }

    private static StreamKind KindOf(int fd)
    {
        // struct stat of x86-64 is 144 bytes, st_mode the 32-bit word at 24 (asm/stat.h).
        var status = stackalloc byte[256];

        // SAFETY: the buffer is larger than the struct.
        if (fstat(fd, status) < 0)
        {
            return StreamKind.None;
        }

        return (*(uint*)(status + 24) & TypeMask) switch
        {
            TypeFifo or TypeSocket => StreamKind.Pipe,
            TypeFile => StreamKind.File,
            _ => isatty(fd) == 1 ? StreamKind.Terminal : StreamKind.Other,
        };
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fstat(int fd, byte* status);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fcntl(int fd, int command, nint argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int isatty(int fd);
}
