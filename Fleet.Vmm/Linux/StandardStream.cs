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

    /// <summary>A terminal whose foreground job we are.</summary>
    Terminal,

    /// <summary>Anything else: /dev/null, or a terminal that others use.</summary>
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

    /// <summary>sizeof(struct termios) of glibc on x86-64 is 60.</summary>
    private const int TerminalStateSize = 128;

    /// <summary>c_oflag in struct termios.</summary>
    private const int OutputModes = 4;

    private const int Now = 0;

    private int _flagsBefore = -1;
    private byte[]? _terminalBefore;

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

    /// <summary>
    /// Hands every key to the reader as it is pressed, as a serial line does, Ctrl-C included; no-op for anything but the
    /// terminal that we are in the foreground of. What is written there still gets its line ends.
    /// </summary>
    public void MakeRaw()
    {
        if (Kind != StreamKind.Terminal || _terminalBefore is not null)
        {
            return;
        }

        var before = new byte[TerminalStateSize];
        var raw = stackalloc byte[TerminalStateSize];

        // SAFETY: both buffers are larger than the struct.
        fixed (byte* state = before)
        {
            if (tcgetattr(Descriptor, state) < 0)
            {
                return;
            }

            new ReadOnlySpan<byte>(state, TerminalStateSize).CopyTo(new Span<byte>(raw, TerminalStateSize));
            cfmakeraw(raw);
            *(uint*)(raw + OutputModes) = *(uint*)(state + OutputModes);
            if (tcsetattr(Descriptor, Now, raw) == 0)
            {
                _terminalBefore = before;
            }
        }
    }

    public void Dispose()
    {
        if (_terminalBefore is { } before)
        {
            // SAFETY: the buffer is larger than the struct, and was filled by the kernel.
            fixed (byte* state = before)
            {
                _ = tcsetattr(Descriptor, Now, state);
            }

            _terminalBefore = null;
        }

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

            // A background job that reads its terminal or changes it is stopped by the kernel.
            _ => isatty(fd) == 1 && tcgetpgrp(fd) == getpgrp() ? StreamKind.Terminal : StreamKind.Other,
        };
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fstat(int fd, byte* status);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fcntl(int fd, int command, nint argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int isatty(int fd);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int tcgetpgrp(int fd);

    [LibraryImport("libc")]
    private static partial int getpgrp();

    [LibraryImport("libc", SetLastError = true)]
    private static partial int tcgetattr(int fd, byte* state);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int tcsetattr(int fd, int when, byte* state);

    [LibraryImport("libc")]
    private static partial void cfmakeraw(byte* state);
}
