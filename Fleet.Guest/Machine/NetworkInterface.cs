using System.Buffers.Binary;
using System.Net;
using System.Runtime.InteropServices;
using System.Text;
using Fleet.Guest.Configuration;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Machine;

/// <summary>The microVM's network interface: addresses, ways out, and who knows names. By ioctl, so that nothing of the image is needed.</summary>
internal static unsafe class NetworkInterface
{
    private const int AF_INET = 2, AF_INET6 = 10, SOCK_DGRAM = 2, SOCK_CLOEXEC = 0x80000;
    private const nuint SIOCADDRT = 0x890B, SIOCSIFADDR = 0x8916, SIOCSIFNETMASK = 0x891C, SIOCGIFFLAGS = 0x8913, SIOCSIFFLAGS = 0x8914, SIOCGIFINDEX = 0x8933;
    private const short IFF_UP = 1;
    private const int RTF_UP = 1, RTF_GATEWAY = 2;

    /// <summary>struct ifreq: a name of 16 bytes and a union of 24.</summary>
    private const int IfreqBytes = 40, NameBytes = 16;

    /// <summary>struct rtentry: destination, gateway and mask are socket addresses of 16 bytes behind a long; the flags follow.</summary>
    private const int RtentryBytes = 120, DestinationOffset = 8, GatewayOffset = 24, MaskOffset = 40, FlagsOffset = 56;

    /// <summary>struct in6_ifreq: the address, the prefix' length, the interface.</summary>
    private const int In6IfreqBytes = 24;

    /// <summary>struct in6_rtmsg: destination, source, gateway of 16 bytes; type, two lengths, metric; a long; flags; interface.</summary>
    private const int In6RtmsgBytes = 80, Gateway6Offset = 32, MetricOffset = 56, Flags6Offset = 72, Index6Offset = 76;

    /// <summary>Sets everything that it can; what it can't is told to <paramref name="complain"/>.</summary>
    public static void SetUp(NetworkConfiguration network, string hostname, Action<string> complain)
    {
        var name = Files.List("/sys/class/net").FirstOrDefault(one =>
            Files.Read($"/sys/class/net/{one}/address", 64, out _) is { } mac && Encoding.ASCII.GetString(mac).Trim() == network.Mac);
        if (name is null || Encoding.UTF8.GetByteCount(name) >= NameBytes)
        {
            complain($"there is no network interface {network.Mac}");
            return;
        }

        // The addresses are the host's to give: no need to see whether somebody has them, and nobody here tells of routes.
        foreach (var setting in (string[])["accept_dad", "accept_ra"]) Files.Write($"/proc/sys/net/ipv6/conf/{name}/{setting}", "0"u8);
        try
        {
            SetUp4(network, name);
            SetUp6(network, name);
        }
        catch (NetworkSetUpException failed)
        {
            complain($"{name}: {failed.Message}");
        }

        // An image may have its own, or no such folder; this machine's names are these all the same.
        Files.MakeFolder("/etc");
        Put("/etc/resolv.conf", $"nameserver {network.Resolver}\nsearch {network.Domain}\n", complain);
        if (hostname.Length > 0)
            Put("/etc/hosts", $"127.0.0.1\tlocalhost\n::1\tlocalhost\n{network.Ipv4.Address}\t{hostname} {hostname}.{network.Domain}\n{network.Ipv6.Address}\t{hostname} {hostname}.{network.Domain}\n", complain);
    }

