using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>What epoll reports about a descriptor; values are the kernel's.</summary>
[Flags]
internal enum LoopEvents : uint
{
    None = 0,
    Readable = 0x1,
    Writable = 0x4,

    /// <summary>Always reported, asked for or not.</summary>
    Failed = 0x8,

    /// <summary>Always reported, asked for or not.</summary>
    HungUp = 0x10,
}

/// <summary>
/// The one loop of the process: epoll over the API socket, its connections, standard input, timers and the machine's
/// events. Everything but the vCPUs runs here, on the main thread, so nothing outside the vCPUs needs a lock.
/// </summary>
internal sealed unsafe partial class EventLoop : IDisposable
{
    internal const int EpollCloseOnExec = 0x80000;
    internal const int ControlAdd = 1;
    internal const int ControlDelete = 2;
    internal const int ControlModify = 3;

    /// <summary>Events taken from the kernel in one go. More only delays <see cref="Exit"/>; what is left is reported again.</summary>
    private const int BatchSize = 16;

    private readonly int _epoll;

    // Indexed by fd: descriptors are small dense numbers, and a look-up per event then costs nothing.
    private Registration?[] _registrations = new Registration?[32];
    private uint _generation;
    private int? _exitCode;

    public EventLoop()
    {
        _epoll = epoll_create1(EpollCloseOnExec);
        if (_epoll < 0)
        {
            throw SystemCallException.Last("epoll_create1");
        }
    }

    /// <summary>
    /// Calls <paramref name="onReadable"/> on this thread whenever <paramref name="fd"/> is readable or hung up. Does not own the fd.
    /// A regular file can't be waited for: that throws with EPERM.
    /// </summary>
    public void Add(int fd, Action onReadable) => Add(fd, LoopEvents.Readable, _ => onReadable());

    /// <summary>Calls <paramref name="onReady"/> with what happened on <paramref name="fd"/>, level-triggered. Does not own the fd.</summary>
    public void Add(int fd, LoopEvents interest, Action<LoopEvents> onReady)
    {
        ObjectDisposedException.ThrowIf(_registrations.Length == 0, this);
        if (Find(fd) is not null)
        {
            throw new InvalidOperationException($"descriptor {fd} is already in the event loop");
        }

        var registration = new Registration(++_generation, onReady);
        Control(ControlAdd, fd, interest, registration);
        if (fd >= _registrations.Length)
        {
            Array.Resize(ref _registrations, Math.Max(fd + 1, _registrations.Length * 2));
        }

        _registrations[fd] = registration;
    }

    /// <summary>Changes what is waited for on an fd that was added.</summary>
    public void Change(int fd, LoopEvents interest)
    {
        var registration = Find(fd) ?? throw new InvalidOperationException($"descriptor {fd} is not in the event loop");
        Control(ControlModify, fd, interest, registration);
    }

    /// <summary>Forgets the fd; safe inside its own callback, and when it was never added. Call it before the fd is closed.</summary>
    public void Remove(int fd)
    {
        if (Find(fd) is null)
        {
            return;
        }

        _registrations[fd] = null;
        EpollEvent unused = default;

        // SAFETY: the kernel only reads the pointer, and only for the length of the call. The result does not
        // matter: a descriptor that was closed too early has left the set by itself.
        _ = epoll_ctl(_epoll, ControlDelete, fd, &unused);
    }

    /// <summary>Runs until <see cref="Exit"/>; returns its code. What a callback throws ends the loop and comes out here.</summary>
    public int Run()
    {
        var events = stackalloc EpollEvent[BatchSize];
        while (_exitCode is null)
        {
            // SAFETY: events has room for BatchSize entries and outlives the call.
            var count = epoll_wait(_epoll, events, BatchSize, -1);
            if (count < 0)
            {
                if (Marshal.GetLastPInvokeError() == SystemCallException.Interrupted)
                {
                    continue;
                }

                throw SystemCallException.Last("epoll_wait");
            }

            for (var i = 0; i < count && _exitCode is null; i++)
            {
                var fd = (int)(uint)events[i].Data;
                var generation = (uint)(events[i].Data >> 32);

                // An earlier callback of this batch may have removed the fd, or closed it and got the same number again.
                if (Find(fd) is { } registration && registration.Generation == generation)
                {
                    registration.OnReady((LoopEvents)events[i].Events);
                }
            }
        }

        return _exitCode.Value;
    }

    /// <summary>Ends <see cref="Run"/> after the current callback. The first code wins.</summary>
    public void Exit(int code) => _exitCode ??= code;

    public void Dispose()
    {
        if (_registrations.Length != 0)
        {
            _registrations = [];
            _ = Descriptors.close(_epoll);
        }
    }

    private Registration? Find(int fd) => (uint)fd < (uint)_registrations.Length ? _registrations[fd] : null;

    private void Control(int operation, int fd, LoopEvents interest, Registration registration)
    {
        var entry = new EpollEvent
        {
            Events = (uint)interest,
            Data = ((ulong)registration.Generation << 32) | (uint)fd,
        };

        // SAFETY: the kernel reads one EpollEvent, which lives on this frame.
        if (epoll_ctl(_epoll, operation, fd, &entry) < 0)
        {
            throw SystemCallException.Last("epoll_ctl");
        }
    }

    private sealed record Registration(uint Generation, Action<LoopEvents> OnReady);

    /// <summary>Packed on x86-64 only (epoll_ctl(2)); 12 bytes.</summary>
    [StructLayout(LayoutKind.Sequential, Pack = 4)]
    internal struct EpollEvent
    {
        public uint Events;
        public ulong Data;
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_create1(int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_ctl(int epoll, int operation, int fd, EpollEvent* entry);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int epoll_wait(int epoll, EpollEvent* events, int capacity, int timeoutMilliseconds);
}
