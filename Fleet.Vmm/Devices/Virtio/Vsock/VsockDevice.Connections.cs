using System.Runtime.InteropServices;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Devices.Virtio.Vsock;

/// <content>The host's side: who connects, what its sockets tell, and when somebody is given up. Event loop only.</content>
internal sealed partial class VsockDevice
{
    // A program of the guest wants one of the host.
    private void Connect(in VsockHeader request)
    {
        if (_connections.Count + _newcomers.Count >= MostConnections)
        {
            Orphan(request.TargetPort, request.SourcePort);
            return;
        }

        var fd = Sockets.Connect($"{_settings.SocketPath}_{request.TargetPort}");
        if (fd < 0)
        {
            Orphan(request.TargetPort, request.SourcePort);
            return;
        }

        Add(new VsockConnection(fd) { Flow = VsockFlow.FromGuest(request, FreeBuffer), HostPort = request.TargetPort, GuestPort = request.SourcePort });
    }

    // Those that have a large one are never more than there were connections when the last of them came.
    private uint FreeBuffer => _connections.Count < MostLargeBuffers ? LargeBuffer : VsockFlow.SmallBuffer;

    private void Add(VsockConnection connection)
    {
        _connections.Add(Key(connection.HostPort, connection.GuestPort), connection);
        Metrics.Add(Added);
        Watch(connection);
        Schedule(connection);
    }

    private void Watch(VsockConnection connection)
    {
        if (_host is null)
        {
            return;
        }

        try
        {
            connection.Watch(_host.Loop, events => OnSocket(connection, events));
        }
        catch (SystemCallException)
        {
            // The host has no room for one more watch: that connection's bad luck.
            if (connection.Flow is { } flow)
            {
                flow.Reset();
                Schedule(connection);
            }
            else
            {
                connection.Deadline = 0;
            }
        }
    }

    private void OnClient()
    {
        if (_connections.Count + _newcomers.Count >= MostConnections)
        {
            Accept(false);
            return;
        }

        var fd = Sockets.Accept(_listener);
        if (fd < 0)
        {
            if (Marshal.GetLastPInvokeError() is SystemCallException.TooManyOpenFiles or SystemCallException.TableFull)
            {
                // Left waiting until one of ours ends, or the next look at deadlines.
                Accept(false);
                _deadlines!.Start(_patience, TimeSpan.Zero);
                _waits = true;
            }

            return;
        }

        var newcomer = new VsockConnection(fd) { Deadline = Now + _patience.Ticks };
        _newcomers.Add(newcomer);
        Watch(newcomer);
        WatchDeadlines();
    }

    private void OnSocket(VsockConnection connection, LoopEvents events)
    {
        if (connection.Flow is not { } flow)
        {
            Greet(connection);
            return;
        }

        if ((events & (LoopEvents.HungUp | LoopEvents.Failed)) != 0)
        {
            connection.CutOff(_host!.Loop);
            flow.ShutHost(VsockShutdown.ReceivesNoMore);
        }

        if ((events & LoopEvents.Writable) != 0)
        {
            if (!connection.Flush())
            {
                flow.Reset();
            }

            CloseWhatIsShut(connection);
        }

        connection.MayRead |= (events & LoopEvents.Readable) != 0;
        Schedule(connection);
        connection.Adjust(_host!.Loop);
        _ = _host.Process(ReceiveQueue);
    }

    private void Greet(VsockConnection newcomer)
    {
        switch (newcomer.ReadGreeting(out var port))
        {
            case false:
                return;
            case true when FindHostPort(port) is { } hostPort:
                _newcomers.Remove(newcomer);
                newcomer.Flow = VsockFlow.FromHost(FreeBuffer);
                newcomer.HostPort = hostPort;
                newcomer.GuestPort = port;
                newcomer.Deadline = Now + _patience.Ticks;
                newcomer.Ignore(_host!.Loop);
                Add(newcomer);
                WatchDeadlines();
                _ = _host.Process(ReceiveQueue);
                break;
            default:
                _newcomers.Remove(newcomer);
                newcomer.Ignore(_host!.Loop);
                newcomer.Dispose();
                break;
        }
    }

    private uint? FindHostPort(uint guestPort)
    {
        // There are a million times as many as connections.
        for (var i = 0; i <= MostConnections; i++)
        {
            _lastHostPort = _lastHostPort + 1 >= 2 * FirstHostPort ? FirstHostPort : _lastHostPort + 1;
            if (!_connections.ContainsKey(Key(_lastHostPort, guestPort)))
            {
                return _lastHostPort;
            }
        }

        return null;
    }

    private void End(VsockConnection connection)
    {
        if (_connections.Remove(Key(connection.HostPort, connection.GuestPort)))
        {
            Metrics.Add(Removed);
        }

        // A guest without buffers never takes what is in line.
        if (connection.IsInLine)
        {
            _line.Remove(connection.PlaceInLine);
        }

        if (_host is not null)
        {
            connection.Ignore(_host.Loop);
            Accept(true);
        }

        connection.Dispose();
    }

    private void EndAll()
    {
        _late.Clear();
        _late.AddRange(_connections.Values);
        foreach (var connection in _late)
        {
            End(connection);
        }

        foreach (var newcomer in _newcomers)
        {
            if (_host is not null)
            {
                newcomer.Ignore(_host.Loop);
            }

            newcomer.Dispose();
        }

        _late.Clear();
        _newcomers.Clear();
        _line.Clear();
        _orphans.Clear();
    }

    private void OnReleased()
    {
        _released.Clear();
        EndWhenReleased();
    }

    private void EndWhenReleased()
    {
        if (Interlocked.Exchange(ref _letGo, 0) != 0)
        {
            EndAll();
        }
    }

    private void WatchDeadlines()
    {
        // All deadlines are equally far away when they are set: the one that the timer waits for is never the later one.
        if (_deadlines is null || _waits)
        {
            return;
        }

        var next = long.MaxValue;
        foreach (var newcomer in _newcomers)
        {
            next = Math.Min(next, newcomer.Deadline);
        }

        foreach (var connection in _connections.Values)
        {
            next = Math.Min(next, connection.Deadline);
        }

        if (next != long.MaxValue)
        {
            _deadlines.Start(TimeSpan.FromTicks(Math.Max(1, next - Now)), TimeSpan.Zero);
            _waits = true;
        }
    }

    private void OnDeadlines()
    {
        var now = Now;
        _waits = false;
        Accept(true);
        for (var i = _newcomers.Count - 1; i >= 0; i--)
        {
            if (_newcomers[i].Deadline <= now)
            {
                _newcomers[i].Ignore(_host!.Loop);
                _newcomers[i].Dispose();
                _newcomers.RemoveAt(i);
            }
        }

        _late.Clear();
        foreach (var connection in _connections.Values)
        {
            if (connection.Deadline <= now)
            {
                _late.Add(connection);
            }
        }

        foreach (var connection in _late)
        {
            // The host's end goes at once; the guest is told when it has a buffer for it.
            Metrics.Add(Killed);
            Orphan(connection.HostPort, connection.GuestPort);
            End(connection);
        }

        WatchDeadlines();
        _ = _host!.Process(ReceiveQueue);
    }

    private void Accept(bool on)
    {
        if (_host is not null && on != _accepts)
        {
            _host.Loop.Change(_listener, on ? LoopEvents.Readable : LoopEvents.None);
            _accepts = on;
        }
    }

    private static ulong Key(uint hostPort, uint guestPort) => (ulong)hostPort << 32 | guestPort;
}
