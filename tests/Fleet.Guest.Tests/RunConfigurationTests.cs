using System.Text;
using System.Text.Json;
using CsCheck;
using Fleet.Guest.Configuration;
using Xunit;

namespace Fleet.Guest.Tests;

public sealed class RunConfigurationTests
{
    [Fact]
    public void Reads_what_the_contract_shows()
    {
        var run = Parse("""{"argv": ["sh", "-c", "exit 7"], "env": {"K": "V"}, "hostname": "hello"}""");

        Assert.Equal(["sh", "-c", "exit 7"], run.Argv);
        Assert.Equal([new("K", "V")], run.Env);
        Assert.Equal("hello", run.Hostname);
    }

    private const string Network = """{"mac": "02:f1:0a:90:00:02", "ipv4": "10.144.0.2/22", "gateway4": "10.144.0.1", "ipv6": "fd00::2/64", "gateway6": "fd00::1", "resolver": "10.144.0.1", "domain": "fleet"}""";

    [Fact]
    public void Reads_what_the_interface_is_set_to()
    {
        var network = Parse($$"""{"argv": [], "network": {{Network}}}""").Network!;

        Assert.Equal(("02:f1:0a:90:00:02", "10.144.0.2", 22, "10.144.0.1"), (network.Mac, network.Ipv4.Address.ToString(), network.Ipv4.PrefixLength, network.Gateway4.ToString()));
        Assert.Equal(("fd00::2", 64, "fd00::1", "10.144.0.1", "fleet"), (network.Ipv6.Address.ToString(), network.Ipv6.PrefixLength, network.Gateway6.ToString(), network.Resolver.ToString(), network.Domain));
        Assert.Null(Parse("""{"argv": []}""").Network);
    }

