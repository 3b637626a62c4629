using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>
/// A timer of the kernel that signals one thread of this process (timer_create with SIGEV_THREAD_ID, boot clock): nobody but
/// that thread has to be alive for it. The signal is set aside when the timer is made, so it can't be lost for want of room.
/// </summary>
internal sealed unsafe partial class ThreadTimer : IDisposable
{
    internal const int NotifyThread = 4;
    internal const int Absolute = 1;

    private readonly nint _timer;
    private bool _disposed;

    /// <summary>Throws <see cref="SystemCallException"/>: the user has as many signals set aside as it may (RLIMIT_SIGPENDING).</summary>
    public ThreadTimer(int thread, int signal)
    {
        Event wanted = new() { Signal = signal, Notify = NotifyThread, Thread = thread };
        nint timer;

        // SAFETY: the kernel reads one and fills the other during the call.
        if (timer_create(KernelClock.Boot, &wanted, &timer) < 0)
        {
            throw SystemCallException.Last("timer_create");
        }

        _timer = timer;
    }

    /// <summary>Signals at a time of the boot clock, and again each so many nanoseconds; a time that has passed at once.</summary>
    public void Start(long at, long period)
    {
        // SAFETY: struct itimerspec is four 64-bit numbers on every 64-bit Linux; null for the old value is allowed.
        var times = stackalloc long[4];
        times[0] = period / 1_000_000_000;
        times[1] = period % 1_000_000_000;
        times[2] = at / 1_000_000_000;
        times[3] = Math.Max(1, at % 1_000_000_000);
        if (timer_settime(_timer, Absolute, times, null) < 0)
        {
            throw SystemCallException.Last("timer_settime");
        }
    }

    public void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            _ = timer_delete(_timer);
        }
    }

    /// <summary>struct sigevent.</summary>
    [StructLayout(LayoutKind.Explicit, Size = 64)]
    internal struct Event
    {
        [FieldOffset(8)]
        public int Signal;

        [FieldOffset(12)]
        public int Notify;

        [FieldOffset(16)]
        public int Thread;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int timer_create(int clock, Event* wanted, nint* timer);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int timer_settime(nint timer, int flags, long* newValue, long* oldValue);

    [LibraryImport("libc")]
    private static partial int timer_delete(nint timer);
}
