using System.Globalization;
using System.Net;
using System.Numerics;
using System.Text;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Host.Networks;

/// <summary>
/// Fleet's nftables rules: one table <c>fleet</c> in each of the families <c>bridge</c> (who a guest may say it is) and <c>inet</c>
/// (whom it reaches, and who reaches it), as a pure function of who is there. Always written whole, in one transaction: to put it
/// right is to write it again. Only the table <c>fleet_open</c> is kept over that, since what it has counted goes with it: how many connections
/// each guest's address has open.
/// </summary>
internal static class Ruleset
{
    /// <summary>Of both families.</summary>
    public const string Table = "fleet";

    /// <summary>Counts the connections that guests begin.</summary>
    private const string Counting = "fleet_open";

    private const string NoGuards = $"table inet {Table}\ndelete table inet {Table}\ntable bridge {Table}\ndelete table bridge {Table}\n";

    private const string NoCounts = $"table inet {Counting}\ndelete table inet {Counting}\n";

    /// <summary>Takes all tables away; nothing when there are none.</summary>
    public const string Nothing = NoGuards + NoCounts;

    /// <summary>
    /// Connections that one guest's address may begin and have open at once, whoever they go to, where <see cref="ConnectionsOf"/> does not say fewer.
    /// </summary>
    public const int MostConnections = 8192;

    /// <summary>So that a guest on a crowded host can still look up names; beyond it the host needs a larger table.</summary>
    public const int FewestConnections = 64;

    /// <summary>What Linux begins with on a machine that is not small, before it tells.</summary>
    private const int UsualTable = 65536;

    /// <summary>
    /// What one address may have so that all guests, by both of their addresses, fill no more than half of the kernel's table of connections:
    /// it is one for the whole machine, and whoever fills it cuts off everybody.
    /// </summary>
    /// <param name="table">How many it holds (<c>nf_conntrack_max</c>); null: the kernel does not tell yet.</param>
    /// <param name="guests">How many there are. Counted up to a power of two, so that few changes change it.</param>
    /// <param name="before">What one address may have now; null: nothing is counted yet. With another number counting begins anew, so that it becomes more only where
    /// it can be four times as many: who comes and goes must not bring that about.</param>
    public static int ConnectionsOf(int? table, int guests, int? before)
    {
        var most = (int)Math.Clamp((table ?? UsualTable) / 4 / (long)BitOperations.RoundUpToPowerOf2((uint)Math.Max(guests, 1)), FewestConnections, MostConnections);
        return before <= most && most / 4 < before ? before.Value : most;
    }

    /// <summary>Input for <c>nft -f</c>.</summary>
    /// <param name="all">Who is there.</param>
    /// <param name="links">What their interfaces are called.</param>
    /// <param name="closed">What of the host's own traffic is not to pass through it.</param>
    /// <param name="counted">Whose connections are to be counted.</param>
    /// <param name="before">Whose are counted, by what was written last; null: that is not known, and counting begins anew.</param>
    public static string Write(IReadOnlyCollection<Attachment> all, LinkPlan links, IReadOnlyList<ClosedTransit> closed, CountedConnections counted, CountedConnections? before)
    {
        if (all.Count == 0)
            return Nothing;
        var ordered = all.OrderBy(links.TapOf, StringComparer.Ordinal).ToList();
        var networks = ordered.DistinctBy(links.BridgeOf).ToList();
        var text = new StringBuilder(NoGuards);
        WriteCounts(text, counted, before, links);
        WriteGuard(text, ordered, links);
        text.Append(CultureInfo.InvariantCulture, $"table inet {Table} {{\n");
        Set(text, "bridges", "ifname", networks.Select(one => Quote(links.BridgeOf(one))));
        Set(text, "within", "ifname . ifname", networks.Select(one => $"{Quote(links.BridgeOf(one))} . {Quote(links.BridgeOf(one))}"));
        Set(text, "gateways4", "ifname . ipv4_addr", networks.Select(one => $"{Quote(links.BridgeOf(one))} . {one.Gateway4}"));
        Set(text, "gateways6", "ifname . ipv6_addr", networks.Select(one => $"{Quote(links.BridgeOf(one))} . {one.Gateway6}"));
        Set(text, "networks4", "ipv4_addr; flags interval", networks.Select(one => one.Subnet4.ToString()));
        Set(text, "networks6", "ipv6_addr; flags interval", networks.Select(one => one.Subnet6.ToString()));
        foreach (var protocol in NetworkRules.Protocols)
        {
            Map(text, protocol + "4", "ipv4_addr", ordered, protocol, static one => one.Address4);
            Map(text, protocol + "6", "ipv6_addr", ordered, protocol, static one => one.Address6);
        }

        WriteTransit(text, closed);
        text.Append(Chains).Append("}\n");
        return text.ToString();
    }

