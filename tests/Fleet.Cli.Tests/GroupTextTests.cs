using Fleet.Cli.Api;
using Fleet.Cli.Vms;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class GroupTextTests
{
    [Theory]
    [InlineData("web", """{"group":"web","apart":true}""")]
    [InlineData("web,zone,soft", """{"group":"web","within":"zone","hard":false,"apart":true}""")]
    [InlineData("web,soft,zone", """{"group":"web","hard":false,"within":"zone","apart":true}""")]
    [InlineData("vm=one,zone", """{"within":"zone","vm":"one","apart":true}""")]
    [InlineData("web,host", null)]
    [InlineData("web,ahead=2", null)]
    [InlineData("web,soft,soft", null)]
    [InlineData("web,", null)]
    public void Should_read_affinities(string word, string? body) => Assert.Equal(body, GroupText.Affinity(word, apart: true)?.ToJsonString());

    [Theory]
    [InlineData("web", """{"group":"web"}""")]
    [InlineData("web,host,ahead=3", """{"group":"web","over":"host","most_ahead":3}""")]
    [InlineData("web,soft", """{"group":"web","hard":false}""")]
    [InlineData("web,zone", null)]
    [InlineData("web,ahead=", null)]
    [InlineData("web,ahead=-1", null)]
    [InlineData("web,ahead=1,ahead=2", null)]
    public void Should_read_spreads(string word, string? body) => Assert.Equal(body, GroupText.Spread(word)?.ToJsonString());

    [Fact]
    public void Should_say_what_a_rule_looks_like() =>
        Assert.Contains("--apart wants GROUP[,zone][,soft] or vm=NAME[,zone][,soft], not 'web,x'", Assert.Throws<ApiException>(() => GroupText.Rules(["web,x"], word => GroupText.Affinity(word, apart: true), "--apart", GroupText.AffinityForm)).Message, StringComparison.Ordinal);
}
