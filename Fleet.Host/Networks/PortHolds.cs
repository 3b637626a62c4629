using System.Net;
using System.Net.Sockets;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Serilog;

namespace Fleet.Host.Networks;

/// <summary>
/// Keeps the host's published ports from its own programs: the kernel leads their packets away before any socket sees them, so
/// that a port which a program has must not be published, and no program may take one that is. Not safe for several threads.
/// </summary>
internal sealed class PortHolds(ILogger log) : IDisposable
{
    private readonly Dictionary<string, List<Socket>> _held = new(StringComparer.Ordinal);

    /// <summary>Takes all ports of a microVM or none; the port that is taken, or null.</summary>
    /// <param name="one">The microVM.</param>
    /// <param name="told">Its ports are published already: one that can't be held is told of, and left.</param>
    public PublishedPort? TryHold(Attachment one, bool told)
    {
        if (_held.ContainsKey(one.VmId))
            return null;
        var sockets = new List<Socket>();
        foreach (var port in one.Ports)
        {
            try
            {
                sockets.Add(Hold(port));
            }
            catch (SocketException taken)
            {
                if (!told)
                {
                    sockets.ForEach(socket => socket.Dispose());
                    return port;
                }

                log.Warning("Port {Port}/{Protocol} leads to {VmId}, and a program of this host has taken it meanwhile ({Why:l}): from outside it is not reached", port.Host, port.Protocol, one.VmId, taken.Message);
            }
        }

        if (sockets.Count > 0)
            _held[one.VmId] = sockets;
        return null;
    }

    public void Release(string vmId)
    {
        if (_held.Remove(vmId, out var sockets))
            sockets.ForEach(socket => socket.Dispose());
    }

    public void Dispose()
    {
        foreach (var vmId in _held.Keys.ToList())
            Release(vmId);
    }

    // Bound and no more: nobody listens, so that whoever gets here all the same is refused at once.
    private static Socket Hold(PublishedPort port)
    {
        var both = Socket.OSSupportsIPv6;
        var socket = new Socket(
            both ? AddressFamily.InterNetworkV6 : AddressFamily.InterNetwork,
            port.Protocol == NetworkRules.Udp ? SocketType.Dgram : SocketType.Stream,
            port.Protocol == NetworkRules.Udp ? ProtocolType.Udp : ProtocolType.Tcp);
        try
        {
            if (both)
                socket.DualMode = true;
            socket.Bind(new IPEndPoint(both ? IPAddress.IPv6Any : IPAddress.Any, (int)port.Host));
            // .NET lets others share a port that nobody listens on, unless it is told not to.
            socket.SetSocketOption(SocketOptionLevel.Socket, SocketOptionName.ReuseAddress, false);
            return socket;
        }
        catch
        {
            socket.Dispose();
            throw;
        }
    }
}
