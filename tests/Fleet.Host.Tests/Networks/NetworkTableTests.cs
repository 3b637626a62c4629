using System.Net;
using Fleet.Host.Networks;
using Fleet.Host.State;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Networks;

public class NetworkTableTests
{
    private static readonly NetworkOptions Options = new() { Pool6 = IPNetwork.Parse("fd00:1:2::/48") };
    private readonly NetworkTable _table = new(Options.Pool, Options.Pool6!.Value);

    private static VmSpec Spec(string tenant, string name = "one", params uint[] ports) => new()
    {
        Tenant = tenant,
        Name = name,
        Network = "tenant",
        Ports = { ports.Select(port => new PublishedPort { Host = port, Guest = 80, Protocol = "tcp" }) },
    };

    [Fact]
    public void Should_give_each_tenant_a_network_of_its_own_and_each_microVM_one_address_of_both_kinds()
    {
        var first = _table.Assign("a", Spec("acme"));
        var second = _table.Assign("b", Spec("acme", "two"));
        var other = _table.Assign("c", Spec("umbrella"));

        Assert.Equal(("10.144.0.2", "fd00:1:2::2", "10.144.0.1", "fd00:1:2::1"), (first.Address4.ToString(), first.Address6.ToString(), first.Gateway4.ToString(), first.Gateway6.ToString()));
        Assert.Equal(("10.144.0.3", "fd00:1:2::3"), (second.Address4.ToString(), second.Address6.ToString()));
        Assert.Equal(("10.144.4.2", "fd00:1:2:1::2"), (other.Address4.ToString(), other.Address6.ToString()));
        Assert.Equal(("02:f1:0a:90:00:03", "fe80::f1:aff:fe90:3"), (second.Mac, second.LinkLocal.ToString()));
        Assert.Same(first, _table.Assign("a", Spec("acme")));
    }

    [Fact]
    public void Should_give_again_what_was_given_back()
    {
        _table.Assign("a", Spec("acme"));
        var kept = _table.Assign("b", Spec("acme"));
        Assert.True(_table.Remove("a"));
        Assert.False(_table.Remove("a"));

        Assert.Equal("10.144.0.2", _table.Assign("c", Spec("acme")).Address4.ToString());
        Assert.Same(kept, _table.Find("b"));
        _table.Remove("b");
        _table.Remove("c");
        Assert.Equal("10.144.0.2", _table.Assign("d", Spec("umbrella")).Address4.ToString());
    }

    [Fact]
    public void Should_refuse_the_microVM_that_finds_no_address_and_the_tenant_that_finds_no_network()
    {
        var small = new NetworkTable(IPNetwork.Parse("10.9.0.0/22"), Options.Pool6!.Value);
        for (var i = 0; i < 1021; i++)
            small.Assign($"vm{i}", Spec("acme"));

        Assert.Equal("10.9.3.254", small.Find("vm1020")!.Address4.ToString());
        Assert.Equal("addresses_exhausted", Assert.Throws<NetworkRefusedException>(() => small.Assign("more", Spec("acme"))).Code);
        Assert.Equal("addresses_exhausted", Assert.Throws<NetworkRefusedException>(() => small.Assign("more", Spec("umbrella"))).Code);
        small.Remove("vm7");
        Assert.Equal("10.9.0.9", small.Assign("more", Spec("acme")).Address4.ToString());
    }

