using System.CommandLine;
using Fleet.Cli.Node;
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
    [InlineData("--memory wants 1 to ", "up", "--memory", "0")]
    [InlineData("--memory wants 1 to ", "up", "--memory", "1000000000")]
    [InlineData("--memory wants 1 to ", "host", "--join", "10.0.0.1:7071", "--memory", "1000000000")]
    public void Should_refuse_a_host_that_offers_nothing_or_more_than_there_is(string error, params string[] words) =>
        Assert.StartsWith(error, Assert.Single(Errors(words)), StringComparison.Ordinal);

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
