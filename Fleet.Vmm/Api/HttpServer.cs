using System.Runtime.InteropServices;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Api;

/// <summary>HTTP/1.1 over a Unix socket, on the event loop. At most <see cref="MostConnections"/> at a time, as Firecracker.</summary>
internal sealed class HttpServer : IDisposable
{
    public const int MostConnections = 10;

    /// <summary>Firecracker's default limit of a request's body, in bytes.</summary>
    public const int LargestBody = 51200;

    private readonly EventLoop _loop;
    private readonly string _path;
    private readonly int _largestBody;
    private readonly ApiHandler _handler;
    private readonly List<HttpConnection> _connections = [];
    private int _listener;

    // Given up for a moment when the process is out of descriptors: a client that can't be taken can then be told so.
    // Left waiting it would wake the loop without end.
    private int _spare;

    /// <summary>Makes the socket; <see cref="Serve"/> takes the first client. Throws <see cref="SystemCallException"/> or <see cref="ArgumentException"/>.</summary>
    public HttpServer(EventLoop loop, string path, int largestBody, ApiHandler handler)
    {
        _loop = loop;
        _path = path;
        _largestBody = largestBody;
        _handler = handler;
        _listener = Sockets.Listen(path, MostConnections);
        _spare = Descriptors.dup(_listener);
    }

    public void Serve() => _loop.Add(_listener, Accept);

    /// <summary>Ends every connection and removes the socket's file.</summary>
    public void Dispose()
    {
        if (_listener < 0)
        {
            return;
        }

        foreach (var connection in _connections)
        {
            connection.Dispose();
        }

        _connections.Clear();
        _loop.Remove(_listener);
        _ = Descriptors.close(_listener);
        _ = Descriptors.close(_spare);
        if (PassedDescriptor.NumberOf(_path) is null)
        {
            _ = Descriptors.unlink(_path);
        }

        _listener = -1;
    }

    private void Accept()
    {
        // One per event: the loop comes back while more wait, and serves the others in between.
        var fd = Sockets.Accept(_listener);
        if (fd < 0)
        {
            if (Marshal.GetLastPInvokeError() is SystemCallException.TooManyOpenFiles or SystemCallException.TableFull)
            {
                RefuseWithSpare();
            }

            return;
        }

        if (_connections.Count == MostConnections)
        {
            HttpConnection.Refuse(fd);
            return;
        }

        try
        {
            _connections.Add(new HttpConnection(_loop, fd, _largestBody, _handler, closed => _connections.Remove(closed)));
        }
        catch (SystemCallException)
        {
            // The host has no room for one more watch. That client's bad luck must not reach the guest.
            HttpConnection.Refuse(fd);
        }
    }

    private void RefuseWithSpare()
    {
        _ = Descriptors.close(_spare);
        var fd = Sockets.Accept(_listener);
        if (fd >= 0)
        {
            HttpConnection.Refuse(fd);
        }

        _spare = Descriptors.dup(_listener);
    }
}
