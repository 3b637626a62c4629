using System.ComponentModel;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Host.Drivers.Processes;

/// <summary>The few system calls that .NET has no words for. Numbers are Linux's, the same on x86-64 and arm64.</summary>
internal static partial class Posix
{
    public const int SigKill = 9;
    public const int SigTerm = 15;

    private const int Eintr = 4;
    private const int Eagain = 11;
    private const int Enxio = 6;
    private const int Esrch = 3;
    private const int Enoent = 2;
    private const int Enotdir = 20;
    private const int CurrentDirectory = -100;
    private const uint StatxType = 1;
    private const uint StatxMode = 2;
    private const uint StatxLinks = 4;
    private const uint StatxInode = 0x100;
    private const uint StatxBlocks = 0x400;
    private const int NobodyId = 65534;
    private const int OpenReadNonblocking = 0x800 | 0x100 | CloseOnExec; // and O_NOCTTY
    private const int TypeMask = 0xf000;
    private const int RegularType = 0x8000;
    private const int Epipe = 32;
    private const int OpenPathDirectory = 0x200000 | DirectoryFlag | CloseOnExec;
    private const int OpenWriteNonblocking = 0x1 | 0x800 | CloseOnExec;
    private const int CloseOnExec = 0x80000;
    // O_DIRECTORY is one of the few flags whose value differs.
    private static readonly bool Arm64 = RuntimeInformation.ProcessArchitecture == Architecture.Arm64;
    private const int DirectoryFlag = 0x10000;
    private const int DirectoryFlagArm64 = 0x4000;
    private const int RlimitFsize = 1;
    private const int BootTimeClock = 7;
    private const int SeekData = 3;
    private const int SeekHole = 4;
    private const nuint CloneFile = 0x40049409;
    private const long SysPidfdSendSignal = 424;
    private const long SysPidfdOpen = 434;

    /// <summary>Whether this process may set the limits of other users' processes: CAP_SYS_RESOURCE, which even root has not in every container.</summary>
    public static bool MayLimitOthers { get; } = HasCapability(24);

    /// <summary>CLOCK_BOOTTIME: since the machine was switched on, its sleep included.</summary>
    public static unsafe TimeSpan BootTime
    {
        get
        {
            long* time = stackalloc long[2];
            // SAFETY: struct timespec is two 64-bit numbers on 64-bit Linux, and lives on this frame. The clock always exists.
            if (ClockGettime(BootTimeClock, time) != 0) throw Failure("clock_gettime");
            return TimeSpan.FromTicks(time[0] * TimeSpan.TicksPerSecond + time[1] / TimeSpan.NanosecondsPerTick);
        }
    }

    private static bool HasCapability(int number)
    {
        const string key = "CapEff:\t";
        string? line = File.ReadLines("/proc/self/status").FirstOrDefault(line => line.StartsWith(key, StringComparison.Ordinal));
        return line is not null
            && ulong.TryParse(line.AsSpan(key.Length), System.Globalization.NumberStyles.HexNumber, System.Globalization.CultureInfo.InvariantCulture, out ulong effective)
            && (effective >> number & 1) != 0;
    }

    /// <summary>Makes a FIFO (mode 0600).</summary>
    public static void MakeFifo(string path)
    {
        if (Mkfifo(path, 0x180) != 0) throw Failure("mkfifo " + path);
    }

    /// <summary>Whether a path leads to an ordinary file: opening a FIFO would wait, a device never ends.</summary>
    /// <exception cref="FileNotFoundException">There is nothing.</exception>
    public static unsafe bool IsRegularFile(string path)
    {
        // struct statx has 256 bytes on every architecture, stx_mode stands at 28. SAFETY: the buffer lives through the call.
        var status = stackalloc byte[256];
        if (Statx(CurrentDirectory, path, 0, StatxType, status) != 0)
        {
            int error = Marshal.GetLastPInvokeError();
            if (error is Enoent or Enotdir) throw new FileNotFoundException("there is no such file", path);
            throw Failure("statx " + path);
        }
        return (*(ushort*)(status + 28) & TypeMask) == RegularType;
    }

