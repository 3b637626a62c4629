using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text.Json;

namespace Fleet.Guest.Configuration;

/// <summary>An address with the length of its network's prefix, as in <c>10.144.0.2/22</c>.</summary>
internal readonly record struct InterfaceAddress(IPAddress Address, int PrefixLength);

/// <summary>What run.json says of the network interface (docs/guest-protocol.md).</summary>
/// <param name="Mac">Of the interface that is meant, as /sys shows it.</param>
/// <param name="Ipv4">Its address.</param>
/// <param name="Gateway4">The way out.</param>
/// <param name="Ipv6">Its address under IPv6.</param>
/// <param name="Gateway6">The way out under IPv6.</param>
/// <param name="Resolver">Whom to ask for names.</param>
/// <param name="Domain">What names without a dot may be completed by.</param>
internal sealed record NetworkConfiguration(
    string Mac, InterfaceAddress Ipv4, IPAddress Gateway4, InterfaceAddress Ipv6, IPAddress Gateway6, IPAddress Resolver, string Domain)
{
    private static readonly string[] Members = ["mac", "ipv4", "gateway4", "ipv6", "gateway6", "resolver", "domain"];

    public static NetworkConfiguration Read(ref Utf8JsonReader reader)
    {
        if (reader.TokenType != JsonTokenType.StartObject) throw new BadConfigurationException("'network' is not an object");
        var values = new string?[Members.Length];
        while (reader.Read() && reader.TokenType == JsonTokenType.PropertyName)
        {
            var name = reader.GetString()!;
            var member = Array.IndexOf(Members, name);
            if (member < 0 || values[member] is not null) throw new BadConfigurationException($"'network' has an unknown or repeated member '{name}'");
            reader.Read();
            values[member] = RunConfiguration.ReadString(ref reader, name);
        }
        if (Array.IndexOf(values, null) is >= 0 and var missing) throw new BadConfigurationException($"'network' has no '{Members[missing]}'");
        return new(
            values[0]!, Interface(values[1]!, AddressFamily.InterNetwork), Address(values[2]!, AddressFamily.InterNetwork),
            Interface(values[3]!, AddressFamily.InterNetworkV6), Address(values[4]!, AddressFamily.InterNetworkV6),
            Address(values[5]!, AddressFamily.InterNetwork), values[6]!);
    }

    private static InterfaceAddress Interface(string text, AddressFamily family)
    {
        var slash = text.IndexOf('/');
        var most = family == AddressFamily.InterNetwork ? 32 : 128;
        return slash > 0 && int.TryParse(text.AsSpan(slash + 1), NumberStyles.None, CultureInfo.InvariantCulture, out var length) && length <= most
            ? new(Address(text[..slash], family), length)
            : throw new BadConfigurationException($"'{text}' in 'network' is not ADDRESS/LENGTH");
    }

    private static IPAddress Address(string text, AddressFamily family) =>
        IPAddress.TryParse(text, out var address) && address.AddressFamily == family
            ? address
            : throw new BadConfigurationException($"'{text}' in 'network' is not an address of the family that belongs there");
}
