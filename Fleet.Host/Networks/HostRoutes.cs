using System.Buffers.Binary;
using System.Globalization;
using System.Net;

namespace Fleet.Host.Networks;

/// <summary>What this machine itself reaches somewhere, or is: its routes of all tables and its addresses, but for those of Fleet's interfaces.</summary>
internal static class HostRoutes
{
    /// <summary>Wider ones are ways out rather than networks: no pool is larger.</summary>
    private const int Widest4 = 8;

    /// <summary>Of a site. Wider ones hold many, and which is this host's was drawn, or given on purpose.</summary>
    private const int Widest6 = 48;

    /// <summary>RTF_REJECT: it leads to nobody.</summary>
    private const uint Rejects = 0x200;

    /// <param name="proc">Where the kernel tells of routes.</param>
    /// <param name="links">Every interface of the machine.</param>
    /// <exception cref="IOException">The kernel does not tell.</exception>
    /// <exception cref="UnauthorizedAccessException">It may not be read.</exception>
    public static IReadOnlyList<IPNetwork> Read(string proc, IEnumerable<string> links)
    {
        // Routes of IPv4 are told without their interfaces.
        var ours = links.Select(LinkPlan.SubnetOf).OfType<IPNetwork>().ToList();
        var six = Path.Combine(proc, "net/ipv6_route");
        var routes = Of4(File.ReadLines(Path.Combine(proc, "net/fib_trie")))
            .Where(route => !ours.Exists(own => own.Contains(route.BaseAddress) && route.PrefixLength >= own.PrefixLength)).ToList();
        if (File.Exists(six))
            routes.AddRange(Of6(File.ReadLines(six)));
        return routes;
    }

    private static IEnumerable<IPNetwork> Of4(IEnumerable<string> lines)
    {
        var leaf = "";
        foreach (var line in lines)
        {
            var words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words is ["|--", var address])
                leaf = address;
            else if (words is [var length, _, "UNICAST" or "LOCAL", ..] && IPNetwork.TryParse(leaf + length, out var route) && route.PrefixLength >= Widest4)
                yield return route;
        }
    }

    private static IEnumerable<IPNetwork> Of6(IEnumerable<string> lines)
    {
        foreach (var line in lines)
        {
            var words = line.Split(' ', StringSplitOptions.RemoveEmptyEntries);
            if (words.Length != 10 || LinkPlan.IsFleets(words[9])
                || !UInt128.TryParse(words[0], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var bits)
                || !byte.TryParse(words[1], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var length)
                || !uint.TryParse(words[8], NumberStyles.AllowHexSpecifier, CultureInfo.InvariantCulture, out var flags)
                || length < Widest6 || (flags & Rejects) != 0)
                continue;
            var address = new byte[16];
            BinaryPrimitives.WriteUInt128BigEndian(address, bits);
            if (IPNetwork.TryParse($"{new IPAddress(address)}/{length}", out var route))
                yield return route;
        }
    }
}