    // An element has its count, and loses it only with itself: there is one from when a guest comes until it goes, so that the next of that address begins at none.
    private static void WriteCounts(StringBuilder text, CountedConnections counted, CountedConnections? before, LinkPlan links)
    {
        if (before?.Most != counted.Most)
        {
            text.Append(NoCounts);
            before = null;
        }

        var gone = before?.Of.Except(counted.Of).ToList() ?? [];
        if (gone.Count > 0)
        {
            // Of those that somebody else has removed there may be none to delete.
            text.Append(CultureInfo.InvariantCulture, $"table inet {Counting} {{\n");
            WriteOpen(text, gone, counted.Most);
            text.Append("}\n");
            text.Append(CultureInfo.InvariantCulture, $"delete element inet {Counting} open4 {{ {string.Join(", ", gone.Select(one => one.Address4))} }}\n");
            text.Append(CultureInfo.InvariantCulture, $"delete element inet {Counting} open6 {{ {string.Join(", ", gone.Select(one => one.Address6))} }}\n");
        }

        // The rules go, the sets stay.
        text.Append(CultureInfo.InvariantCulture, $"table inet {Counting}\nflush table inet {Counting}\ntable inet {Counting} {{\n");
        WriteOpen(text, counted.Of, counted.Most);
        text.Append(CultureInfo.InvariantCulture, $$"""
              chain begun {
                add @open4 { ip saddr ct count over {{counted.Most}} } drop
                add @open6 { ip6 saddr ct count over {{counted.Most}} } drop
              }
              chain through {
                type filter hook forward priority filter - 1; policy accept;
                iifname "{{links.Bridges}}" ct state new jump begun
              }
              chain to_host {
                type filter hook input priority filter - 1; policy accept;
                iifname "{{links.Bridges}}" ct state new jump begun
              }
            }

            """);
    }

    private static void WriteOpen(StringBuilder text, IEnumerable<CountedAddresses> of, int most)
    {
        Set(text, "open4", "ipv4_addr; size 65535; flags dynamic", of.Select(one => $"{one.Address4} ct count over {most}"));
        Set(text, "open6", "ipv6_addr; size 65535; flags dynamic", of.Select(one => $"{one.Address6} ct count over {most}"));
    }

    // What the host does not forward by itself, established or not. A frame that passes through one of its bridges comes and goes by the bridge.
    private static void WriteTransit(StringBuilder text, IReadOnlyList<ClosedTransit> closed)
    {
        text.Append("  chain transit {\n");
        foreach (var one in closed)
        {
            if (one.Frames)
                text.Append(CultureInfo.InvariantCulture, $"    meta nfproto {one.Protocol} meta iifkind \"bridge\" meta oifkind \"bridge\" accept\n");
            var but = one.Open.Count == 0 ? "" : $"iifname != {{ {string.Join(", ", one.Open.Select(Quote))} }} ";
            text.Append(CultureInfo.InvariantCulture, $"    meta nfproto {one.Protocol} {but}drop\n");
        }

        text.Append("    accept\n  }\n");
    }

    // Where clouds tell a machine its secrets, beside 169.254.0.0/16: Alibaba, Azure, Oracle; then AWS (two), Google, Oracle, Scaleway, Akamai, Alibaba.
    private const string Metadata4 = "100.100.100.200, 168.63.129.16, 192.0.0.192";
    private const string Metadata6 = "fd00:ec2::23, fd00:ec2::254, fd20:ce::254, fd00:c1::a9fe:a9fe, fd00:42::42, fd00:a9fe:a9fe::1, fd00:100::100:200";

