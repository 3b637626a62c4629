using System.Runtime.InteropServices;
using System.Text;
using Fleet.Vmm.Linux;
using Xunit;

namespace Fleet.Vmm.Tests.Devices.Virtio;

/// <summary>
/// A network namespace with taps, for one thread: nothing of the machine's own network is touched. The kernel takes it
/// down with the thread and the last descriptor into it.
/// </summary>
internal static unsafe partial class OwnNetwork
{
    private const int NewNetwork = 0x40000000;
    private const ulong SetPersistent = 0x400454cb;
    private const ulong SetFlags = 0x8914;
    private const short Up = 1;

    /// <summary>Moves the calling thread, which must be one that ends soon and is nobody else's, into a new network with these taps, up.</summary>
    public static void Enter(params string[] taps)
    {
        Check(unshare(NewNetwork), "unshare");

        // No frames of the kernel's own accord: /proc/sys/net is that of the thread that opens it.
        foreach (var scope in (string[])["all", "default"])
        {
            var setting = $"/proc/sys/net/ipv6/conf/{scope}/disable_ipv6";
            if (File.Exists(setting))
            {
                File.WriteAllText(setting, "1");
            }
        }

        foreach (var tap in taps)
        {
            Make(tap);
        }
    }

    /// <summary>Takes away a tap of this thread's network that somebody may still hold.</summary>
    public static void Remove(string tap)
    {
        using var command = System.Diagnostics.Process.Start("busybox", ["ip", "link", "delete", tap]);
        command.WaitForExit();
        Assert.Equal(0, command.ExitCode);
    }

    /// <summary>Whether this machine lets us: root, and a tun driver.</summary>
    public static bool IsPossible => Environment.UserName == "root" && File.Exists("/dev/net/tun");

    /// <summary>A raw socket that sees and sends every frame of an interface of this thread's network.</summary>
    public static int OpenRaw(string tap)
    {
        const int PacketFamily = 17;
        const int Raw = 3;
        const ushort AllProtocols = 0x0300;
        var fd = socket(PacketFamily, Raw | 0x800, AllProtocols);
        Check(fd, "socket");
        var address = stackalloc byte[20];
        new Span<byte>(address, 20).Clear();
        *(ushort*)address = PacketFamily;
        *(ushort*)(address + 2) = AllProtocols;
        *(int*)(address + 4) = (int)if_nametoindex(tap);
        Check(bind(fd, address, 20), "bind");
        return fd;
    }

    /// <summary>Runs it on a thread in a network of its own, and throws what it throws.</summary>
    public static void Run(Action test, params string[] taps)
    {
        Exception? failure = null;
        var thread = new Thread(() =>
        {
            try
            {
                Enter(taps);
                test();
            }
            catch (Exception thrown)
            {
                failure = thrown;
            }
        });
        thread.Start();
        thread.Join();
        if (failure is not null)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(failure);
        }
    }

    private static void Make(string tap)
    {
        var fd = Descriptors.OpenDevice("/dev/net/tun");
        var request = stackalloc byte[TapInterface.RequestSize];
        new Span<byte>(request, TapInterface.RequestSize).Clear();
        Encoding.ASCII.GetBytes(tap, new Span<byte>(request, TapInterface.NameSize));
        *(short*)(request + TapInterface.NameSize) = TapInterface.Tap | TapInterface.NoPacketInformation | TapInterface.VnetHeader;
        Check(ioctl(fd, TapInterface.SetInterface, (nint)request), "TUNSETIFF");
        Check(ioctl(fd, SetPersistent, 1), "TUNSETPERSIST");
        _ = Descriptors.close(fd);
        var anySocket = socket(2, 2, 0);
        *(short*)(request + TapInterface.NameSize) = Up;
        Check(ioctl(anySocket, SetFlags, (nint)request), "SIOCSIFFLAGS");
        _ = Descriptors.close(anySocket);
    }

    private static void Check(int result, string call) => Assert.True(result >= 0, $"{call}: {Marshal.GetLastPInvokeErrorMessage()}");

    [LibraryImport("libc", SetLastError = true)]
    private static partial int unshare(int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ioctl(int fd, ulong request, nint argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int socket(int family, int type, int protocol);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int bind(int fd, byte* address, int length);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial uint if_nametoindex(string name);
}
