using System.Net;
using System.Net.Sockets;

namespace Fleet.Tests;

/// <summary>
/// A port of loopback that nobody listens on at the moment. Below those that the kernel gives to connections, any of which may have taken it by the time it is used; and none twice.
/// </summary>
internal static class FreePort
{
    private const int First = 10_000, Count = 20_000;

    private static int _last = Random.Shared.Next(Count);

    public static int Next()
    {
        while (true)
        {
            var port = First + (int)((uint)Interlocked.Increment(ref _last) % Count);
            using var listener = new TcpListener(IPAddress.Loopback, port);
            try
            {
                listener.Start();
                return port;
            }
            catch (SocketException)
            {
                // Somebody has it.
            }
        }
    }
}
