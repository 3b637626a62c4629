using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>mmap(2) and what goes with it.</summary>
internal static unsafe partial class VirtualMemory
{
    private const int ReadWrite = 1 | 2;
    private const int Shared = 1;
    private const int Private = 2;
    private const int Anonymous = 0x20;
    private const int NoReserve = 0x4000;
    private const int DontDump = 16;

    /// <summary>
    /// Zeroed memory that costs nothing until it is touched: without a reservation, since hosts promise more than they
    /// have, and left out of core dumps, since it is the tenant's.
    /// </summary>
    public static byte* Allocate(nuint size)
    {
        var address = mmap(null, size, ReadWrite, Private | Anonymous | NoReserve, -1, 0);
        if (address == (void*)-1)
        {
            throw SystemCallException.Last("mmap");
        }

        // SAFETY: the range was mapped just now. Only advice: a kernel that refuses it changes nothing for the guest.
        _ = madvise(address, size, DontDump);
        return (byte*)address;
    }

    /// <summary>A descriptor's memory, shared with the kernel.</summary>
    public static void* MapShared(int fd, nuint size)
    {
        var address = mmap(null, size, ReadWrite, Shared, fd, 0);
        return address != (void*)-1 ? address : throw SystemCallException.Last("mmap");
    }

    /// <summary>Gives a mapping back; nobody may hold a pointer into it any more.</summary>
    public static void Unmap(void* address, nuint size) => _ = munmap(address, size);

    [LibraryImport("libc", SetLastError = true)]
    private static partial void* mmap(void* address, nuint size, int protection, int flags, int fd, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int munmap(void* address, nuint size);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int madvise(void* address, nuint size, int advice);
}
