using System.Buffers;
using System.Buffers.Binary;
using System.Globalization;
using System.Net;
using System.Security.Cryptography;
using System.Text;

namespace Fleet.Host.Networks;

/// <summary>
/// Bridges and taps: what they are called, and what has to be done so that there are those of the table and no other of ours.
/// A name says whose the interface is and where it belongs, so that what a killed agent left is found by it.
/// </summary>
internal sealed class LinkPlan
{
    /// <summary>Of every interface that any agent of Fleet makes.</summary>
    public const string Prefix = "fl";

    private const int MarkLength = 4;

    /// <summary>IFNAMSIZ less its zero: prefix, mark, kind and the address in hex fill it.</summary>
    private const int NameLength = 15;

    private static readonly SearchValues<char> Hex = SearchValues.Create("0123456789abcdef");

    private readonly string _mark;

    /// <param name="stateDirectory">Of the agent: several agents on a machine must not sweep each other's.</param>
    public LinkPlan(string stateDirectory) =>
        _mark = Prefix + Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(Path.GetFullPath(stateDirectory))))[..MarkLength];

    /// <summary>Every bridge of this agent's, for nftables.</summary>
    public string Bridges => _mark + "b*";

    public string BridgeOf(Attachment one) => Name('b', one.Gateway4);

    public string TapOf(Attachment one) => Name('t', one.Address4);

    /// <summary>Whether this agent, or one before it on the same state directory, made the interface.</summary>
    public bool IsOurs(string name) => IsFleets(name) && name.StartsWith(_mark, StringComparison.Ordinal);

    /// <summary>Whether any agent of Fleet made it.</summary>
    public static bool IsFleets(string name) =>
        name.Length == NameLength && name.StartsWith(Prefix, StringComparison.Ordinal) && name[Prefix.Length + MarkLength] is 'b' or 't'
        && !name.AsSpan(Prefix.Length, MarkLength).ContainsAnyExcept(Hex) && !name.AsSpan(NameLength - 8).ContainsAnyExcept(Hex);

    /// <summary>The IPv4 network of a bridge that any agent of Fleet made; null: it is none.</summary>
    public static IPNetwork? SubnetOf(string name)
    {
        if (!IsFleets(name) || name[Prefix.Length + MarkLength] != 'b')
            return null;
        var bytes = new byte[4];
        var gateway = uint.Parse(name.AsSpan(NameLength - 8), NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture);
        BinaryPrimitives.WriteUInt32BigEndian(bytes, gateway & (uint.MaxValue << (32 - NetworkOptions.TenantPrefix)));
        return new IPNetwork(new IPAddress(bytes), NetworkOptions.TenantPrefix);
    }

    /// <summary>Lines for <c>ip -batch</c> that make what is missing; none: nothing is.</summary>
    /// <param name="wanted">Who is to be there.</param>
    /// <param name="present">Every interface of the machine.</param>
    /// <param name="ipv6">The machine has it.</param>
    /// <param name="whole">What is present may be half made, or changed by others: everything about it is set once more.</param>
    public IReadOnlyList<string> Make(IReadOnlyCollection<Attachment> wanted, IReadOnlySet<string> present, bool ipv6, bool whole)
    {
        var lines = new List<string>();
        foreach (var one in wanted.DistinctBy(BridgeOf).Where(one => whole || !present.Contains(BridgeOf(one))))
        {
            var bridge = BridgeOf(one);
            if (!present.Contains(bridge))
                lines.Add($"link add name {bridge} address {Attachment.MacOf(one.Gateway4)} type bridge stp_state 0 forward_delay 0 mcast_snooping 0");
            // The length of the prefix is the route to the network.
            lines.Add($"addr replace {one.Gateway4}/{one.Subnet4.PrefixLength} dev {bridge}");
            if (ipv6)
                lines.Add($"addr replace {one.Gateway6}/{one.Subnet6.PrefixLength} dev {bridge} nodad");
            lines.Add($"link set dev {bridge} up");
        }

        foreach (var one in wanted)
        {
            var tap = TapOf(one);
            // A bridge that was taken away let go of its taps.
            if (!whole && present.Contains(tap) && present.Contains(BridgeOf(one)))
                continue;
            // Of user 0: else whoever may open /dev/net/tun could take it.
            if (!present.Contains(tap))
                lines.Add($"tuntap add dev {tap} mode tap user 0 vnet_hdr");
            // The host itself says nothing there.
            lines.Add($"link set dev {tap} addrgenmode none");
            lines.Add($"link set dev {tap} master {BridgeOf(one)} up");
        }

        return lines;
    }

    /// <summary>Lines for <c>ip -batch</c> that remove what belongs to nobody any more, taps first.</summary>
    public IReadOnlyList<string> Unmake(IReadOnlyCollection<Attachment> wanted, IReadOnlySet<string> present)
    {
        var kept = wanted.SelectMany(one => (string[])[BridgeOf(one), TapOf(one)]).ToHashSet(StringComparer.Ordinal);
        return [.. present.Where(name => IsOurs(name) && !kept.Contains(name)).OrderByDescending(name => name[Prefix.Length + MarkLength]).ThenBy(name => name, StringComparer.Ordinal)
            .Select(name => $"link delete dev {name}")];
    }

    private string Name(char kind, IPAddress address) =>
        string.Create(CultureInfo.InvariantCulture, $"{_mark}{kind}{Convert.ToHexStringLower(address.GetAddressBytes())}");
}
