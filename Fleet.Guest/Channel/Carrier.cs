using System.Runtime.InteropServices;
using System.Text;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Channel;

/// <summary>What carries the channel's bytes: a vsock port that the host dials, or a virtio-serial port (docs/guest-protocol.md).</summary>
internal abstract class Carrier
{
    /// <summary>A descriptor on which the host is there; waits until it comes. Below zero: it never will.</summary>
    public abstract int Await();

    /// <summary>Readable when another connection of the host waits, which replaces the one there is; below zero: that can't be.</summary>
    public virtual int Listener => -1;

    private const int Looks = 200, BetweenLooks = 50;

    /// <summary>What this machine has; null: neither. Waits for a port whose driver is there: its device tells of it a little later.</summary>
    public static Carrier? Find()
    {
        for (var look = 0; look < Looks; look++)
        {
            if (SerialCarrier.Find() is { } serial) return serial;
            if (VsockCarrier.Find() is { } vsock) return vsock;
            if (!Directory.Exists(SerialCarrier.Ports)) return null;
            Thread.Sleep(BetweenLooks);
        }
        return null;
    }
}

/// <summary>A named port of a virtio console device.</summary>
internal sealed unsafe class SerialCarrier(string path) : Carrier
{
    public const string PortName = "fleet.channel";

    public const string Ports = "/sys/class/virtio-ports";

    public static new SerialCarrier? Find()
    {
        foreach (var port in Files.List(Ports))
        {
            if (Files.Read($"{Ports}/{port}/name", 256, out _) is { } name && Encoding.ASCII.GetString(name).Trim() == PortName)
                return new SerialCarrier("/dev/" + port);
        }
        return null;
    }

    public override int Await()
    {
        // Opened anew each time: the kernel throws away what an earlier conversation left in it.
        var fd = Files.Open(path, Libc.O_RDWR, out _);
        if (fd < 0) return fd;
        // Writing is the only thing that waits for the host; reading says at once that nobody is there. The host passes over the zero.
        byte nothing = 0;
        // SAFETY: one byte, on this frame.
        while (Libc.write(fd, &nothing, 1) < 0)
        {
            if (Marshal.GetLastPInvokeError() == Libc.EINTR) continue;
            Libc.close(fd);
            return -1;
        }
        _ = Libc.fcntl(fd, Libc.F_SETFL, Libc.fcntl(fd, Libc.F_GETFL, 0) | Libc.O_NONBLOCK);
        return fd;
    }
}

/// <summary>A vsock port, on which the VMM connects what dials its Unix socket.</summary>
internal sealed unsafe class VsockCarrier : Carrier
{
    /// <summary>The port's number.</summary>
    public const uint Port = 7070;

    private const int AF_VSOCK = 40, SOCK_STREAM = 1, SOCK_CLOEXEC = 0x80000, SOCK_NONBLOCK = 0x800;
    private const uint AnyContext = uint.MaxValue;

    /// <summary>struct sockaddr_vm: family, two bytes of nothing, port, context, four bytes.</summary>
    private const int AddressBytes = 16;

    private readonly int _listener;

    private VsockCarrier(int listener) => _listener = listener;

    public override int Listener => _listener;

    public static new VsockCarrier? Find()
    {
        // Asked without a device, the kernel would load the socket family for nothing.
        if (!Directory.Exists("/sys/module/vmw_vsock_virtio_transport")) return null;
        var fd = Libc.socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0) return null;
        // SAFETY: the address is on this frame, and its size is given.
        var address = stackalloc byte[AddressBytes];
        new Span<byte>(address, AddressBytes).Clear();
        *(ushort*)address = AF_VSOCK;
        *(uint*)(address + 4) = Port;
        *(uint*)(address + 8) = AnyContext;
        if (Libc.bind(fd, address, AddressBytes) == 0 && Libc.listen(fd, 4) == 0) return new VsockCarrier(fd);
        Libc.close(fd);
        return null;
    }

    public override int Await()
    {
        while (true)
        {
            // SAFETY: no address is asked for.
            var fd = Libc.accept4(_listener, null, null, SOCK_CLOEXEC | SOCK_NONBLOCK);
            if (fd >= 0 || Marshal.GetLastPInvokeError() != Libc.EINTR) return fd;
        }
    }
}
