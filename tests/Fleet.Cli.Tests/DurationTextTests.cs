using Fleet.Cli.Output;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class DurationTextTests
{
    [Theory]
    [InlineData("90", 90)]
    [InlineData("90s", 90)]
    [InlineData("10m", 600)]
    [InlineData("2h", 7200)]
    [InlineData("7d", 604_800)]
    [InlineData("", -1)]
    [InlineData("m", -1)]
    [InlineData("1.5h", -1)]
    [InlineData("10ms", -1)]
    [InlineData("-5s", -1)]
    [InlineData("5w", -1)]
    [InlineData("99999999999s", -1)]
    public void Should_know_durations(string text, int seconds)
    {
        Assert.Equal(seconds >= 0, DurationText.TryParse(text, out var duration));
        Assert.Equal(Math.Max(0, seconds), duration.TotalSeconds);
    }
}