    // What comes from a tap is of its guest's hardware and IP addresses, or it is dropped before the bridge learns from it.
    private static void WriteGuard(StringBuilder text, List<Attachment> ordered, LinkPlan links)
    {
        text.Append(CultureInfo.InvariantCulture, $"table bridge {Table} {{\n");
        Set(text, "taps", "ifname", ordered.Select(one => Quote(links.TapOf(one))));
        Set(text, "hardware", "ifname . ether_addr", ordered.Select(one => $"{Quote(links.TapOf(one))} . {one.Mac}"));
        Set(text, "addresses4", "ifname . ipv4_addr", ordered.Select(one => $"{Quote(links.TapOf(one))} . {one.Address4}"));
        Set(text, "addresses6", "ifname . ipv6_addr", ordered.SelectMany(one => (IPAddress[])[one.Address6, one.LinkLocal], (one, address) => $"{Quote(links.TapOf(one))} . {address}"));
        text.Append(CultureInfo.InvariantCulture, $$"""
              chain from_guests {
                type filter hook prerouting priority -300; policy accept;
                iifname != @taps accept
                iifname . ether saddr != @hardware drop
                iifname . arp saddr ether != @hardware drop
                iifname . arp saddr ip @addresses4 accept
                ip daddr { 127.0.0.0/8, 169.254.0.0/16, {{Metadata4}} } drop
                ip6 daddr { {{Metadata6}} } drop
                iifname . ip saddr @addresses4 accept
                icmpv6 type { nd-router-advert, nd-redirect } drop
                iifname . ip6 saddr @addresses6 accept
                drop
              }
            }

            """);
    }

    // Other traffic of the host is left untouched: every chain leaves what is not of our bridges at once, but for what the host forwards only for us.
    private static readonly string Chains = string.Create(CultureInfo.InvariantCulture, $$"""
          chain published {
            meta nfproto ipv4 dnat ip to tcp dport map @tcp4
            meta nfproto ipv4 dnat ip to udp dport map @udp4
            meta nfproto ipv6 dnat ip6 to tcp dport map @tcp6
            meta nfproto ipv6 dnat ip6 to udp dport map @udp6
          }
          chain arriving {
            type nat hook prerouting priority dstnat; policy accept;
            iifname . ip daddr @gateways4 meta l4proto { tcp, udp } th dport {{DnsMessage.Port}} accept
            iifname . ip6 daddr @gateways6 meta l4proto { tcp, udp } th dport {{DnsMessage.Port}} accept
            fib daddr type local jump published
          }
          chain from_host {
            type nat hook output priority -100; policy accept;
            ip6 daddr ::1 accept
            fib daddr type local jump published
          }
          chain leaving {
            type nat hook postrouting priority srcnat; policy accept;
            iifname . oifname @within ct status dnat masquerade
            oifname @bridges ip saddr 127.0.0.0/8 masquerade
            oifname @bridges accept
            ip saddr @networks4 masquerade
            ip6 saddr @networks6 masquerade
          }
          chain through {
            type filter hook forward priority filter; policy accept;
            iifname != @bridges oifname != @bridges goto transit
            ct state established,related accept
            ct state invalid drop
            iifname . oifname @within accept
            ct status dnat accept
            oifname @bridges drop
            accept
          }
          chain to_host {
            type filter hook input priority filter; policy accept;
            iifname != @bridges accept
            ct state established,related accept
            iifname . ip daddr @gateways4 meta l4proto { tcp, udp } th dport {{DnsMessage.Port}} accept
            iifname . ip6 daddr @gateways6 meta l4proto { tcp, udp } th dport {{DnsMessage.Port}} accept
            icmp type echo-request limit rate 100/second accept
            icmpv6 type echo-request limit rate 100/second accept
            icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } limit rate 1000/second accept
            drop
          }

        """);

    private static void Set(StringBuilder text, string name, string type, IEnumerable<string> elements) =>
        text.Append(CultureInfo.InvariantCulture, $"  set {name} {{ type {type}; elements = {{ {string.Join(", ", elements)} }} }}\n");

    private static void Map(StringBuilder text, string name, string type, List<Attachment> all, string protocol, Func<Attachment, IPAddress> address)
    {
        var elements = all.SelectMany(one => one.Ports.Where(port => port.Protocol == protocol), (one, port) => Element(port, address(one))).ToList();
        text.Append(CultureInfo.InvariantCulture, $"  map {name} {{ type inet_service : {type} . inet_service; ");
        if (elements.Count > 0)
            text.Append(CultureInfo.InvariantCulture, $"elements = {{ {string.Join(", ", elements)} }} ");
        text.Append("}\n");
    }

    private static string Element(PublishedPort port, IPAddress address) => string.Create(CultureInfo.InvariantCulture, $"{port.Host} : {address} . {port.Guest}");

    private static string Quote(string name) => $"\"{name}\"";
}
