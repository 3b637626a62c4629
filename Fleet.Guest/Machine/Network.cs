using System.Runtime.InteropServices;
using System.Text;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Machine;

/// <summary>The microVM's name and its loopback interface.</summary>
internal static unsafe class Network
{
    private const int AF_INET = 2, SOCK_DGRAM = 2, SOCK_CLOEXEC = 0x80000;
    private const nuint SIOCGIFFLAGS = 0x8913, SIOCSIFFLAGS = 0x8914;
    private const short IFF_UP = 1;

    /// <summary>sizeof(struct ifreq): a name of 16 bytes and a union of 24.</summary>
    private const int IfreqBytes = 40, FlagsOffset = 16;

    public static void SetHostname(string name, Action<string> complain)
    {
        if (name.Length == 0) return;
        using var strings = new NativeStrings();
        // SAFETY: the length is that of the string, which lives until the end of this method.
        if (Libc.sethostname(strings.Add(name), (nuint)Encoding.UTF8.GetByteCount(name)) != 0)
            complain($"the host name can't be set: {Files.Describe(Marshal.GetLastPInvokeError())}");
    }

    /// <summary>The kernel gives the interface 127.0.0.1 and ::1 by itself when it comes up.</summary>
    public static void BringLoopbackUp(Action<string> complain)
    {
        var socket = Libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        // SAFETY: both requests read and write one struct ifreq, which is on this frame; its flags are the first two bytes of the union.
        var request = stackalloc byte[IfreqBytes];
        new Span<byte>(request, IfreqBytes).Clear();
        "lo"u8.CopyTo(new Span<byte>(request, IfreqBytes));
        var failed = socket < 0 || Libc.ioctl(socket, SIOCGIFFLAGS, request) != 0;
        if (!failed)
        {
            *(short*)(request + FlagsOffset) |= IFF_UP;
            failed = Libc.ioctl(socket, SIOCSIFFLAGS, request) != 0;
        }
        if (failed) complain($"the loopback interface can't be brought up: {Files.Describe(Marshal.GetLastPInvokeError())}");
        if (socket >= 0) Libc.close(socket);
    }
}
