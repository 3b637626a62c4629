using System.Runtime.InteropServices;
using Fleet.Vmm.Devices;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Machines;

/// <summary>
/// Standard input for the first serial port, when it is a pipe, a FIFO or a terminal. While the guest does not read, nothing
/// is taken: the writer's pipe fills and the writer waits.
/// </summary>
internal sealed unsafe class ConsoleInput : IDisposable
{
    private readonly EventLoop _loop;
    private readonly int _fd;
    private readonly SerialPort _port;
    private readonly EventCounter _room;
    private readonly Action<string> _onWarning;
    private bool _listening;
    private bool _warned;
    private bool _full;
    private bool _disposed;

    /// <summary>
    /// Begins to listen. <paramref name="room"/> is signalled by the port's <c>onRoom</c>. Does not own the fd. Throws
    /// <see cref="SystemCallException"/> when the loop can't take <paramref name="room"/>; not for the fd, see <see cref="Retry"/>.
    /// </summary>
    public ConsoleInput(EventLoop loop, int fd, SerialPort port, EventCounter room, Action<string> onWarning)
    {
        _loop = loop;
        _fd = fd;
        _port = port;
        _room = room;
        _onWarning = onWarning;
        _loop.Add(room.Descriptor, OnRoom);
        Listen();
    }

    /// <summary>
    /// Listens again where there was nothing to hear: a FIFO that its writers left may find a new one, and a kernel that had
    /// no room for the wait (epoll's max_user_watches, memory) may have it now. Called about once a second.
    /// </summary>
    public void Retry()
    {
        if (!_listening && !_full && !_disposed)
        {
            Listen();
        }
    }

    public void Dispose()
    {
        if (!_disposed)
        {
            _disposed = true;
            Ignore();
            _loop.Remove(_room.Descriptor);
        }
    }

    private void Listen()
    {
        try
        {
            _loop.Add(_fd, OnReadable);
            _listening = true;
        }
        catch (SystemCallException failure)
        {
            // A guest without input is better than no guest.
            if (!_warned)
            {
                _warned = true;
                _onWarning($"The console's input can't be waited for, and is tried again every second: {failure.Message}.");
            }
        }
    }

    private void Ignore()
    {
        if (_listening)
        {
            _loop.Remove(_fd);
            _listening = false;
        }
    }

    private void OnReadable()
    {
        var room = _port.Room;
        if (room == 0)
        {
            _full = true;
            Ignore();
            return;
        }

        var buffer = stackalloc byte[SerialPort.ReceiveCapacity];

        // SAFETY: the buffer has room for everything that Room can say.
        var got = Descriptors.read(_fd, buffer, room);
        if (got > 0)
        {
            _port.Receive(new ReadOnlySpan<byte>(buffer, (int)got));
        }
        else if (got == 0 || Marshal.GetLastPInvokeError() is not (SystemCallException.TryAgain or SystemCallException.Interrupted))
        {
            // Nobody writes (any more); epoll would tell so without end.
            Ignore();
        }
    }

    private void OnRoom()
    {
        _room.Clear();
        _full = false;
        if (!_listening && !_disposed)
        {
            Listen();
        }
    }
}
