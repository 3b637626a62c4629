using System.Buffers.Binary;
using System.Globalization;
using System.Net;
using Fleet.Host.State;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Networks;

/// <summary>One microVM's place in its tenant's network on this host, and all that follows from it.</summary>
/// <param name="VmId">Whose.</param>
/// <param name="Tenant">Empty: nobody's, which is a network of its own.</param>
/// <param name="Name">By which others of the tenant find it.</param>
/// <param name="Subnet4">The tenant's, IPv4.</param>
/// <param name="Subnet6">The tenant's, IPv6.</param>
/// <param name="Number">Of the address in both; 1 is the host's.</param>
/// <param name="Ports">Of the host that lead to it.</param>
public sealed record Attachment(
    string VmId, string Tenant, string Name, IPNetwork Subnet4, IPNetwork Subnet6, uint Number, IReadOnlyList<PublishedPort> Ports)
{
    /// <summary>The host's address in every tenant's network: way out, and resolver.</summary>
    internal const uint GatewayNumber = 1;

    public IPAddress Address4 => At4(Subnet4, Number);

    public IPAddress Address6 => At6(Subnet6, Number);

    public IPAddress Gateway4 => At4(Subnet4, GatewayNumber);

    public IPAddress Gateway6 => At6(Subnet6, GatewayNumber);

    /// <summary>Locally administered; its last four bytes are the IPv4 address.</summary>
    public string Mac => MacOf(Address4);

    /// <summary>What the guest's kernel makes of <see cref="Mac"/> (RFC 4291, appendix A).</summary>
    public IPAddress LinkLocal => LinkLocalOf(Address4);

    /// <summary>As launch records keep it.</summary>
    internal NetworkPlace ToPlace() => new() { Subnet4 = Subnet4.ToString(), Subnet6 = Subnet6.ToString(), Number = Number };

    /// <summary>As reports tell it.</summary>
    internal NetworkAddresses ToAddresses() => new() { Ipv4 = Address4.ToString(), Ipv6 = Address6.ToString() };

    /// <summary>Of a record; null: it has none, or what it has is no place.</summary>
    internal static Attachment? Of(LaunchRecord record) =>
        record.Network is { Number: > GatewayNumber } place && IPNetwork.TryParse(place.Subnet4, out var four) && IPNetwork.TryParse(place.Subnet6, out var six)
            && four.PrefixLength == NetworkOptions.TenantPrefix && six.PrefixLength == NetworkOptions.TenantPrefix6 && place.Number < MostNumber
            ? new(record.Launch.VmId, record.Launch.Spec.Tenant, record.Launch.Spec.Name, four, six, place.Number, [.. record.Launch.Spec.Ports])
            : null;

    /// <summary>The last of a subnet is the broadcast address.</summary>
    internal const uint MostNumber = (1u << (32 - NetworkOptions.TenantPrefix)) - 1;

    internal static string MacOf(IPAddress address4)
    {
        var bytes = address4.GetAddressBytes();
        return string.Create(CultureInfo.InvariantCulture, $"02:f1:{bytes[0]:x2}:{bytes[1]:x2}:{bytes[2]:x2}:{bytes[3]:x2}");
    }

    private static IPAddress LinkLocalOf(IPAddress address4)
    {
        var bytes = address4.GetAddressBytes();
        // The bit that says "local" is turned around.
        return new IPAddress([0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0x00, 0xf1, bytes[0], 0xff, 0xfe, bytes[1], bytes[2], bytes[3]]);
    }

    private static IPAddress At4(IPNetwork subnet, uint number)
    {
        var bytes = subnet.BaseAddress.GetAddressBytes();
        BinaryPrimitives.WriteUInt32BigEndian(bytes, BinaryPrimitives.ReadUInt32BigEndian(bytes) + number);
        return new IPAddress(bytes);
    }

    private static IPAddress At6(IPNetwork subnet, uint number)
    {
        var bytes = subnet.BaseAddress.GetAddressBytes();
        BinaryPrimitives.WriteUInt32BigEndian(bytes.AsSpan(12), number);
        return new IPAddress(bytes);
    }
}
