using System.Net.Sockets;
using Fleet.Host.Drivers.Processes;

namespace Fleet.Host.Drivers;

/// <summary>Connections to a Unix socket in a microVM's directory.</summary>
internal static class VmmSocket
{
    private static readonly TimeSpan Pause = TimeSpan.FromMilliseconds(10);

    /// <summary>
    /// Connects by way of /proc/self/fd, because a socket's address holds 107 bytes and a directory's path may be longer.
    /// </summary>
    public static async Task<Socket> ConnectAsync(string directory, string name, CancellationToken cancellation)
    {
        using var handle = Posix.OpenDirectory(directory);
        var socket = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
        try
        {
            var address = new UnixDomainSocketEndPoint($"/proc/self/fd/{handle.DangerousGetHandle()}/{name}");
            await socket.ConnectAsync(address, cancellation).ConfigureAwait(false);
            return socket;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }

    /// <summary>Connects as soon as the VMM listens; null when it ends first.</summary>
    public static async Task<Socket?> ConnectAsync(string directory, string name, VmmProcess process, TimeProvider clock, CancellationToken cancellation)
    {
        while (true)
        {
            try
            {
                return await ConnectAsync(directory, name, cancellation).ConfigureAwait(false);
            }
            catch (SocketException e) when (e.SocketErrorCode is SocketError.ConnectionRefused or SocketError.AddressNotAvailable || IsMissing(e))
            {
                if (process.Ended.IsCompleted) return null;
            }
            await Task.WhenAny(process.Ended, Task.Delay(Pause, clock, cancellation)).ConfigureAwait(false);
            cancellation.ThrowIfCancellationRequested();
        }
    }

    private static bool IsMissing(SocketException e)
    {
        const int enoent = 2;
        return e.NativeErrorCode == enoent;
    }
}
