using System.Runtime.InteropServices;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Jail;

/// <summary>System calls of the jail. Those that change privileges are made bare: the C library's own would change every thread by signals.</summary>
internal static unsafe partial class JailCalls
{
    internal const int CloseOnExec = 0x80000;
    internal const int PathOnly = 0x200000;

    internal const nuint ReadOnly = 1;
    internal const nuint NoSetUid = 2;
    internal const nuint NoDevices = 4;
    internal const nuint NoExec = 8;
    internal const nuint Remount = 32;
    internal const nuint Bind = 4096;
    internal const nuint Recursive = 16384;
    internal const nuint Private = 1 << 18;
    internal const int Detach = 2;
    internal const int NoFollowUnmount = 8;

    internal const int NewMounts = 0x00020000;
    internal const int NewControlGroups = 0x02000000;
    internal const int NewUts = 0x04000000;
    internal const int NewIpc = 0x08000000;
    internal const int NewPids = 0x20000000;
    internal const int NewNetwork = 0x40000000;
    internal const int SameParent = 0x00008000;
    internal const int ChildSignal = 17;

    internal const uint CharacterDevice = 0x2000;
    internal const uint DirectoryType = 0x4000;

    internal const int CloseRangeCall = 436;
    internal const int PivotRootCall = 155;
    internal const int SetGroupsCall = 116;
    internal const int SetResUidCall = 117;
    internal const int SetResGidCall = 119;
    internal const int CapSetCall = 126;
    internal const int CloneCall = 56;
    internal const int ExecveAtCall = 322;
    internal const int EmptyPath = 0x1000;
    internal const int NoLink = 0x100;

    /// <summary>LOCK_EX | LOCK_NB.</summary>
    internal const int LockAlone = 2 | 4;

    /// <summary>Throws when the call failed.</summary>
    public static nint Check(nint result, string what) => result >= 0 ? result : throw SystemCallException.Last(what);

    /// <summary>What kind of file a path leads to and the device's number if it is one; null: there is none.</summary>
    public static (uint Type, ulong Device)? Look(string path)
    {
        // SAFETY: struct stat of x86-64 has 144 bytes: st_mode at 24, st_rdev at 40.
        var status = stackalloc byte[256];
        return stat(path, status) == 0 ? (*(uint*)(status + 24) & Descriptors.FileTypeMask, *(ulong*)(status + 40)) : null;
    }

    /// <summary>The user that an open file belongs to.</summary>
    public static uint OwnerOf(int fd)
    {
        // SAFETY: struct stat of x86-64 has 144 bytes: st_uid at 28.
        var status = stackalloc byte[256];
        Check(fstat(fd, status), "fstat");
        return *(uint*)(status + 28);
    }

    [LibraryImport("libc", SetLastError = true)]
    public static partial nint syscall(nint number, nint first, nint second, nint third, nint fourth, nint fifth);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial nint syscall(nint number, string first, string second);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int open(string path, int flags, uint mode);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int openat(int directory, string path, int flags, uint mode);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int fcntl(int fd, int command, int argument);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int flock(int fd, int operation);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int dup2(int fd, int target);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int pipe2(int* ends, int flags);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int unshare(int flags);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int setns(int fd, int kind);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int setsid();

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int mount(string source, string target, string? type, nuint flags, string? data);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int umount2(string target, int flags);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int mkdir(string path, uint mode);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int rmdir(string path);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int mkdirat(int directory, string name, uint mode);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int unlinkat(int directory, string name, int flags);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int mknodat(int directory, string name, uint mode, ulong device);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int fchownat(int directory, string name, uint user, uint group, int flags);

    [LibraryImport("libc", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    public static partial int stat(string path, byte* status);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int fstat(int fd, byte* status);

    [LibraryImport("libc")]
    public static partial uint umask(uint mask);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int setrlimit(int resource, ulong* limits);

    [LibraryImport("libc", SetLastError = true)]
    public static partial int prctl(int option, nint second, nint third, nint fourth, nint fifth);
}
