using System.Globalization;
using System.Net;
using System.Text.RegularExpressions;
using Fleet.Host.Networks;
using Fleet.Shared.Contracts;
using Fleet.Tests;

namespace Fleet.Host.Tests.Networks;

/// <summary>Links and rules as the agent writes them, in a namespace of the test, with other namespaces as guests: what passes and what does not.</summary>
public sealed class RulesetTests : IDisposable
{
    private static readonly IPNetwork Site = IPNetwork.Parse("fd00:1:2::/48");

    private readonly NetworkLab _lab = new();
    private readonly NetworkTable _table = new(new NetworkOptions().Pool, Site);
    private readonly LinkPlan _links = new("/var/lib/fleet-test");
    private string _host = "";
    private int _mostConnections = Ruleset.MostConnections;
    private CountedConnections? _counted;
    private IReadOnlyList<ClosedTransit> _closed = [];

    public void Dispose() => _lab.Dispose();

    [SkippableFact]
    public void Should_let_pass_what_it_is_to_let_pass_and_nothing_else()
    {
        Skip.IfNot(NetworkLab.IsPossible, "needs root, /dev/net/tun and nft");
        _host = _lab.Add("host");
        var outside = _lab.Add("outside");
        NetworkLab.Run("ip", "-n", _host, "link", "add", "up0", "type", "veth", "peer", "name", "up0", "netns", outside);
        foreach (var (space, address) in new[] { (_host, "192.0.2.1"), (outside, "192.0.2.2") })
        {
            NetworkLab.Run("ip", "-n", space, "addr", "add", address + "/24", "dev", "up0");
            NetworkLab.Run("ip", "-n", space, "addr", "add", address.Replace("192.0.2.", "2001:db8::", StringComparison.Ordinal) + "/64", "dev", "up0", "nodad");
            NetworkLab.Run("ip", "-n", space, "link", "set", "up0", "up");
        }

        var web = Join("web", "acme", new PublishedPort { Host = 8080, Guest = 80, Protocol = "tcp" });
        var friend = Join("friend", "acme");
        var stranger = Join("stranger", "umbrella");
        _lab.In(_host, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding; for b in /proc/sys/net/ipv4/conf/fl*b*/route_localnet; do echo 1 > $b; done");
        Listen(web.Space, 80, "web");
        Listen(outside, 90, "world");
        Listen(_host, 22, "secret");
        Wait(() => Says("web", web.Space, "127.0.0.1", 80) && Says("world", outside, "127.0.0.1", 90) && Says("secret", _host, "127.0.0.1", 22));

        // Within the tenant, both ways of addressing.
        Assert.True(Pings(friend.Space, web.Place.Address4));
        Assert.True(Pings(friend.Space, web.Place.Address6));
        Assert.True(Says("web", friend.Space, web.Place.Address4, 80));

        // Not from another's.
        Assert.False(Pings(stranger.Space, web.Place.Address4));
        Assert.False(Pings(stranger.Space, web.Place.Address6));
        Assert.False(Says("web", stranger.Space, web.Place.Address4, 80));
        Assert.False(Says("web", stranger.Space, web.Place.Address6, 80));

        // Out, behind the host's address; nobody outside knows a way to a guest's own.
        Assert.True(Says("world", friend.Space, "192.0.2.2", 90));
        Assert.True(Says("world", friend.Space, "2001:db8::2", 90));

        // But not to what the host's cloud tells it there.
        foreach (var service in new[] { "169.254.169.254", "fd00:ec2::254", "fd20:ce::254" })
        {
            NetworkLab.Run("ip", "-n", outside, "addr", "add", service + (service.Contains(':', StringComparison.Ordinal) ? "/128" : "/32"), "dev", "lo");
            NetworkLab.Run("ip", "-n", _host, "route", "add", service, "via", service.Contains(':', StringComparison.Ordinal) ? "2001:db8::2" : "192.0.2.2");
            Assert.True(Says("world", _host, service, 90));
            Assert.False(Says("world", friend.Space, service, 90));
        }

        // In, by the published port only: from outside, from the host itself, from others' guests, from its own neighbours.
        Assert.True(Says("web", outside, "192.0.2.1", 8080));
        Assert.True(Says("web", outside, "2001:db8::1", 8080));
        Assert.True(Says("web", _host, "127.0.0.1", 8080));
        Assert.True(Says("web", _host, "192.0.2.1", 8080));
        Assert.True(Says("web", stranger.Space, "192.0.2.1", 8080));
        Assert.True(Says("web", friend.Space, "192.0.2.1", 8080));
        Assert.False(Says("web", outside, "192.0.2.1", 80));
        NetworkLab.Run("ip", "-n", outside, "route", "add", "10.144.0.0/12", "via", "192.0.2.1");
        Assert.False(Says("web", outside, web.Place.Address4, 80));

        // The host's own services are nobody's, at any of its addresses.
        Assert.True(Says("secret", outside, "192.0.2.1", 22));
        Assert.True(Pings(friend.Space, friend.Place.Gateway4));
        Assert.False(Says("secret", friend.Space, friend.Place.Gateway4, 22));
        Assert.False(Says("secret", friend.Space, friend.Place.Gateway6, 22));
        Assert.False(Says("secret", friend.Space, "192.0.2.1", 22));
        Assert.False(Says("secret", friend.Space, "2001:db8::1", 22));
        NetworkLab.Run("ip", "-n", friend.Space, "route", "del", "local", "127.0.0.0/8", "dev", "lo", "table", "local");
        NetworkLab.Run("ip", "-n", friend.Space, "route", "add", "127.0.0.2", "via", friend.Place.Gateway4.ToString());
        Assert.False(Says("secret", friend.Space, "127.0.0.2", 22));

        // Written again, nothing changes; a connection that is open stays so.
        var before = Listing();
        Apply();
        Assert.Equal(before, Listing());
        Assert.True(Pings(friend.Space, web.Place.Address4));

        // Nobody left: no table, no interface of ours.
        foreach (var one in _table.All.ToList())
            _table.Remove(one.VmId);
        Apply();
        Assert.Equal("", Listing().Trim());
        Assert.DoesNotContain(Present(), _links.IsOurs);
    }

    [SkippableFact]
    public void Should_make_no_router_of_a_host_that_was_none()
    {
        Skip.IfNot(NetworkLab.IsPossible, "needs root, /dev/net/tun and nft");
        _host = _lab.Add("host");
        var (left, right) = (_lab.Add("left"), _lab.Add("right"));
        foreach (var (space, link, network) in new[] { (left, "up0", "192.0.2."), (right, "up1", "198.51.100.") })
        {
            NetworkLab.Run("ip", "-n", _host, "link", "add", link, "type", "veth", "peer", "name", link, "netns", space);
            NetworkLab.Run("ip", "-n", _host, "addr", "add", network + "1/24", "dev", link);
            NetworkLab.Run("ip", "-n", _host, "link", "set", link, "up");
            NetworkLab.Run("ip", "-n", space, "addr", "add", network + "2/24", "dev", link);
            NetworkLab.Run("ip", "-n", space, "link", "set", link, "up");
            NetworkLab.Run("ip", "-n", space, "route", "add", "default", "via", network + "1");
        }

        var web = Join("web", "acme", new PublishedPort { Host = 8080, Guest = 80, Protocol = "tcp" });
        _lab.In(_host, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward");
        Listen(web.Space, 80, "web");
        Wait(() => Says("web", web.Space, "127.0.0.1", 80));
        Assert.True(Pings(left, IPAddress.Parse("198.51.100.2")));

        // Both ways, or the answers of one.
        foreach (var open in (string[][])[[], ["up0"], ["up0", "up1"]])
        {
            _closed = [new ClosedTransit("ipv4", open, Frames: true)];
            Apply();
            Assert.Equal(open.Length == 2, Pings(left, IPAddress.Parse("198.51.100.2")));
            Assert.True(Says("web", left, "192.0.2.1", 8080));
            Assert.True(Pings(web.Space, IPAddress.Parse("198.51.100.2")));
        }

        // The other version is another matter.
        _closed = [new ClosedTransit("ipv6", [], Frames: false)];
        Apply();
        Assert.True(Pings(left, IPAddress.Parse("198.51.100.2")));
    }

    [SkippableFact]
    public void Should_believe_no_guest_that_says_it_is_another()
    {
        Skip.IfNot(NetworkLab.IsPossible, "needs root, /dev/net/tun and nft");
        _host = _lab.Add("host");
        var honest = Join("honest", "acme");
        var liar = Join("liar", "acme");
        Assert.True(Pings(liar.Space, honest.Place.Address4));

        // Another's IP address, by hand and by ARP; a free one; another's hardware address.
        NetworkLab.Run("ip", "-n", liar.Space, "addr", "add", "10.144.0.99/22", "dev", "eth0");
        Assert.False(NetworkLab.Works(liar.Space, "busybox", "ping", "-c", "1", "-W", "1", "-I", "10.144.0.99", honest.Place.Address4.ToString()));
        Assert.False(NetworkLab.Works(honest.Space, "busybox", "arping", "-c", "1", "-w", "1", "-I", "eth0", "10.144.0.99"));
        Assert.True(NetworkLab.Works(honest.Space, "busybox", "arping", "-c", "1", "-w", "1", "-I", "eth0", liar.Place.Address4.ToString()));
        NetworkLab.Run("ip", "-n", liar.Space, "addr", "add", "fd00:1:2::99/64", "dev", "eth0", "nodad");
        Assert.False(NetworkLab.Works(liar.Space, "busybox", "ping", "-c", "1", "-W", "1", "-I", "fd00:1:2::99", honest.Place.Address6.ToString()));
        NetworkLab.Run("ip", "-n", liar.Space, "addr", "del", "fd00:1:2::99/64", "dev", "eth0");
        // The kernel still asks where that is for the ping before, which went by an address that it has no more.
        Wait(() => Pings(liar.Space, honest.Place.Address6));
        NetworkLab.Run("ip", "-n", liar.Space, "link", "set", "eth0", "address", "02:f1:0a:90:00:77");
        Assert.False(Pings(liar.Space, honest.Place.Address4));
    }

    [SkippableFact]
    public void Should_let_no_guest_fill_the_table_of_connections()
    {
        Skip.IfNot(NetworkLab.IsPossible, "needs root, /dev/net/tun and nft");
        _host = _lab.Add("host");
        _mostConnections = 20;
        var flood = Join("flood", "acme");
        var friend = Join("friend", "acme");
        var outside = Join("outside", "umbrella", new PublishedPort { Host = 8080, Guest = 80, Protocol = "tcp" });
        _lab.In(_host, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward");
        NetworkLab.Run("ip", "-n", _host, "addr", "add", "192.0.2.1/32", "dev", "lo");
        NetworkLab.Run("ip", "-n", _host, "link", "set", "lo", "up");
        Listen(outside.Space, 80, "world");
        Wait(() => Says("world", outside.Space, "127.0.0.1", 80));
        Assert.True(Says("world", flood.Space, "192.0.2.1", 8080));
        Assert.True(Pings(flood.Space, flood.Place.Gateway4));

        // Through the host and to the host itself, which answers none: each stays in the table for half a minute.
        foreach (var to in new[] { "10.144.200.", flood.Place.Gateway4 + " " })
            _lab.In(flood.Space, "bash", "-c", $"for i in $(seq 200); do to={to}; [ \"$to\" = 10.144.200. ] && to=$to$i; echo > /dev/udp/$to/53; done");
        Assert.False(Says("world", flood.Space, "192.0.2.1", 8080));
        Assert.InRange(int.Parse(_lab.In(_host, "cat", "/proc/sys/net/netfilter/nf_conntrack_count"), CultureInfo.InvariantCulture), 20, 60);

        // Of nobody else anything is taken.
        Assert.True(Says("world", friend.Space, "192.0.2.1", 8080));
        Assert.True(Pings(friend.Space, friend.Place.Gateway4));

        // Who comes or goes beside it gives it no more.
        var late = Join("late", "acme");
        Assert.True(Says("world", late.Space, "192.0.2.1", 8080));
        Assert.False(Says("world", flood.Space, "192.0.2.1", 8080));
        _table.Remove("vm-late");
        Apply();
        Assert.False(Says("world", flood.Space, "192.0.2.1", 8080));

        // Who has its address after it begins at none, also where somebody removed what was counted.
        _table.Remove("vm-flood");
        Apply();
        Assert.DoesNotContain(flood.Place.Address4 + " ", _lab.In(_host, "nft", "list", "set", "inet", "fleet_open", "open4"), StringComparison.Ordinal);
        _lab.In(_host, "nft", "flush", "ruleset");
        var next = Join("next", "acme");
        Assert.Equal(flood.Place.Address4, next.Place.Address4);
        Assert.True(Says("world", next.Space, "192.0.2.1", 8080));
        _table.Remove("vm-next");
        _lab.In(_host, "nft", "flush", "ruleset");
        Apply();
        Assert.True(Says("world", friend.Space, "192.0.2.1", 8080));
    }

    [SkippableFact]
    public void Should_make_whole_what_was_cut_off_anywhere()
    {
        Skip.IfNot(NetworkLab.IsPossible, "needs root, /dev/net/tun and nft");
        _host = _lab.Add("host");
        var one = _table.Assign("a", new VmSpec { Tenant = "acme", Name = "web", Network = "tenant" });
        var lines = _links.Make([one], Present(), ipv6: true, whole: false);
        string? good = null;
        for (var done = lines.Count; done >= 0; done--)
        {
            NetworkLab.Feed(_host, string.Join('\n', lines.Take(done)), "ip", "-batch", "-");
            NetworkLab.Feed(_host, string.Join('\n', _links.Make([one], Present(), ipv6: true, whole: true)), "ip", "-batch", "-");
            // Without numbers that count up, and a tap's own hardware address, which is any.
            var now = Regex.Replace(_lab.In(_host, "sh", "-c", "ip -o link; ip -o addr"), "(?m)^[0-9]+: |NO-CARRIER,|qlen.*$|valid_lft.*$", "");
            Assert.Equal(good ??= now, now);
            NetworkLab.Feed(_host, string.Join('\n', _links.Unmake([], Present())), "ip", "-batch", "-");
            Assert.DoesNotContain(Present(), _links.IsOurs);
        }

        Assert.Contains($"master {_links.BridgeOf(one)}", good, StringComparison.Ordinal);
        Assert.Contains("10.144.0.1/22", good, StringComparison.Ordinal);
        Assert.Contains("fd00:1:2::1/64", good, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(262144, 1, 8192)]
    [InlineData(262144, 8, 8192)]
    [InlineData(262144, 9, 4096)]
    [InlineData(65536, 8, 2048)]
    [InlineData(null, 8, 2048)]
    [InlineData(65536, 5000, 64)]
    public void Should_leave_half_of_the_table_of_connections_to_the_host(int? table, int guests, int each)
    {
        Assert.Equal(each, Ruleset.ConnectionsOf(table, guests, null));
        _table.Assign("a", new VmSpec { Tenant = "acme", Name = "web", Network = "tenant" });
        Assert.Contains($"ct count over {each} }} drop", Ruleset.Write([.. _table.All], _links, [], CountedConnections.Each(_table.All, each), null), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData(8192, 9, 4096)]
    [InlineData(4096, 8, 4096)]
    [InlineData(2048, 9, 2048)]
    [InlineData(1024, 9, 4096)]
    [InlineData(64, 5000, 64)]
    public void Should_count_anew_for_more_only_where_there_is_much_more(int before, int guests, int each) =>
        Assert.Equal(each, Ruleset.ConnectionsOf(262144, guests, before));

    [Fact]
    public void Should_forget_what_it_counted_only_of_who_is_gone_or_with_another_number()
    {
        var one = _table.Assign("a", new VmSpec { Tenant = "acme", Name = "web", Network = "tenant" });
        var counted = CountedConnections.Each([one], 100);
        string Written(CountedConnections? before) => Ruleset.Write([one], _links, [], counted, before);

        const string anew = "delete table inet fleet_open", element = "delete element";
        Assert.Contains(anew, Written(null), StringComparison.Ordinal);
        Assert.Contains(anew, Written(counted with { Most = 200 }), StringComparison.Ordinal);
        Assert.DoesNotContain(anew, Written(counted), StringComparison.Ordinal);
        Assert.DoesNotContain(element, Written(counted), StringComparison.Ordinal);

        // Another microVM at the same address.
        var another = Written(CountedConnections.Each([one with { VmId = "b" }], 100));
        Assert.DoesNotContain(anew, another, StringComparison.Ordinal);
        Assert.Contains($"{element} inet fleet_open open4 {{ {one.Address4} }}", another, StringComparison.Ordinal);
        Assert.Contains($"{element} inet fleet_open open6 {{ {one.Address6} }}", another, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_say_nothing_of_nobody_and_only_remove_what_is_its_own()
    {
        Assert.Equal(Ruleset.Nothing, Ruleset.Write([], _links, [], CountedConnections.Each([], 100), null));
        var one = _table.Assign("a", new VmSpec { Tenant = "acme", Name = "web", Network = "tenant" });
        var others = new LinkPlan("/var/lib/other");
        HashSet<string> present = ["eth0", "flannel.1", _links.TapOf(one), _links.BridgeOf(one), others.TapOf(one)];
        Assert.Empty(_links.Make([one], present, ipv6: true, whole: false));
        Assert.Empty(_links.Unmake([one], present));
        Assert.Equal($"link set dev {_links.TapOf(one)} master {_links.BridgeOf(one)} up", _links.Make([one], new HashSet<string> { _links.TapOf(one) }, ipv6: true, whole: false)[^1]);
        Assert.Equal([$"link delete dev {_links.TapOf(one)}", $"link delete dev {_links.BridgeOf(one)}"], _links.Unmake([], present));
        Assert.True(LinkPlan.IsFleets(others.TapOf(one)) && !_links.IsOurs(others.TapOf(one)) && !LinkPlan.IsFleets("flannel.1"));
        Assert.DoesNotContain(_links.Make([one], new HashSet<string>(), ipv6: false, whole: false), line => line.Contains("fd00", StringComparison.Ordinal));
    }

    /// <summary>Links as the agent makes them, but that the other end of a tap is a namespace instead of a VMM.</summary>
    private (Attachment Place, string Space) Join(string name, string tenant, params PublishedPort[] ports)
    {
        var place = _table.Assign("vm-" + name, new VmSpec { Tenant = tenant, Name = name, Network = "tenant", Ports = { ports } });
        var space = _lab.Add(name);
        Apply(space);
        NetworkLab.Run("ip", "-n", space, "link", "set", "eth0", "address", place.Mac);
        NetworkLab.Run("ip", "-n", space, "link", "set", "eth0", "up");
        NetworkLab.Run("ip", "-n", space, "addr", "add", $"{place.Address4}/22", "dev", "eth0");
        NetworkLab.Run("ip", "-n", space, "addr", "add", $"{place.Address6}/64", "dev", "eth0", "nodad");
        NetworkLab.Run("ip", "-n", space, "route", "add", "default", "via", place.Gateway4.ToString());
        NetworkLab.Run("ip", "-n", space, "route", "add", "default", "via", place.Gateway6.ToString());
        return (place, space);
    }

    private void Apply(string space = "")
    {
        var present = Present();
        var lines = _links.Make([.. _table.All], present, ipv6: true, whole: false)
            .Select(line => Regex.Replace(line, "^tuntap add dev (\\S+) .*$", $"link add $1 type veth peer name eth0 netns {space}"));
        NetworkLab.Feed(_host, string.Join('\n', lines), "ip", "-batch", "-");
        var counted = CountedConnections.Each(_table.All, _mostConnections);
        NetworkLab.Feed(_host, Ruleset.Write([.. _table.All], _links, _closed, counted, _counted), "nft", "-f", "-");
        _counted = counted;
        NetworkLab.Feed(_host, string.Join('\n', _links.Unmake([.. _table.All], present)), "ip", "-batch", "-");
    }

    private HashSet<string> Present() => [.. _lab.In(_host, "ip", "-o", "link").Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => line.Split(": ")[1].Split('@')[0])];

    // Without who has connections now.
    private string Listing() => Regex.Replace(_lab.In(_host, "nft", "list", "ruleset"), @"(set open[46] \{[^}]*?)\s*elements = \{[^}]*\}", "$1");

    private void Listen(string space, int port, string word) =>
        _lab.Start(space, "sh", "-c", $"while :; do echo {word} | busybox nc -l -p {port} >/dev/null 2>&1; done");

    private static bool Pings(string space, IPAddress address) => NetworkLab.Works(space, "busybox", "ping", "-c", "1", "-W", "1", address.ToString());

    private static bool Says(string word, string space, IPAddress address, int port) => Says(word, space, address.ToString(), port);

    private static bool Says(string word, string space, string address, int port) =>
        NetworkLab.Works(space, "sh", "-c", $"for i in 1 2 3; do busybox nc -w 1 {address} {port} </dev/null 2>/dev/null | grep -q {word} && exit 0; done; exit 1");

    private static void Wait(Func<bool> condition)
    {
        for (var tried = 0; !condition(); tried++)
            Assert.True(tried < 50, "the listeners do not come");
    }
}
