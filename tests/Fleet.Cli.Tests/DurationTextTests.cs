using System.CommandLine;
using Fleet.Cli.Output;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class DurationTextTests
{
    [Theory]
    [InlineData("90s", 90)]
    [InlineData("10m", 600)]
    [InlineData("2h", 7200)]
    [InlineData("7d", 604_800)]
    [InlineData("90", -1)]
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

    [Fact]
    public void Should_ask_of_what_a_number_without_a_unit_is()
    {
        var deadline = new Option<TimeSpan>("--deadline") { CustomParser = DurationText.Parse };
        var error = Assert.Single(new RootCommand { deadline }.Parse(["--deadline", "5"]).Errors);
        Assert.Equal("5 of what? Write 5s, 5m, 5h or 5d.", error.Message);
        Assert.Equal(TimeSpan.FromMinutes(5), new RootCommand { deadline }.Parse(["--deadline", "5m"]).GetValue(deadline));
    }

    [Theory]
    [InlineData("10", 10)]
    [InlineData("10s", 10)]
    [InlineData("2m", 120)]
    [InlineData("0", 0)]
    [InlineData("2w", null)]
    [InlineData("", null)]
    [InlineData("99999d9", null)]
    [InlineData("99999d", null)]
    public void Should_take_seconds_with_and_without_their_unit(string text, int? seconds)
    {
        var grace = new Option<int>("--grace") { CustomParser = DurationText.Seconds };
        var parsed = new RootCommand { grace }.Parse(["--grace", text]);
        Assert.Equal(seconds is null, parsed.Errors.Count > 0);
        if (seconds is { } wanted)
            Assert.Equal(wanted, parsed.GetValue(grace));
    }
}
