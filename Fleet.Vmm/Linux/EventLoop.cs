namespace Fleet.Vmm.Linux;

/// <summary>
/// The one loop of the process: epoll over the API socket, its connections, standard input, timers and the machine's
/// events. Everything but the vCPUs runs here, on the main thread, so nothing outside the vCPUs needs a lock.
/// </summary>
internal sealed class EventLoop : IDisposable
{
    /// <summary>Calls <paramref name="onReadable"/> on this thread whenever <paramref name="fd"/> is readable or hung up. Does not own the fd.</summary>
    public void Add(int fd, Action onReadable) => throw new NotImplementedException();

    /// <summary>Forgets the fd; safe inside its own callback.</summary>
    public void Remove(int fd) => throw new NotImplementedException();

    /// <summary>Runs until <see cref="Exit"/>; returns its code.</summary>
    public int Run() => throw new NotImplementedException();

    /// <summary>Ends <see cref="Run"/> after the current callback. The first code wins.</summary>
    public void Exit(int code) => throw new NotImplementedException();

    public void Dispose()
    {
    }
}
