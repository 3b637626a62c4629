using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;

namespace Fleet.Host.Networks;

/// <summary>What the networks of this host's tenants are cut from.</summary>
public sealed record NetworkOptions
{
    /// <summary>Of a tenant's network: 1021 microVMs, the host, and the two that no interface has.</summary>
    internal const int TenantPrefix = 22;

    /// <summary>Of a tenant's network under IPv6.</summary>
    internal const int TenantPrefix6 = 64;

    private const int SitePrefix6 = 48;

    /// <summary>IPv4, /8 to /22: a /22 of it for each tenant. Not routed anywhere but on this host, so that every host may have the same.</summary>
    public IPNetwork Pool { get; init; } = new(IPAddress.Parse("10.144.0.0"), 12);

    /// <summary>IPv6, a /48: a /64 of it for each tenant. Null: a unique local one that follows from the host's id (RFC 4193).</summary>
    public IPNetwork? Pool6 { get; init; }

    /// <summary>What can't be, as a sentence; null: nothing.</summary>
    public string? FirstProblem()
    {
        if (Pool.BaseAddress.AddressFamily != AddressFamily.InterNetwork || Pool.PrefixLength is < 8 or > TenantPrefix)
            return $"The networks of tenants need an IPv4 prefix of /8 to /{TenantPrefix}, such as 10.144.0.0/12; {Pool} is none.";
        return Pool6 is { } six && (six.BaseAddress.AddressFamily != AddressFamily.InterNetworkV6 || six.PrefixLength != SitePrefix6)
            ? $"The networks of tenants need an IPv6 prefix of /{SitePrefix6}, such as fd12:3456:789a::/48; {six} is none."
            : null;
    }

    /// <summary>The IPv6 prefix of a host.</summary>
    internal IPNetwork SiteOf(string hostId)
    {
        if (Pool6 is { } given)
            return given;
        Span<byte> address = stackalloc byte[16];
        SHA256.HashData(Encoding.UTF8.GetBytes(hostId)).AsSpan(0, 5).CopyTo(address[1..]);
        address[0] = 0xfd;
        return new IPNetwork(new IPAddress(address), SitePrefix6);
    }
}
