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
    private const int DontNeed = 4;
    private const int DontDump = 16;
    private const nuint HugePage = 2 << 20;

    /// <summary>
    /// Zeroed memory that costs nothing until it is touched: without a reservation, since hosts promise more than they
    /// have, and left out of core dumps, since it is the tenant's. Begins at a multiple of 2 MiB: KVM can use a huge page
    /// only where guest address and host address are aligned alike.
    /// </summary>
    /// <param name="size">Bytes, a positive multiple of a page.</param>
    public static byte* Allocate(nuint size)
    {
        var reserved = checked(size + HugePage);

        // SAFETY: without MAP_FIXED a mapping goes where nothing is.
        var start = mmap(null, reserved, ReadWrite, Private | Anonymous | NoReserve, -1, 0);
        if (start == (void*)-1)
        {
            throw SystemCallException.Last("mmap");
        }

        // SAFETY: head and tail lie in the range that was mapped just now, and nobody has seen it yet. The advice is only
        // advice: a kernel that refuses it changes nothing for the guest.
        var address = (byte*)(((nuint)start + HugePage - 1) & ~(HugePage - 1));
        var head = (nuint)(address - (byte*)start);
        if (head > 0)
        {
            Unmap(start, head);
        }

        Unmap(address + size, reserved - head - size);
        _ = madvise(address, size, DontDump);
        return address;
    }

    /// <summary>A descriptor's memory, shared with the kernel, from an offset on.</summary>
    public static void* MapShared(int fd, nuint size, long offset = 0)
    {
        // SAFETY: without MAP_FIXED the mapping goes where nothing is. It outlives the descriptor; only Unmap ends it.
        var address = mmap(null, size, ReadWrite, Shared, fd, offset);
        return address != (void*)-1 ? address : throw SystemCallException.Last("mmap");
    }

    /// <summary>A file's content, read when it is used; what is written stays in this process. Left out of core dumps.</summary>
    public static byte* MapPrivate(int fd, nuint size, long offset)
    {
        // SAFETY: without MAP_FIXED the mapping goes where nothing is.
        var address = mmap(null, size, ReadWrite, Private | NoReserve, fd, offset);
        if (address == (void*)-1)
        {
            throw SystemCallException.Last("mmap");
        }

        _ = madvise(address, size, DontDump);
        return (byte*)address;
    }

    /// <summary>Forgets the content of whole pages, which stay mapped; false when the kernel refuses.</summary>
    // SAFETY of the callers: the range lies in a mapping of theirs, and nobody counts on what is in it.
    public static bool TryDrop(void* address, nuint size) => madvise(address, size, DontNeed) == 0;

    /// <summary>Gives a mapping back; nobody may hold a pointer into it any more.</summary>
    // SAFETY of the callers: each unmaps what it mapped itself, once, and drops its pointer with it.
    public static void Unmap(void* address, nuint size) => _ = munmap(address, size);

    [LibraryImport("libc", SetLastError = true)]
    private static partial void* mmap(void* address, nuint size, int protection, int flags, int fd, long offset);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int munmap(void* address, nuint size);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int madvise(void* address, nuint size, int advice);
}