    [Fact]
    public void Should_lay_no_network_over_one_of_the_hosts_own()
    {
        IPNetwork[] taken = [IPNetwork.Parse("10.144.0.0/16"), IPNetwork.Parse("10.145.1.7/32"), IPNetwork.Parse("fd00:1:2:41::/64"), IPNetwork.Parse("192.0.2.0/24")];
        var first = _table.Assign("a", Spec("acme"), taken);
        Assert.Equal(("10.145.8.0/22", "fd00:1:2:42::/64"), (first.Subnet4.ToString(), first.Subnet6.ToString()));

        // One that is there stays, whatever route comes later.
        Assert.Equal(first.Subnet4, _table.Assign("b", Spec("acme"), [IPNetwork.Parse("10.0.0.0/8")]).Subnet4);
        var refused = Assert.Throws<NetworkRefusedException>(() => _table.Assign("c", Spec("umbrella"), [IPNetwork.Parse("10.0.0.0/8")]));
        Assert.Equal("addresses_exhausted", refused.Code);
        Assert.Contains("(10.0.0.0/8)", refused.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_read_the_hosts_routes_and_addresses_but_Fleets_own()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-routes-");
        try
        {
            Directory.CreateDirectory(Path.Combine(folder.FullName, "net"));
            File.WriteAllText(Path.Combine(folder.FullName, "net/fib_trie"), """
                Main:
                  +-- 0.0.0.0/0 3 0 5
                     |-- 0.0.0.0
                        /0 universe UNICAST
                     +-- 10.144.0.0/14 2 0 2
                        |-- 10.144.0.0
                           /16 link UNICAST
                           /22 link UNICAST
                        |-- 10.144.0.1
                           /32 host LOCAL
                        |-- 10.146.0.0
                           /16 universe BLACKHOLE
                        |-- 10.147.0.9
                           /32 host LOCAL
                """);
            File.WriteAllText(Path.Combine(folder.FullName, "net/ipv6_route"), """
                00000000000000000000000000000000 00 00000000000000000000000000000000 00 fd000000000000000000000000000001 00000400 00000002 00000000 00000003     eth0
                fd000001000200410000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
                fd000001000200420000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001 fl0123b0a900001
                fd000001000200430000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00200200       lo
                """);
            Assert.Equal("10.144.0.0/16 10.147.0.9/32 fd00:1:2:41::/64", string.Join(' ', HostRoutes.Read(folder.FullName, ["eth0", "fl0123b0a900001", "fl0123t0a900002"])));
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    [Fact]
    public void Should_refuse_a_port_that_leads_elsewhere_until_it_is_given_back()
    {
        _table.Assign("a", Spec("acme", "web", 8080));

        var refused = Assert.Throws<NetworkRefusedException>(() => _table.Assign("b", Spec("umbrella", "two", 8081, 8080)));
        Assert.Equal("port_taken", refused.Code);
        Assert.Null(_table.Find("b"));
        var udp = Spec("umbrella", "three", 8080);
        udp.Ports[0].Protocol = "udp";
        _table.Assign("c", udp);
        _table.Remove("a");
        _table.Assign("b", Spec("umbrella", "two", 8081, 8080));
    }

    [Fact]
    public void Should_know_again_what_a_launch_record_says()
    {
        var given = _table.Assign("vm-01jd8mbr4v3s6q8k2n0x5t7w9z", Spec("acme", "web", 8080));
        var record = new LaunchRecord { Launch = new LaunchVm { VmId = given.VmId, Spec = Spec("acme", "web", 8080) }, Network = given.ToPlace() };
        var read = Attachment.Of(LaunchRecord.Parser.ParseFrom(Google.Protobuf.MessageExtensions.ToByteArray(record)))!;

        Assert.Equal((given.Address4, given.Address6, given.Mac), (read.Address4, read.Address6, read.Mac));
        var anew = new NetworkTable(IPNetwork.Parse("10.200.0.0/16"), Options.Pool6!.Value);
        Assert.True(anew.TryPut(read));
        // The prefix was changed meanwhile: a network that is in use stays where it is, and no other is laid over it.
        Assert.Equal("10.144.0.3", anew.Assign("b", Spec("acme")).Address4.ToString());
        var other = anew.Assign("c", Spec("umbrella"));
        Assert.Equal(("10.200.4.2", "fd00:1:2:1::2"), (other.Address4.ToString(), other.Address6.ToString()));
    }

    [Theory]
    [InlineData("10.144.0.0/24", "fd00::/64", 2)]
    [InlineData("10.144.0.0/22", "fd00::/48", 2)]
    [InlineData("10.144.0.0/22", "fd00::/64", 1)]
    [InlineData("10.144.0.0/22", "fd00::/64", 1023)]
    [InlineData("x; flush ruleset", "fd00::/64", 2)]
    public void Should_not_take_a_place_that_is_none(string four, string six, uint number) => Assert.Null(Attachment.Of(new LaunchRecord
    {
        Launch = new LaunchVm { VmId = "vm", Spec = Spec("acme") },
        Network = new NetworkPlace { Subnet4 = four, Subnet6 = six, Number = number },
    }));

    [Fact]
    public void Should_not_put_two_in_one_place()
    {
        var one = _table.Assign("a", Spec("acme"));
        Assert.False(_table.TryPut(one with { VmId = "b" }));
        Assert.False(_table.TryPut(one with { VmId = "b", Number = 9, Tenant = "umbrella" }));
        Assert.True(_table.TryPut(one with { VmId = "b", Number = 9 }));
    }

    [Theory]
    [InlineData("10.144.0.0/23")]
    [InlineData("10.0.0.0/7")]
    [InlineData("fd00::/12")]
    public void Should_refuse_a_pool_that_is_none(string pool) => Assert.NotNull(new NetworkOptions { Pool = IPNetwork.Parse(pool) }.FirstProblem());

    [Fact]
    public void Should_have_an_IPv6_prefix_of_the_hosts_own()
    {
        Assert.Null(Options.FirstProblem());
        var (one, other) = (new NetworkOptions().SiteOf("rack1"), new NetworkOptions().SiteOf("rack2"));
        Assert.NotEqual(one, other);
        Assert.Equal(one, new NetworkOptions().SiteOf("rack1"));
        Assert.True(IPNetwork.Parse("fd00::/8").Contains(one.BaseAddress));
        Assert.NotNull(new NetworkOptions { Pool6 = IPNetwork.Parse("fd00::/64") }.FirstProblem());
    }
}
