using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Runtime.InteropServices;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Host.Drivers.Processes;

/// <summary>How a process ended; both null when only its parent could know.</summary>
internal readonly record struct ProcessEnd(int? ExitCode, int? Signal);

/// <summary>
/// Tells when processes end, children or not, by their pidfds; one thread for all of them. A child is reaped here, also
/// when nobody waits for it any more, so that none stays behind as a zombie.
/// </summary>
internal static unsafe partial class ProcessWatch
{
    private const int Eintr = 4;
    private const int Echild = 10;
    private const int EpollCloexec = 0x80000;
    private const int EpollCtlAdd = 1;
    private const uint EpollIn = 1;
    private const uint EpollOneshot = 1u << 30;
    private const int IdPidfd = 3;
    private const int WaitNoHang = 1;
    private const int WaitExited = 4;
    private const int CodeExited = 1;
    private const int SiginfoSize = 128;

    private sealed record Watched(SafeFileHandle Pidfd, TaskCompletionSource<ProcessEnd> Ended);

    private static readonly ConcurrentDictionary<ulong, Watched> Processes = new();
    private static readonly Lock Starting = new();
    private static SafeFileHandle? s_epoll;
    private static ulong s_last;

    // struct epoll_event is packed on x86-64 only.
    private static readonly int DataOffset = RuntimeInformation.ProcessArchitecture == Architecture.X64 ? 4 : 8;

    /// <summary>
    /// Holds on to a child that was just started. When that can't be done (no descriptor is left) the child is killed before
    /// this throws: who hears that nothing was started may start it elsewhere.
    /// </summary>
    /// <exception cref="IOException">The child is gone.</exception>
    public static (SafeFileHandle Pidfd, Task<ProcessEnd> Ended) Catch(int pid, Func<int, SafeFileHandle?>? open = null)
    {
        try
        {
            // A child that has ended stays a zombie until it is reaped, so its pid can't be another's yet.
            var pidfd = (open ?? Posix.TryOpenPidfd)(pid) ?? throw new IOException($"process {pid} vanished; is SIGCHLD ignored?");
            return (pidfd, WhenEnded(pidfd));
        }
        catch
        {
            Posix.EndChild(pid);
            throw;
        }
    }

    /// <summary>Completes when the process is gone. Takes the handle over and closes it then, or at once when this throws.</summary>
    public static Task<ProcessEnd> WhenEnded(SafeFileHandle pidfd)
    {
        ulong id = Interlocked.Increment(ref s_last);
        var watched = new Watched(pidfd, new TaskCompletionSource<ProcessEnd>(TaskCreationOptions.RunContinuationsAsynchronously));
        Processes[id] = watched;
        Span<byte> request = stackalloc byte[16];
        request.Clear();
        BinaryPrimitives.WriteUInt32LittleEndian(request, EpollIn | EpollOneshot);
        BinaryPrimitives.WriteUInt64LittleEndian(request[DataOffset..], id);
        try
        {
            int result;
            // SAFETY: the kernel reads one epoll_event, at most 16 bytes, during the call.
            fixed (byte* start = request) result = EpollCtl(Started(), EpollCtlAdd, pidfd, start);
            if (result != 0) throw new IOException($"epoll_ctl for a VMM's pidfd failed with error {Marshal.GetLastPInvokeError()}");
        }
        catch
        {
            Processes.TryRemove(id, out _);
            pidfd.Dispose();
            throw;
        }
        return watched.Ended.Task;
    }

    // Tried again at the next call when it fails: a Lazy would keep the failure for ever.
    private static SafeFileHandle Started()
    {
        lock (Starting)
        {
            if (s_epoll is { } running) return running;
            int fd = EpollCreate(EpollCloexec);
            if (fd < 0) throw new IOException($"epoll_create1 failed with error {Marshal.GetLastPInvokeError()}");
            var epoll = new SafeFileHandle(fd, ownsHandle: true);
            new Thread(() => Watch(epoll), 256 * 1024) { IsBackground = true, Name = "vmm-watch" }.Start();
            return s_epoll = epoll;
        }
    }

    private static void Watch(SafeFileHandle epoll)
    {
        // SAFETY: one epoll_event of at most 16 bytes is written to a buffer of 16.
        var happened = stackalloc byte[16];
        while (true)
        {
            int count = EpollWait(epoll, happened, 1, -1);
            if (count < 0)
            {
                int error = Marshal.GetLastPInvokeError();
                if (error == Eintr) continue;
                // Without this thread no VMM's end would ever be seen again: better a restart, which kills no VMM.
                Environment.FailFast($"epoll_wait for the VMMs' pidfds failed with error {error}");
            }
            if (count == 0) continue;
            ulong id = BinaryPrimitives.ReadUInt64LittleEndian(new ReadOnlySpan<byte>(happened + DataOffset, 8));
            if (!Processes.TryRemove(id, out var watched)) continue;
            var end = Reap(watched.Pidfd);
            watched.Pidfd.Dispose();
            watched.Ended.TrySetResult(end);
        }
    }

    private static ProcessEnd Reap(SafeFileHandle pidfd)
    {
        // SAFETY: siginfo_t has 128 bytes on every Linux. si_code is its third int; for SIGCHLD si_status is the seventh.
        var info = stackalloc int[SiginfoSize / sizeof(int)];
        while (Waitid(IdPidfd, pidfd, info, WaitExited | WaitNoHang) != 0)
        {
            int error = Marshal.GetLastPInvokeError();
            if (error == Eintr) continue;
            // Not our child, or reaped by whoever set SIGCHLD to be ignored: how it ended is not for us to know.
            if (error == Echild) return default;
            throw new InvalidOperationException($"waitid failed with error {error}");
        }
        if (info[4] == 0) return default;
        return info[2] == CodeExited ? new ProcessEnd(info[6], null) : new ProcessEnd(null, info[6]);
    }

    [LibraryImport("libc", EntryPoint = "epoll_create1", SetLastError = true)]
    private static partial int EpollCreate(int flags);

    [LibraryImport("libc", EntryPoint = "epoll_ctl", SetLastError = true)]
    private static partial int EpollCtl(SafeFileHandle epoll, int operation, SafeFileHandle fd, byte* request);

    [LibraryImport("libc", EntryPoint = "epoll_wait", SetLastError = true)]
    private static partial int EpollWait(SafeFileHandle epoll, byte* events, int max, int timeout);

    [LibraryImport("libc", EntryPoint = "waitid", SetLastError = true)]
    private static partial int Waitid(int idType, SafeFileHandle id, int* info, int options);
}