    /// <summary>Opens an ordinary file for reading, if everybody may read it and pass through its folders.</summary>
    /// <exception cref="IOException">It is none, or not for everybody.</exception>
    public static SafeFileHandle OpenAsNobody(string path)
    {
        SafeFileHandle? opened = null;
        IOException? failure = null;

        // A thread of its own that ends with it: these calls change what the thread that makes them may do with files, and only that.
        // One that is not root keeps what it has.
        var nobody = new Thread(() =>
        {
            _ = Syscall(Arm64 ? 159 : 116, 0, 0, 0, 0); // setgroups: none
            _ = Syscall(Arm64 ? 152 : 123, NobodyId, 0, 0, 0); // setfsgid
            _ = Syscall(Arm64 ? 151 : 122, NobodyId, 0, 0, 0); // setfsuid, which takes root's powers over files away as well
            int fd = Open(path, OpenReadNonblocking);
            if (fd >= 0) opened = new SafeFileHandle(fd, ownsHandle: true);
            else failure = Failure("open " + path);
        }, maxStackSize: 128 * 1024);
        nobody.Start();
        nobody.Join();
        if (opened is null) throw failure!;
        if (IsForEverybody(opened)) return opened;
        opened.Dispose();
        throw new IOException($"{path} is no ordinary file, or not for everybody");
    }

    private static unsafe bool IsForEverybody(SafeFileHandle file)
    {
        // struct statx has 256 bytes on every architecture, stx_mode stands at 28. SAFETY: the buffer lives through the call, the handle is open.
        const int emptyPath = 0x1000;
        const int othersRead = 4;
        var status = stackalloc byte[256];
        if (Statx((int)file.DangerousGetHandle(), "", emptyPath, StatxType | StatxMode, status) != 0) throw Failure("statx");
        int mode = *(ushort*)(status + 28);
        return (mode & TypeMask) == RegularType && (mode & othersRead) != 0;
    }

    /// <summary>A handle that stands for a directory however long its path is; /proc/self/fd/N is its short name.</summary>
    public static SafeFileHandle OpenDirectory(string path)
    {
        int flags = Arm64 ? OpenPathDirectory & ~DirectoryFlag | DirectoryFlagArm64 : OpenPathDirectory;
        int fd = Open(path, flags);
        return fd >= 0 ? new SafeFileHandle(fd, ownsHandle: true) : throw Failure("open " + path);
    }

    /// <summary>Opens the writing end of a FIFO without waiting; null when nobody reads it.</summary>
    public static SafeFileHandle? TryOpenFifoWriter(string path)
    {
        int fd = Open(path, OpenWriteNonblocking);
        if (fd >= 0) return new SafeFileHandle(fd, ownsHandle: true);
        return Marshal.GetLastPInvokeError() == Enxio ? null : throw Failure("open " + path);
    }

    /// <summary>Writes what fits without waiting; the number of bytes taken, 0 when the pipe is full or nobody reads.</summary>
    public static int WriteNonblocking(SafeFileHandle pipe, ReadOnlySpan<byte> bytes)
    {
        while (true)
        {
            nint written = Write(pipe, bytes, (nuint)bytes.Length);
            if (written >= 0) return (int)written;
            int error = Marshal.GetLastPInvokeError();
            if (error == Eintr) continue;
            return error is Eagain or Epipe ? 0 : throw Failure("write");
        }
    }

    /// <summary>A descriptor that stands for the process and no later one of the same id; null when there is none.</summary>
    public static SafeFileHandle? TryOpenPidfd(int pid)
    {
        long fd = Syscall(SysPidfdOpen, pid, 0, 0, 0);
        if (fd >= 0) return new SafeFileHandle((nint)fd, ownsHandle: true);
        return Marshal.GetLastPInvokeError() == Esrch ? null : throw Failure("pidfd_open");
    }

    /// <summary>Sends a signal; nothing when the process is gone.</summary>
    public static void Signal(SafeFileHandle pidfd, int signal)
    {
        bool held = false;
        try
        {
            pidfd.DangerousAddRef(ref held);
            if (Syscall(SysPidfdSendSignal, pidfd.DangerousGetHandle(), signal, 0, 0) != 0
                && Marshal.GetLastPInvokeError() != Esrch)
            {
                throw Failure("pidfd_send_signal");
            }
        }
        finally
        {
            if (held) pidfd.DangerousRelease();
        }
    }

    /// <summary>Kills a child of ours that was not reaped yet, and waits until it is gone.</summary>
    public static unsafe void EndChild(int pid)
    {
        // Its pid can't be another's before it is reaped, which only this does.
        if (Kill(pid, SigKill) != 0) return;
        // SAFETY: waitpid takes a null pointer for a status that nobody wants.
        while (WaitPid(pid, null, 0) < 0 && Marshal.GetLastPInvokeError() == Eintr)
        {
        }
    }

    /// <summary>What makes a file itself, whatever path leads to it; null when nothing is there or it may not be looked at.</summary>
    public static unsafe (ulong Device, ulong Inode)? TryIdentify(string path)
    {
        // SAFETY: struct statx has 256 bytes on every architecture; stx_ino stands at 32, the device's numbers at 136.
        var status = stackalloc byte[256];
        return Statx(CurrentDirectory, path, 0, StatxInode, status) == 0
            ? (*(ulong*)(status + 136), *(ulong*)(status + 32))
            : null;
    }

