using System.Buffers;
using System.Runtime.InteropServices;
using System.Text;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Linux;

/// <summary>
/// A tap interface of the host: Ethernet frames, each behind a virtio-net header of 12 bytes, so that check sums and
/// segmentation stay undone between guest and host where both can.
/// </summary>
internal sealed unsafe partial class TapInterface : INetworkPort
{
    internal const ulong SetInterface = 0x400454ca;
    internal const ulong SetOffload = 0x400454d0;
    internal const ulong SetHeaderSize = 0x400454d8;
    internal const short Tap = 0x0002;
    internal const short NoPacketInformation = 0x1000;
    internal const short VnetHeader = 0x4000;
    internal const int NameSize = 16;
    internal const int RequestSize = 40;

    private const string Device = "/dev/net/tun";

    private static readonly SearchValues<char> NotInNames = SearchValues.Create("/: \t\n\v\f\r\0%");

    private readonly GuestMemory _memory;
    private int _fd;

    /// <summary>Attaches to the interface, which the host's network set up makes beforehand. Throws <see cref="SystemCallException"/>.</summary>
    public TapInterface(string name, GuestMemory memory)
    {
        _memory = memory;
        _fd = Open(name);
    }

    public int Descriptor => _fd;

    /// <summary>
    /// Whether a network interface can have that name: 1 to 15 bytes, none of them a slash or white. Or it is one that was passed
    /// (<see cref="PassedDescriptor"/>), which may be of a network that this process is not in.
    /// </summary>
    public static bool IsName(string name) =>
        PassedDescriptor.NumberOf(name) is not null || Encoding.UTF8.GetByteCount(name) is > 0 and < NameSize && name is not ("." or "..") && !name.AsSpan().ContainsAny(NotInNames);

    /// <summary>Sees whether it can be attached to. Throws <see cref="SystemCallException"/>.</summary>
    public static void Try(string name) => _ = Descriptors.close(Open(name));

    /// <summary>What the guest is willing to finish by itself; the kernel does the rest before it hands out a frame.</summary>
    public void SetOffloads(NetworkOffloads offloads)
    {
        // A set that the kernel refuses (segmentation without check sums, UFO where it has none) is one of the guest's
        // making: it gets whole frames then.
        if (ioctl(_fd, SetOffload, (nint)offloads) < 0)
        {
            _ = ioctl(_fd, SetOffload, (nint)NetworkOffloads.None);
        }
    }

    public int Receive(Span<byte> frame)
    {
        nint got;

        // SAFETY: pinned for the call, length as given.
        fixed (byte* start = frame)
        {
            got = Descriptors.read(_fd, start, frame.Length);
        }

        return (int)Math.Max(0, got);
    }

    public bool Send(ReadOnlySpan<GuestBuffer> buffers)
    {
        var pieces = stackalloc IoPiece[GuestPieces.Most];
        var count = GuestPieces.Locate(_memory, buffers, 0, NetDevice.LargestFrame, writes: false, pieces);

        // SAFETY: as many pieces as were filled in; the kernel reads them and the guest's memory during the call.
        return writev(_fd, pieces, count) >= 0;
    }

    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    /// <summary>A descriptor that is attached to the interface, and does not block. Throws <see cref="SystemCallException"/>.</summary>
    public static int Open(string name)
    {
        if (PassedDescriptor.NumberOf(name) is { } number)
        {
            var passed = PassedDescriptor.Open(number);
            var size = NetDevice.HeaderSize;

            // SAFETY: as below. What is no tap refuses it.
            if (passed < 0 || ioctl(passed, SetHeaderSize, (nint)(&size)) < 0)
            {
                var failure = SystemCallException.Last(passed < 0 ? "fcntl" : "TUNSETVNETHDRSZ");
                _ = Descriptors.close(passed);
                throw failure;
            }

            return passed;
        }

        // Otherwise the kernel would make one, connected to nothing, of every mistyped name.
        if (if_nametoindex(name) == 0)
        {
            throw SystemCallException.Last("if_nametoindex");
        }

        var fd = Descriptors.OpenDevice(Device, Descriptors.NonBlocking);

        // struct ifreq: the name, then a union, of which the flags are the first two bytes.
        var request = stackalloc byte[RequestSize];
        new Span<byte>(request, RequestSize).Clear();
        _ = Encoding.UTF8.TryGetBytes(name, new Span<byte>(request, NameSize - 1), out _);
        *(short*)(request + NameSize) = Tap | NoPacketInformation | VnetHeader;
        var headerSize = NetDevice.HeaderSize;

        // SAFETY: the structures are on this frame; the kernel is done with them when the calls return.
        if (ioctl(fd, SetInterface, (nint)request) < 0 || ioctl(fd, SetHeaderSize, (nint)(&headerSize)) < 0)
        {
            var failure = SystemCallException.Last("TUNSETIFF");
            _ = Descriptors.close(fd);
            throw failure;
        }

        return fd;
    }

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial uint if_nametoindex(string name);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ioctl(int fd, ulong request, nint argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint writev(int fd, IoPiece* pieces, int count);
}