    [Theory]
    [InlineData("\"mac\"", "\"hardware\"", "unknown or repeated member 'hardware'")]
    [InlineData("10.144.0.2/22", "10.144.0.2", "ADDRESS/LENGTH")]
    [InlineData("10.144.0.2/22", "10.144.0.2/33", "ADDRESS/LENGTH")]
    [InlineData("10.144.0.2/22", "fd00::2/22", "family")]
    [InlineData("fd00::1\"", "10.0.0.1\"", "family")]
    [InlineData(", \"domain\": \"fleet\"", "", "no 'domain'")]
    public void Refuses_an_interface_that_is_none(string part, string instead, string why)
    {
        var error = Assert.Throws<BadConfigurationException>(() => Parse($$"""{"argv": [], "network": {{Network.Replace(part, instead, StringComparison.Ordinal)}}}"""));
        Assert.Contains(why, error.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Keeps_arguments_and_values_as_they_are()
    {
        // Half of a surrogate pair has no UTF-8 form: the host can't send it.
        var text = Gen.String.Select(s => new string([.. s.Where(c => c != '\0' && !char.IsSurrogate(c))]));
        Gen.Select(text.Array[0, 20], text).Sample((rest, value) =>
        {
            string[] argv = ["program", .. rest];
            var json = JsonSerializer.Serialize(new { argv, env = new Dictionary<string, string> { ["NAME"] = value }, hostname = "h" });
            var run = Parse(json);
            Assert.Equal(argv, run.Argv);
            Assert.Equal(value, run.Env.Single().Value);
        }, iter: 500);
    }

    [Theory]
    [InlineData("""{"argv": [], "env": {}, "hostname": ""}""")]
    [InlineData("""{"argv": []}""")]
    public void An_empty_command_and_absent_members_are_allowed(string json)
    {
        var run = Parse(json);
        Assert.Empty(run.Argv);
        Assert.Empty(run.Env);
        Assert.Equal("", run.Hostname);
    }

    [Fact]
    public void Reads_how_an_image_wants_to_be_run()
    {
        var image = Parse("""{"argv": [], "image": {"user": "app:1", "workdir": "/srv", "stop_signal": 3}}""").Image;
        Assert.Equal(new ImageConfiguration("app:1", "/srv", 3), image);
        Assert.Equal(new ImageConfiguration("", "", 15), Parse("""{"argv": [], "image": {}}""").Image);
        Assert.Null(Parse("""{"argv": []}""").Image);
    }

    [Theory]
    [InlineData("""{"argv": [], "image": []}""", "not an object")]
    [InlineData("""{"argv": [], "image": {"user": 1}}""", "not a string")]
    [InlineData("""{"argv": [], "image": {"stop_signal": 0}}""", "stop_signal")]
    [InlineData("""{"argv": [], "image": {"stop_signal": 65}}""", "stop_signal")]
    [InlineData("""{"argv": [], "image": {"else": 1}}""", "else")]
    [InlineData("""{"argv": [], "image": {}, "image": {}}""", "'image' twice")]
    [InlineData("", "not valid JSON")]
    [InlineData("{", "not valid JSON")]
    [InlineData("[]", "not an object")]
    [InlineData("null", "not an object")]
    [InlineData("""{"env": {}}""", "no 'argv'")]
    [InlineData("""{"argv": "sh"}""", "'argv' is not an array")]
    [InlineData("""{"argv": [1]}""", "not a string")]
    [InlineData("""{"argv": [null]}""", "not a string")]
    [InlineData("""{"argv": [["sh"]]}""", "not a string")]
    [InlineData("""{"argv": [""]}""", "first element")]
    [InlineData("""{"argv": ["a\u0000b"]}""", "NUL")]
    [InlineData("""{"argv": ["\ud800"]}""", "not valid JSON")]
    [InlineData("""{"argv": [], "argv": []}""", "'argv' twice")]
    [InlineData("""{"argv": [], "cwd": "/"}""", "unknown member 'cwd'")]
    [InlineData("""{"argv": [], "env": []}""", "'env' is not an object")]
    [InlineData("""{"argv": [], "env": {"": "x"}}""", "'env' has a name")]
    [InlineData("""{"argv": [], "env": {"A=B": "x"}}""", "'env' has a name")]
    [InlineData("""{"argv": [], "env": {"A": "1", "A": "2"}}""", "'env' has a name")]
    [InlineData("""{"argv": [], "env": {"A": 1}}""", "not a string")]
    [InlineData("""{"argv": [], "hostname": 1}""", "not a string")]
    [InlineData("""{"argv": []} {}""", "not valid JSON")]
    [InlineData("""{"argv": [],}""", "not valid JSON")]
    public void Refuses_everything_else_with_a_reason(string json, string reason) =>
        Assert.Contains(reason, Assert.Throws<BadConfigurationException>(() => Parse(json)).Message, StringComparison.Ordinal);

    [Fact]
    public void Refuses_a_host_name_that_the_kernel_would_not_take()
    {
        Assert.Equal(64, Parse($$"""{"argv": [], "hostname": "{{new string('h', 64)}}"}""").Hostname.Length);
        Assert.Throws<BadConfigurationException>(() => Parse($$"""{"argv": [], "hostname": "{{new string('h', 65)}}"}"""));
    }

    [Fact]
    public void Refuses_bytes_that_are_not_utf8() =>
        Assert.Throws<BadConfigurationException>(() => RunConfiguration.Parse([.. "{\"argv\": [\""u8, 0xC3, 0x28, .. "\"]}"u8]));

    [Fact]
    public void Never_fails_in_another_way()
    {
        var start = Encoding.UTF8.GetBytes("""{"argv": ["sh", "-c"], "env": {"K": "V"}, "hostname": "hello"}""");
        Gen.Select(Gen.Int[0, start.Length - 1], Gen.Byte, Gen.Int[0, start.Length]).Sample((at, value, length) =>
        {
            var bytes = start.ToArray();
            bytes[at] = value;
            try
            {
                RunConfiguration.Parse(bytes.AsSpan(0, length));
            }
            catch (BadConfigurationException error)
            {
                Assert.NotEmpty(error.Message);
            }
        }, iter: 3000);
    }

    private static RunConfiguration Parse(string json) => RunConfiguration.Parse(Encoding.UTF8.GetBytes(json));

    [Fact]
    public void Reads_volumes_and_refuses_what_is_none()
    {
        var volumes = RunConfiguration.Parse("""{"argv": [], "volumes": [{"disk": "volume0", "path": "/data"}, {"path": "/srv/x", "disk": "volume1"}]}"""u8).Volumes;
        Assert.Equal([("volume0", "/data"), ("volume1", "/srv/x")], volumes);
        foreach (var wrong in (string[])["{}", "[1]", """[{"disk": "volume0"}]""", """[{"disk": "volume0", "path": "data"}]""", """[{"disk": "", "path": "/data"}]""",
            """[{"disk": "a", "disk": "b", "path": "/data"}]""", """[{"disk": "a", "path": "/data", "more": "x"}]"""])
        {
            Assert.Throws<BadConfigurationException>(() => RunConfiguration.Parse(System.Text.Encoding.UTF8.GetBytes($$"""{"argv": [], "volumes": {{wrong}}}""")));
        }
    }
}
