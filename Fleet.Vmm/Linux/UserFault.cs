using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>A userfaultfd: whoever reads it fills the pages of registered memory as they are first touched.</summary>
/// <remarks>All of it throws <see cref="SystemCallException"/>. Memory that is registered when this is closed reads as zeros from then on.</remarks>
internal sealed unsafe partial class UserFault : IDisposable
{
    internal const ulong ApiVersion = 0xaa;

    /// <summary>The handler is told of pages that are given back (a balloon's), so that it serves zeros there and not what was.</summary>
    internal const ulong EventRemove = 1 << 3;

    internal const ulong Missing = 1;
    internal const nint NewFromDevice = 0xaa00;
    internal const uint Api = 0xc018aa3f;
    internal const uint RegisterRange = 0xc020aa00;
    internal const nint UserFaultCall = 323;
    private const int Flags = Descriptors.CloseOnExec | Descriptors.NonBlocking;

    private int _fd;

    public UserFault()
    {
        _fd = Open();
        var api = new UserFaultApi { Version = ApiVersion, Features = EventRemove };

        // SAFETY: here as below a struct of the size that the request number encodes, on this frame.
        if (ioctl(_fd, Api, &api) < 0)
        {
            var failure = SystemCallException.Last("UFFDIO_API");
            Dispose();
            throw failure;
        }
    }

    public int Descriptor => _fd;

    /// <summary>Faults in the range are reported from now on.</summary>
    public void Register(byte* address, ulong size)
    {
        var range = new UserFaultRange { Start = (ulong)address, Length = size, Mode = Missing };
        if (ioctl(_fd, RegisterRange, &range) < 0)
        {
            throw SystemCallException.Last("UFFDIO_REGISTER");
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

    // KVM's faults come from inside the kernel, and those an unprivileged process may handle only through the device.
    private static int Open()
    {
        try
        {
            var device = Descriptors.OpenDevice("/dev/userfaultfd");
            var made = ioctl(device, (nuint)NewFromDevice, (void*)Flags);
            var failure = made < 0 ? SystemCallException.Last("USERFAULTFD_IOC_NEW") : null;
            _ = Descriptors.close(device);
            return failure is null ? made : throw failure;
        }
        catch (SystemCallException)
        {
            // Kernels before 6.1 have no device, and a jail may lack it.
            var fd = (int)syscall(UserFaultCall, Flags);
            return fd >= 0 ? fd : throw SystemCallException.Last("userfaultfd");
        }
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct UserFaultApi
    {
        public ulong Version, Features, Ioctls;
    }

    [StructLayout(LayoutKind.Sequential)]
    internal struct UserFaultRange
    {
        public ulong Start, Length, Mode, Ioctls;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int ioctl(int fd, nuint request, void* argument);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint syscall(nint number, nint argument);
}
