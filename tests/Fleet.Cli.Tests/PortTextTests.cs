using Fleet.Cli.Api;
using Fleet.Cli.Vms;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class PortTextTests
{
    [Theory]
    [InlineData("8080:80", """[{"host":8080,"guest":80,"protocol":"tcp"}]""")]
    [InlineData("5353:53/udp", """[{"host":5353,"guest":53,"protocol":"udp"}]""")]
    [InlineData("443", """[{"host":443,"guest":443,"protocol":"tcp"}]""")]
    public void Should_read_what_people_write(string word, string body) => Assert.Equal(body, PortText.Ports([word]).ToJsonString());

    [Theory]
    [InlineData("")]
    [InlineData(":80")]
    [InlineData("0:80")]
    [InlineData("80:65536")]
    [InlineData("80:80:80")]
    [InlineData("80/sctp")]
    [InlineData("-1:80")]
    public void Should_refuse_what_is_none(string word) => Assert.Throws<ApiException>(() => PortText.Ports([word]));
}
