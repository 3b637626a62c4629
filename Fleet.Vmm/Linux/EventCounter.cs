using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>An eventfd: vCPU threads signal, the event loop waits or is called.</summary>
internal sealed unsafe partial class EventCounter : IDisposable
{
    private const int NonBlocking = 0x800;
    private const int CloseOnExec = 0x80000;
    private const short PollReadable = 1;

    private int _fd;

    public EventCounter()
    {
        _fd = eventfd(0, NonBlocking | CloseOnExec);
        if (_fd < 0)
        {
            throw SystemCallException.Last("eventfd");
        }
    }

    /// <summary>For <see cref="EventLoop.Add(int, Action)"/>.</summary>
    public int Descriptor => _fd;

    /// <summary>Wakes the other side; any thread.</summary>
    public void Signal()
    {
        ulong one = 1;

        // SAFETY: 8 bytes on this frame. A full counter (EAGAIN) is as much of a wake-up as one more.
        _ = Descriptors.write(_fd, (byte*)&one, sizeof(ulong));
    }

    /// <summary>Forgets every signal so far.</summary>
    public void Clear()
    {
        ulong count;

        // SAFETY: 8 bytes on this frame. EAGAIN says that there was nothing to forget.
        _ = Descriptors.read(_fd, (byte*)&count, sizeof(ulong));
    }

    /// <summary>Waits for a signal; false when none came within the time. May also return true without one: the caller looks again.</summary>
    public bool Wait(int milliseconds)
    {
        var request = new PollRequest { Fd = _fd, Events = PollReadable };

        // SAFETY: one entry on this frame.
        return poll(&request, 1, milliseconds) != 0;
    }

    public void Dispose()
    {
        if (_fd >= 0)
        {
            _ = Descriptors.close(_fd);
            _fd = -1;
        }
    }

    [StructLayout(LayoutKind.Sequential)]
    private struct PollRequest
    {
        public int Fd;
        public short Events;
        public short Answered;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int eventfd(uint initial, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int poll(PollRequest* requests, ulong count, int timeoutMilliseconds);
}
