using System.CommandLine;
using Xunit;

namespace Fleet.Cli.Tests;

/// <summary>Addresses as people write them.</summary>
public sealed class AddressTests
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
