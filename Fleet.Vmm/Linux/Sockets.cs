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

    private const int AddressSize = 2 + LongestPath + 1;

    /// <summary>Makes the socket file, readable and writable for its owner only, and listens. One that was passed listens already.</summary>
    public static int Listen(string path, int backlog)
    {
        if (PassedDescriptor.NumberOf(path) is { } passed)
        {
            var listener = PassedDescriptor.Open(passed);
            return listener >= 0 ? listener : throw SystemCallException.Last("fcntl");
        }

        // SAFETY: room for the whole structure, on this frame.
        var address = stackalloc byte[AddressSize];
        var length = WriteAddress(path, new Span<byte>(address, AddressSize))
            ?? throw new ArgumentException($"A socket path has 1 to {LongestPath} bytes, this one has {Encoding.UTF8.GetByteCount(path)}.");

        var fd = socket(Unix, Stream | NonBlocking | CloseOnExec, 0);
        if (fd < 0)
        {
            throw SystemCallException.Last("socket");
        }

        var bound = false;

        // The mode of an unbound socket becomes the mode of its file, so there is no moment in which it is open to others.
        // SAFETY: the kernel reads so many bytes of the address during the call only.
        if (fchmod(fd, 0x180) == 0 && bind(fd, address, length) == 0)
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

    /// <summary>A connection to whoever listens at a path, or -1 with errno; never waits.</summary>
    public static int Connect(string path)
    {
        var address = stackalloc byte[AddressSize];
        if (WriteAddress(path, new Span<byte>(address, AddressSize)) is not { } length)
        {
            return -1;
        }

        var fd = socket(Unix, Stream | NonBlocking | CloseOnExec, 0);

        // SAFETY: the kernel reads so many bytes of the address during the call only.
        if (fd >= 0 && connect(fd, address, length) < 0)
        {
            _ = Descriptors.close(fd);
            return -1;
        }

        return fd;
    }

    /// <summary>Nothing more will be sent: the other side reads the end of the stream behind what was.</summary>
    public static void ShutSending(int fd) => _ = shutdown(fd, 1);

    /// <summary>As <see cref="Receive(int, Span{byte})"/>, into several pieces.</summary>
    /// <remarks>The caller answers for the pieces: so many bytes each that may be written.</remarks>
    public static int Receive(int fd, IoPiece* pieces, int count)
    {
        var message = new MessageHeader { Pieces = pieces, Count = (nuint)count };

        // SAFETY: the structure is on this frame, the pieces are the caller's.
        return (int)recvmsg(fd, &message, 0);
    }

    /// <summary>As <see cref="Send(int, ReadOnlySpan{byte})"/>, from several pieces.</summary>
    /// <remarks>The caller answers for the pieces.</remarks>
    public static int Send(int fd, IoPiece* pieces, int count)
    {
        var message = new MessageHeader { Pieces = pieces, Count = (nuint)count };

        // SAFETY: the structure is on this frame, the pieces are the caller's.
        return (int)sendmsg(fd, &message, NoSignal);
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

    // sockaddr_un: the family in two bytes, then the path and its NUL. Null when the path is none or too long.
    private static uint? WriteAddress(string path, Span<byte> address)
    {
        var length = Encoding.UTF8.GetByteCount(path);
        if (length is 0 or > LongestPath)
        {
            return null;
        }

        address.Clear();
        address[0] = Unix;
        Encoding.UTF8.GetBytes(path, address[2..]);
        return (uint)(2 + length + 1);
    }

    /// <summary>struct msghdr.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct MessageHeader
    {
        public void* Name;
        public uint NameLength;
        public IoPiece* Pieces;
        public nuint Count;
        public void* Control;
        public nuint ControlLength;
        public int Flags;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int connect(int fd, byte* address, uint length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int shutdown(int fd, int how);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint recvmsg(int fd, MessageHeader* message, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint sendmsg(int fd, MessageHeader* message, int flags);

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
