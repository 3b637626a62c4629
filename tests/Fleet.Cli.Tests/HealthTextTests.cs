using Fleet.Cli.Api;
using Fleet.Cli.Vms;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class HealthTextTests
{
    [Theory]
    [InlineData("tcp:5432", """{"port":5432}""")]
    [InlineData("http:80/ready?full=1", """{"port":80,"http_path":"/ready?full=1"}""")]
    [InlineData("exec:test -f /tmp/up:down", """{"command":["sh","-c","test -f /tmp/up:down"]}""")]
    [InlineData("[interval=5,failures=1,timeout=2,start_period=60]tcp:1", """{"interval_seconds":5,"failures":1,"timeout_seconds":2,"start_period_seconds":60,"port":1}""")]
    public void Reads_a_check(string word, string body) => Assert.Equal(body, HealthText.Parse(word).ToJsonString());

    [Theory]
    [InlineData("")]
    [InlineData("tcp:")]
    [InlineData("tcp:http")]
    [InlineData("http:80")]
    [InlineData("http:/ready")]
    [InlineData("exec:")]
    [InlineData("udp:53")]
    [InlineData("[interval=5")]
    [InlineData("[often=5]tcp:1")]
    [InlineData("[interval=x]tcp:1")]
    public void Takes_nothing_else(string word) => Assert.Equal("invalid_field", Assert.Throws<ApiException>(() => HealthText.Parse(word)).Code);
}
