using Fleet.Host.Networks;

namespace Fleet.Host.Tests.Networks;

/// <summary>On files in the place of the kernel's settings; what a kernel changes along with them, the test does.</summary>
public sealed class ForwardingTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-forwarding-");
    private readonly Forwarding _forwarding;

    public ForwardingTests()
    {
        _forwarding = new Forwarding(Path.Combine(_folder.FullName, "settings"), Root);
        Put("ipv4/ip_forward", "0");
        Put("ipv4/conf/all/accept_redirects", "0");
        foreach (var (name, value) in new[] { ("all", "0"), ("default", "0"), ("eth0", "0"), ("eth1", "1") })
        {
            Put($"ipv4/conf/{name}/forwarding", value);
            Put($"ipv6/conf/{name}/forwarding", value);
            Put($"ipv6/conf/{name}/force_forwarding", value);
            Put($"ipv6/conf/{name}/accept_ra", name == "eth0" ? "1" : "0");
        }
    }

    private string Root => Path.Combine(_folder.FullName, "net");

    public void Dispose() => _folder.Delete(recursive: true);

    [Fact]
    public void Should_put_back_what_the_kernel_changes_along_with_its_switches()
    {
        var before = All();
        _forwarding.Note();
        Assert.Equal(before, All());
        _forwarding.Change();
        Assert.Equal(("1", "1", "2", "0"), (Get("ipv4/ip_forward"), Get("ipv6/conf/all/forwarding"), Get("ipv6/conf/eth0/accept_ra"), Get("ipv6/conf/eth1/accept_ra")));
        Switched("1", redirects: "0");

        // Another agent finds what the first wrote down, whatever it looks like by now.
        var next = new Forwarding(Path.Combine(_folder.FullName, "settings"), Root);
        Put("ipv4/ip_forward", "0");
        Switched("0", redirects: "1");
        next.Note();
        next.Change();
        Assert.Equal("1", Get("ipv4/ip_forward"));
        next.Restore();
        Assert.Equal(before, All());
    }

    [Fact]
    public void Should_tell_what_passes_only_because_of_it()
    {
        Assert.Empty(_forwarding.Closed());
        Put("bridge/bridge-nf-call-ip6tables", "1");
        _forwarding.Note();
        _forwarding.Change();
        Switched("1", redirects: "0");
        var closed = new Forwarding(Path.Combine(_folder.FullName, "settings"), Root).Closed();
        Assert.Equal("ipv4 eth1 False, ipv6 eth1 True", string.Join(", ", closed.Select(one => $"{one.Protocol} {string.Join(' ', one.Open)} {one.Frames}")));
    }

    [Fact]
    public void Should_leave_what_was_on_before()
    {
        Put("ipv4/ip_forward", "1");
        Put("ipv6/conf/all/forwarding", "1");
        Put("ipv6/conf/eth0/accept_ra", "2");
        _forwarding.Note();
        Assert.False(_forwarding.IsChanged);

        // One of the two only.
        Put("ipv6/conf/all/forwarding", "0");
        _forwarding.Note();
        _forwarding.Change();
        Assert.Equal("ipv6", Assert.Single(_forwarding.Closed()).Protocol);
        Put("ipv4/conf/eth0/forwarding", "1");
        _forwarding.Restore();
        Assert.Equal(("1", "0", "1"), (Get("ipv4/ip_forward"), Get("ipv6/conf/all/forwarding"), Get("ipv4/conf/eth0/forwarding")));
    }

    private void Switched(string value, string redirects)
    {
        Put("ipv4/conf/all/accept_redirects", redirects);
        foreach (var name in new[] { "default", "eth0", "eth1" })
        {
            Put($"ipv4/conf/{name}/forwarding", value);
            Put($"ipv6/conf/{name}/forwarding", value);
            Put($"ipv6/conf/{name}/force_forwarding", "0");
        }
    }

    private Dictionary<string, string> All() =>
        Directory.GetFiles(Root, "*", SearchOption.AllDirectories).ToDictionary(path => path, path => File.ReadAllText(path).Trim());

    private string Get(string setting) => File.ReadAllText(Path.Combine(Root, setting)).Trim();

    private void Put(string setting, string value)
    {
        var path = Path.Combine(Root, setting);
        Directory.CreateDirectory(Path.GetDirectoryName(path)!);
        File.WriteAllText(path, value + "\n");
    }
}