    private static void SetUp4(NetworkConfiguration network, string name)
    {
        var socket = Check(Libc.socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), "socket");
        try
        {
            Span<byte> request = stackalloc byte[IfreqBytes];
            Name(request, name);
            WriteAddress(request[NameBytes..], network.Ipv4.Address);
            Call(socket, SIOCSIFADDR, request, "its IPv4 address");
            Name(request, name);
            var mask = network.Ipv4.PrefixLength == 0 ? 0 : uint.MaxValue << (32 - network.Ipv4.PrefixLength);
            Span<byte> bytes = stackalloc byte[4];
            BinaryPrimitives.WriteUInt32BigEndian(bytes, mask);
            WriteAddress(request[NameBytes..], new IPAddress(bytes));
            Call(socket, SIOCSIFNETMASK, request, "its netmask");
            Name(request, name);
            Call(socket, SIOCGIFFLAGS, request, "its flags");
            MemoryMarshal.Write(request[NameBytes..], (short)(MemoryMarshal.Read<short>(request[NameBytes..]) | IFF_UP));
            Call(socket, SIOCSIFFLAGS, request, "that it is up");
            Span<byte> route = stackalloc byte[RtentryBytes];
            route.Clear();
            WriteAddress(route[DestinationOffset..], IPAddress.Any);
            WriteAddress(route[GatewayOffset..], network.Gateway4);
            WriteAddress(route[MaskOffset..], IPAddress.Any);
            MemoryMarshal.Write(route[FlagsOffset..], (ushort)(RTF_UP | RTF_GATEWAY));
            Call(socket, SIOCADDRT, route, "its way out");
        }
        finally
        {
            Libc.close(socket);
        }
    }

    private static void SetUp6(NetworkConfiguration network, string name)
    {
        // A kernel without IPv6 is no fault of anybody's.
        var socket = Libc.socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
        if (socket < 0) return;
        try
        {
            Span<byte> request = stackalloc byte[IfreqBytes];
            Name(request, name);
            Call(socket, SIOCGIFINDEX, request, "its number");
            var index = MemoryMarshal.Read<int>(request[NameBytes..]);
            Span<byte> address = stackalloc byte[In6IfreqBytes];
            network.Ipv6.Address.TryWriteBytes(address, out _);
            MemoryMarshal.Write(address[16..], network.Ipv6.PrefixLength);
            MemoryMarshal.Write(address[20..], index);
            Call(socket, SIOCSIFADDR, address, "its IPv6 address");
            Span<byte> route = stackalloc byte[In6RtmsgBytes];
            route.Clear();
            network.Gateway6.TryWriteBytes(route[Gateway6Offset..], out _);
            MemoryMarshal.Write(route[MetricOffset..], 1);
            MemoryMarshal.Write(route[Flags6Offset..], RTF_UP | RTF_GATEWAY);
            MemoryMarshal.Write(route[Index6Offset..], index);
            Call(socket, SIOCADDRT, route, "its way out under IPv6");
        }
        finally
        {
            Libc.close(socket);
        }
    }

    private static void Name(Span<byte> request, string name)
    {
        request.Clear();
        Encoding.UTF8.GetBytes(name, request[..(NameBytes - 1)]);
    }

    /// <summary>struct sockaddr_in without a port.</summary>
    private static void WriteAddress(Span<byte> target, IPAddress address)
    {
        MemoryMarshal.Write(target, (short)AF_INET);
        address.TryWriteBytes(target[4..], out _);
    }

    private static void Call(int socket, nuint request, Span<byte> argument, string what)
    {
        // SAFETY: the structure is of the size that the request has, and stays where it is during the call.
        fixed (byte* start = argument)
        {
            Check(Libc.ioctl(socket, request, start), what);
        }
    }

    private static int Check(int result, string what) =>
        result >= 0 ? result : throw new NetworkSetUpException($"{what} can't be set: {Files.Describe(Marshal.GetLastPInvokeError())}");

    private static void Put(string path, string text, Action<string> complain)
    {
        // An image's may lead to where nothing is, as systemd-resolved's does, or to a file that is not to be written.
        if (Files.Replace(path, Encoding.UTF8.GetBytes(text), 0x1A4) is not 0 and var error) complain($"{path} can't be written: {Files.Describe(error)}");
    }

    private sealed class NetworkSetUpException(string message) : Exception(message);
}
