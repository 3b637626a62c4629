using System.Runtime.InteropServices;
using System.Text;

namespace Fleet.Vmm.Linux;

/// <summary>A connection to another process' Unix stream socket, over which a descriptor can be handed.</summary>
/// <remarks>All of it throws <see cref="SystemCallException"/>; nothing waits longer than it is told to.</remarks>
internal sealed unsafe partial class DescriptorChannel : IDisposable
{
    internal const int SocketLevel = 1;
    internal const int SendTimeout = 21;
    internal const int PassDescriptors = 1;

    internal const int NameTooLong = 36;

    private int _fd;

    /// <param name="path">Where somebody listens.</param>
    /// <param name="patience">How long connecting and each message may take.</param>
    public DescriptorChannel(string path, TimeSpan patience)
    {
        var length = Encoding.UTF8.GetByteCount(path);
        if (length is 0 or > Sockets.LongestPath)
        {
            throw new SystemCallException("connect", NameTooLong);
        }

        _fd = socket(Sockets.Unix, Sockets.Stream | Sockets.CloseOnExec, 0);
        if (_fd < 0)
        {
            throw SystemCallException.Last("socket");
        }

        var time = stackalloc long[2];
        time[0] = (long)patience.TotalSeconds;
        time[1] = patience.Milliseconds * 1000L;

        // SAFETY: struct timeval of two words; sockaddr_un as Sockets.Listen makes it; all on this frame.
        var address = stackalloc byte[2 + Sockets.LongestPath + 1];
        new Span<byte>(address, 2 + Sockets.LongestPath + 1).Clear();
        *(ushort*)address = Sockets.Unix;
        Encoding.UTF8.GetBytes(path, new Span<byte>(address + 2, Sockets.LongestPath));
        if (setsockopt(_fd, SocketLevel, SendTimeout, time, 2 * sizeof(long)) < 0 || connect(_fd, address, (uint)(2 + length + 1)) < 0)
        {
            var failure = SystemCallException.Last("connect");
            Dispose();
            throw failure;
        }
    }

    /// <summary>For the event loop: hung up when the other side has gone.</summary>
    public int Descriptor => _fd;

    /// <summary>Sends a message and a descriptor with it, in one piece.</summary>
    public void Send(ReadOnlySpan<byte> message, int descriptor)
    {
        // struct cmsghdr (length, level, type), then the descriptor, padded to a word.
        var control = stackalloc ulong[3];
        control[0] = 16 + sizeof(int);
        ((int*)control)[2] = SocketLevel;
        ((int*)control)[3] = PassDescriptors;
        ((int*)control)[4] = descriptor;
        ((int*)control)[5] = 0;
        nint sent;

        // SAFETY: the message is pinned, all else is on this frame, and the kernel uses it during the call only.
        fixed (byte* start = message)
        {
            var part = stackalloc nuint[2];
            part[0] = (nuint)start;
            part[1] = (nuint)message.Length;
            var header = new MessageHeader { Parts = part, PartCount = 1, Control = control, ControlLength = 24 };
            sent = sendmsg(_fd, &header, Sockets.NoSignal);
        }

        if (sent != message.Length)
        {
            throw sent < 0 ? SystemCallException.Last("sendmsg") : new SystemCallException("sendmsg", SystemCallException.TryAgain);
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

    /// <summary>struct msghdr of x86-64.</summary>
    [StructLayout(LayoutKind.Sequential)]
    internal struct MessageHeader
    {
        public void* Name;
        public ulong NameLength;
        public void* Parts;
        public ulong PartCount;
        public void* Control;
        public ulong ControlLength;
        public ulong Flags;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int socket(int family, int type, int protocol);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int setsockopt(int fd, int level, int name, void* value, uint length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int connect(int fd, byte* address, uint length);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint sendmsg(int fd, MessageHeader* message, int flags);
}
