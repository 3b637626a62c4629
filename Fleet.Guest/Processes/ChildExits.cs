namespace Fleet.Guest.Processes;

/// <summary>
/// The children of PID 1 beside its command that somebody wants to hear of. A child may end before the one who started it
/// has noted its id; both happen under one lock, so that no end is missed. Thread-safe.
/// </summary>
internal sealed class ChildExits
{
    private readonly Lock _gate = new();
    private readonly Dictionary<int, Action<int>> _awaited = [];

    /// <summary>Starts a child and awaits its end.</summary>
    /// <param name="start">Gives an errno, and with 0 the child's id.</param>
    /// <param name="ended">Called once with its wait status, from any thread.</param>
    public int Start(Func<(int Error, int Pid)> start, Action<int> ended, out int pid)
    {
        lock (_gate)
        {
            (var error, pid) = start();
            if (error == 0) _awaited[pid] = ended;
            return error;
        }
    }

    /// <summary>The children that have not been waited for.</summary>
    public int[] Awaited
    {
        get
        {
            lock (_gate) return [.. _awaited.Keys];
        }
    }

    /// <summary>Whoever waits for the children tells that one is gone.</summary>
    public void Ended(int pid, int status)
    {
        Action<int>? awaited;
        lock (_gate)
        {
            if (!_awaited.Remove(pid, out awaited)) return;
        }
        awaited(status);
    }

    /// <summary>Sends a signal to a child's process group, unless the child has been waited for: its number may be another's by then.</summary>
    public void Signal(int pid, int signal)
    {
        lock (_gate)
        {
            if (_awaited.ContainsKey(pid)) Linux.Libc.kill(-pid, signal);
        }
    }
}
