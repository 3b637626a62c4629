using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>A timer on the event loop (timerfd, monotonic clock or another). Disarmed until <see cref="Start"/>.</summary>
internal sealed unsafe partial class LoopTimer : IDisposable
{
    internal const int NonBlocking = 0x800;
    internal const int CloseOnExec = 0x80000;

    private readonly EventLoop _loop;
    private readonly Action _onExpired;
    private int _fd;

    public LoopTimer(EventLoop loop, Action onExpired, int clock = KernelClock.Monotonic)
    {
        _loop = loop;
        _onExpired = onExpired;
        _fd = timerfd_create(clock, NonBlocking | CloseOnExec);
        if (_fd < 0)
        {
            throw SystemCallException.Last("timerfd_create");
        }

        try
        {
            loop.Add(_fd, Expire);
        }
        catch
        {
            _ = Descriptors.close(_fd);
            throw;
        }
    }

    /// <summary>Arms it anew; <see cref="TimeSpan.Zero"/> as period means once. A due time of none counts as the shortest there is.</summary>
    public void Start(TimeSpan due, TimeSpan period)
    {
        var times = stackalloc long[4];
        var dueTicks = Math.Max(due.Ticks, 1);
        times[0] = period.Ticks / TimeSpan.TicksPerSecond;
        times[1] = period.Ticks % TimeSpan.TicksPerSecond * 100;
        times[2] = dueTicks / TimeSpan.TicksPerSecond;
        times[3] = dueTicks % TimeSpan.TicksPerSecond * 100;

        // SAFETY: struct itimerspec is four 64-bit numbers on every 64-bit Linux; null for the old value is allowed.
        if (timerfd_settime(_fd, 0, times, null) < 0)
        {
            throw SystemCallException.Last("timerfd_settime");
        }
    }

    public void Dispose()
    {
        if (_fd >= 0)
        {
            _loop.Remove(_fd);
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    private void Expire()
    {
        ulong expirations;

        // SAFETY: a timerfd hands out 8 bytes. It is non-blocking: a timer that was armed anew meanwhile has nothing to read.
        if (Descriptors.read(_fd, (byte*)&expirations, sizeof(ulong)) == sizeof(ulong))
        {
            _onExpired();
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int timerfd_create(int clock, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int timerfd_settime(int fd, int flags, long* newValue, long* oldValue);
}
