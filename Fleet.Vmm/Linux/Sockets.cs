using System.Runtime.InteropServices;
using System.Text;

namespace Fleet.Vmm.Linux;

/// <summary>Unix stream sockets by number, non-blocking. System.Net.Sockets would bring its own threads.</summary>
internal static unsafe partial class Sockets
{
    internal const int Unix = 1;
    internal const int Stream = 1;
    internal const int NonBlocking = 0x800;
    internal const int CloseOnExec = 0x80000;
    internal const int NoSignal = 0x4000;

    /// <summary>sun_path without the closing NUL; unix(7).</summary>
    public const int LongestPath = 107;

    /// <summary>Makes the socket file, readable and writable for its owner only, and listens. One that was passed listens already.</summary>
    public static int Listen(string path, int backlog)
    {
        if (PassedDescriptor.NumberOf(path) is { } passed)
        {
            var listener = PassedDescriptor.Open(passed);
            return listener >= 0 ? listener : throw SystemCallException.Last("fcntl");
        }

        var length = Encoding.UTF8.GetByteCount(path);
        if (length is 0 or > LongestPath)
        {
            throw new ArgumentException($"A socket path has 1 to {LongestPath} bytes, this one has {length}.");
        }

        // sockaddr_un: the family in two bytes, then the path and its NUL.
        // SAFETY: the path was measured right above and fits, its NUL included; all is on this frame.
        var address = stackalloc byte[2 + LongestPath + 1];
        new Span<byte>(address, 2 + LongestPath + 1).Clear();
        *(ushort*)address = Unix;
        Encoding.UTF8.GetBytes(path, new Span<byte>(address + 2, LongestPath));

        var fd = socket(Unix, Stream | NonBlocking | CloseOnExec, 0);
        if (fd < 0)
        {
            throw SystemCallException.Last("socket");
        }

        var bound = false;

        // The mode of an unbound socket becomes the mode of its file, so there is no moment in which it is open to others.
        // SAFETY: the kernel reads so many bytes of the address during the call only.
        if (fchmod(fd, 0x180) == 0 && bind(fd, address, (uint)(2 + length + 1)) == 0)
        {
            bound = true;
            if (listen(fd, backlog) == 0)
            {
                return fd;
            }
        }

        var failure = SystemCallException.Last(bound ? "listen" : "bind");
        _ = Descriptors.close(fd);
        if (bound)
        {
            _ = Descriptors.unlink(path);
        }

        throw failure;
    }

    /// <summary>The next connection, or -1 when there is none (any more).</summary>
    public static int Accept(int listener) => accept4(listener, null, null, NonBlocking | CloseOnExec);

    /// <summary>Bytes received, 0 at the end of the stream, -1 with errno.</summary>
    public static int Receive(int fd, Span<byte> buffer)
    {
        // SAFETY: pinned for the call, length as given.
        fixed (byte* start = buffer)
        {
            return (int)recv(fd, start, buffer.Length, 0);
        }
    }

    /// <summary>Bytes taken by the kernel, or -1 with errno; never SIGPIPE.</summary>
    public static int Send(int fd, ReadOnlySpan<byte> data)
    {
        // SAFETY: pinned for the call, length as given.
        fixed (byte* start = data)
        {
            return (int)send(fd, start, data.Length, NoSignal);
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int socket(int family, int type, int protocol);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int fchmod(int fd, uint mode);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int bind(int fd, byte* address, uint length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int listen(int fd, int backlog);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int accept4(int fd, byte* address, uint* length, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint recv(int fd, byte* buffer, nint size, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint send(int fd, byte* buffer, nint size, int flags);
}
