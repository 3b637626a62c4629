using System.Text.Json;
using Fleet.Cli.Vms;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class LimitTextTests
{
    [Theory]
    [InlineData("entropy=64KiB/s", """{"bandwidth":{"size":65536,"refill_time_ms":1000}}""")]
    [InlineData("entropy=1MiB/100ms+8MiB,100ops/2s+5ops", """{"bandwidth":{"size":1048576,"refill_time_ms":100,"one_time_burst":8388608},"ops":{"size":100,"refill_time_ms":2000,"one_time_burst":5}}""")]
    [InlineData("entropy=7/s", """{"bandwidth":{"size":7,"refill_time_ms":1000}}""")]
    [InlineData("entropy=none", null)]
    public void Should_read_what_people_write(string word, string? body)
    {
        var (name, limit) = LimitText.Parse(word)!.Value;
        Assert.Equal(("entropy", body), (name, limit?.ToJsonString()));
    }

    [Theory]
    [InlineData("entropy")]
    [InlineData("entropy=")]
    [InlineData("=1/s")]
    [InlineData("entropy=64KiB")]
    [InlineData("entropy=64KiB/")]
    [InlineData("entropy=/s")]
    [InlineData("entropy=64KB/s")]
    [InlineData("entropy=-1/s")]
    [InlineData("entropy=1/s,2/s")]
    [InlineData("entropy=1ops/s+1KiB")]
    [InlineData("entropy=1/s+1+1")]
    [InlineData("entropy=9999999999999GiB/s")]
    [InlineData("entropy=1/s,none")]
    public void Should_not_guess(string word) => Assert.Null(LimitText.Parse(word));

    [Theory]
    [InlineData("64KiB/s")]
    [InlineData("1MiB/100ms+8MiB,100ops/2s+5ops")]
    [InlineData("1025B/s")]
    [InlineData("3ops/s")]
    public void Should_write_what_it_reads(string text)
    {
        var body = LimitText.Parse("entropy=" + text)!.Value.Limit!;
        // The API's answers have every member.
        foreach (var (_, bucket) in body)
            bucket!["one_time_burst"] ??= 0;
        Assert.Equal(text, LimitText.Of(JsonSerializer.SerializeToElement(body)));
    }

    [Fact]
    public void Should_say_none_of_what_is_not_limited() => Assert.Equal("none", LimitText.Of(JsonSerializer.SerializeToElement<object?>(null)));
}
