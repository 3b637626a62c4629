using System.CommandLine;
using Fleet.Cli.Node;
using Fleet.Cli.Output;
using Xunit;

namespace Fleet.Cli.Tests;

/// <summary>Addresses as people write them, and what a node is given on its command line.</summary>
public sealed class NodeOptionsTests
{
    private static readonly Option<Uri?> Join = new("--join") { CustomParser = result => CommandContext.Address(result, "--join", "http://10.0.0.1:7071") };

    [Theory]
    [InlineData("http://127.0.0.1:7390", "http://127.0.0.1:7390/")]
    [InlineData("127.0.0.1:7390", "http://127.0.0.1:7390/")]
    [InlineData("box:7390", "http://box:7390/")]
    [InlineData("https://box", "https://box/")]
    public void Should_take_an_address_with_or_without_its_scheme(string text, string expected)
    {
        var parsed = new RootCommand { Join }.Parse(["--join", text]);
        Assert.Empty(parsed.Errors);
        Assert.Equal(expected, parsed.GetValue(Join)!.ToString());
    }

    [Theory]
    [InlineData("http://127.0.0.1:7390", "127.0.0.1:7390")]
    [InlineData("http://localhost:7390", "127.0.0.1:7390")]
    [InlineData("https://[::]:7390", "[::]:7390")]
    [InlineData("https://0.0.0.0:7390", "0.0.0.0:7390")]
    public void Should_have_a_node_listen_on_an_address(string api, string expected)
    {
        Assert.Equal(expected, NodeOptions.EndPoint(new Uri(api)).ToString());
        Assert.Empty(Errors("up", "--api", api));
    }

    /// <summary>It would listen on loopback alone, and nobody else would ever reach it.</summary>
    [Theory]
    [InlineData("up")]
    [InlineData("scheduler")]
    public void Should_refuse_a_name_where_a_node_listens(string command) => Assert.Equal(
        ["--api: a node listens on an address, not on a name. Write https://ADDRESS:7390 (0.0.0.0 for all), and --name box.example for its certificate."],
        Errors(command, "--api", "https://box.example:7390"));

    /// <summary>Told at once, and not by an agent that ends after its control plane has started.</summary>
    [Theory]
    [InlineData("--cpus wants 1 to 65536 CPUs.", "up", "--cpus", "0")]
    [InlineData("--cpus wants 1 to 65536 CPUs.", "host", "--join", "10.0.0.1:7071", "--cpus", "-1")]
    [InlineData("--disk wants 0 to ", "up", "--disk", "-1")]
    [InlineData("--network wants 0 to ", "up", "--network", "-1")]
    [InlineData("--iops wants 0 to ", "host", "--join", "10.0.0.1:7071", "--iops", "99999999999")]
    [InlineData("--cpu-template wants NAME=FILE", "up", "--cpu-template", "T2=/dev/null")]
    [InlineData("--cpu-template: /nowhere can't be read", "up", "--cpu-template", "t2=/nowhere")]
    [InlineData("--cpu-template: /dev/null can't be read", "up", "--cpu-template", "t2=/dev/null")]
    [InlineData("--cpu-template: /dev/zero has more than", "up", "--cpu-template", "t2=/dev/zero")]
    [InlineData("--disk-ratio wants a number", "up", "--disk-ratio", "0")]
    [InlineData("--memory wants 1 to ", "up", "--memory", "0")]
    [InlineData("--memory wants 1 to ", "up", "--memory", "1000000000")]
    [InlineData("--memory wants 1 to ", "host", "--join", "10.0.0.1:7071", "--memory", "1000000000")]
    public void Should_refuse_a_host_that_offers_nothing_or_more_than_there_is(string error, params string[] words) =>
        Assert.StartsWith(error, Assert.Single(Errors(words)), StringComparison.Ordinal);

    /// <summary>The parser throws at a validator that asks for a word which can't be read.</summary>
    [Theory]
    [InlineData("--lease wants a whole number, not '20s'.", "up", "--lease", "20s")]
    [InlineData("--cpus wants a whole number, not 'two'.", "up", "--cpus", "two")]
    [InlineData("--memory wants a whole number, not '1T'.", "up", "--memory", "1T")]
    [InlineData("--cpu-ratio wants a number, not 'four'.", "up", "--cpu-ratio", "four")]
    [InlineData("--reserve wants a number, not 'all'.", "up", "--predict", "--reserve", "all")]
    [InlineData("--api wants an address such as http://127.0.0.1:7070, not '127.0.0.1:99999'.", "up", "--api", "127.0.0.1:99999")]
    [InlineData("--database: ", "scheduler", "--database", "mysql://x/y", "--cluster", "127.0.0.1:7072")]
    [InlineData("--database: ", "scheduler", "--database", "postgresql://u:p@h/fleet?sslmode=disable", "--cluster", "127.0.0.1:7072")]
    [InlineData("--join wants ", "scheduler", "--database", "postgresql://u@h/fleet", "--cluster", "127.0.0.1:7072", "--join", "%%")]
    public void Should_say_of_a_mistyped_word_what_is_wanted(string error, params string[] words) =>
        Assert.StartsWith(error, UsageErrors.Plain(Assert.Single(Errors(words))), StringComparison.Ordinal);

    /// <summary>Else a node listens where nobody looks for it, and a host dials for ever where nobody listens.</summary>
    [Theory]
    [InlineData("--link wants ADDRESS:PORT such as 127.0.0.1:7071, not '127.0.0.1'.", "up", "--link", "127.0.0.1")]
    [InlineData("--link wants ADDRESS:PORT such as 127.0.0.1:7071, not '7'.", "scheduler", "--link", "7")]
    [InlineData("--join wants an address with its port such as https://10.0.0.1:7071, not '127.0.0.1'.", "host", "--join", "127.0.0.1")]
    [InlineData("--join wants an address with its port such as https://10.0.0.1:7071, not 'https://box/'.", "host", "--join", "https://box/")]
    [InlineData("--api: a node listens on a port. Write http://127.0.0.1:7070, or another.", "up", "--api", "127.0.0.1")]
    public void Should_refuse_a_forgotten_port(string error, params string[] words) => Assert.Equal([error], Errors(words));

    [Fact]
    public void Should_take_the_web_s_port_when_it_is_named()
    {
        Assert.Empty(Errors("host", "--join", "https://10.0.0.1:443"));
        Assert.Empty(Errors("up", "--api", "https://0.0.0.0:443"));
    }

    [Theory]
    [InlineData("up", "--detach")]
    [InlineData("scheduler")]
    public void Should_refuse_clear_text_where_others_hear_it(params string[] words) => Assert.Equal(
        ["--api: the API would send tokens in clear text over 0.0.0.0:7070. Give its address as https://0.0.0.0:7070, or a loopback address."],
        Errors([.. words, "--api", "0.0.0.0:7070"]));

    private static string[] Errors(params string[] words)
    {
        var root = new RootCommand { CommandContext.Api, CommandContext.Data, UpCommand.Create(), SchedulerCommand.Create(), HostCommand.Create() };
        return [.. root.Parse(words).Errors.Select(error => error.Message)];
    }

    [Theory]
    [InlineData("%%")]
    [InlineData("")]
    [InlineData("ftp://box")]
    [InlineData("http://")]
    [InlineData("box:port")]
    public void Should_say_what_it_wants_instead(string text)
    {
        var error = Assert.Single(new RootCommand { Join }.Parse(["--join", text]).Errors);
        Assert.Equal($"--join wants an address such as http://10.0.0.1:7071, not '{text}'.", error.Message);
    }
}