    /// <summary>How many names a file has.</summary>
    public static unsafe uint LinksOf(string path)
    {
        // SAFETY: struct statx has 256 bytes on every architecture; stx_nlink stands at 16.
        var status = stackalloc byte[256];
        return Statx(CurrentDirectory, path, 0, StatxLinks, status) == 0 ? *(uint*)(status + 16) : throw Failure("statx " + path);
    }

    /// <summary>Bytes of the disk that a file takes, its holes left out; 0: there is no such file.</summary>
    public static unsafe long AllocatedBytes(string path)
    {
        // SAFETY: struct statx has 256 bytes on every architecture; stx_blocks stands at 48, in 512 bytes each.
        var status = stackalloc byte[256];
        if (Statx(CurrentDirectory, path, 0, StatxBlocks, status) == 0)
            return *(long*)(status + 48) * 512;
        return Marshal.GetLastPInvokeError() is Enoent or Enotdir ? 0 : throw Failure("statx " + path);
    }

    /// <summary>Makes an empty file share another's bytes until one of both changes; false where the file system can't.</summary>
    public static bool TryShareBytes(SafeFileHandle from, SafeFileHandle to) => Ioctl(to, CloneFile, from.DangerousGetHandle()) == 0;

    /// <summary>The next byte at or behind <paramref name="offset"/> that is written, or with <paramref name="hole"/> that is not; -1: there is none.</summary>
    public static long Seek(SafeFileHandle file, long offset, bool hole)
    {
        var found = Lseek(file, offset, hole ? SeekHole : SeekData);
        return found >= 0 ? found : Marshal.GetLastPInvokeError() == Enxio ? -1 : throw Failure("lseek");
    }

    /// <summary>Gives a file a second name in the same file system.</summary>
    public static void Link(string path, string name)
    {
        if (LinkNative(path, name) != 0) throw Failure($"link {path} to {name}");
    }

    /// <summary>Sets a process's limit on file sizes, in bytes; false when it is gone. The hard limit is raised if need be, which takes root.</summary>
    public static unsafe bool SetFileSizeLimit(int pid, ulong bytes)
    {
        // Two rlim_t, soft and hard. SAFETY: both pointers are to locals that live through the call.
        var old = stackalloc ulong[2];
        if (Prlimit(pid, RlimitFsize, null, old) != 0) return Gone("prlimit");
        var limit = stackalloc ulong[2] { bytes, Math.Max(bytes, old[1]) };
        return limit[0] == old[0] || Prlimit(pid, RlimitFsize, limit, null) == 0 || Gone("prlimit");
    }

    private static bool Gone(string what) => Marshal.GetLastPInvokeError() == Esrch ? false : throw Failure(what);

    private static IOException Failure(string what)
    {
        var error = new Win32Exception(Marshal.GetLastPInvokeError());
        return new IOException($"{what}: {error.Message}", error);
    }

    [LibraryImport("libc", EntryPoint = "clock_gettime", SetLastError = true)]
    private static unsafe partial int ClockGettime(int clock, long* time);

    [LibraryImport("libc", EntryPoint = "mkfifo", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Mkfifo(string path, uint mode);

    [LibraryImport("libc", EntryPoint = "open", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int Open(string path, int flags);

    [LibraryImport("libc", EntryPoint = "link", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static partial int LinkNative(string path, string name);

    [LibraryImport("libc", EntryPoint = "statx", SetLastError = true, StringMarshalling = StringMarshalling.Utf8)]
    private static unsafe partial int Statx(int directory, string path, int flags, uint mask, byte* status);

    [LibraryImport("libc", EntryPoint = "ioctl", SetLastError = true)]
    private static partial int Ioctl(SafeFileHandle file, nuint request, nint argument);

    [LibraryImport("libc", EntryPoint = "lseek", SetLastError = true)]
    private static partial long Lseek(SafeFileHandle file, long offset, int whence);

    [LibraryImport("libc", EntryPoint = "write", SetLastError = true)]
    private static partial nint Write(SafeFileHandle file, ReadOnlySpan<byte> bytes, nuint count);

    [LibraryImport("libc", EntryPoint = "syscall", SetLastError = true)]
    private static partial long Syscall(long number, long a, long b, long c, long d);

    [LibraryImport("libc", EntryPoint = "kill", SetLastError = true)]
    private static partial int Kill(int pid, int signal);

    [LibraryImport("libc", EntryPoint = "waitpid", SetLastError = true)]
    private static unsafe partial int WaitPid(int pid, int* status, int options);

    [LibraryImport("libc", EntryPoint = "prlimit", SetLastError = true)]
    private static unsafe partial int Prlimit(int pid, int resource, ulong* limit, ulong* old);
}
