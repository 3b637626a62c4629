using System.CommandLine;
using Fleet.Cli.Node;
using Fleet.Host.Pressure;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class ReactionSettingsTests
{
    private readonly ReactionSettings _settings = new();
    private readonly RootCommand _command = [];

    public ReactionSettingsTests() => _settings.AddTo(_command);

    [Theory]
    [InlineData("", false, null)]
    [InlineData("--no-reaction", true, null)]
    [InlineData("--cpu-credits 25:300", false, "25:300")]
    [InlineData("--no-reaction --cpu-credits 7:10", true, "7:10")]
    [InlineData("--cpu-credits low=7:10:50 --cpu-credits high=50:60", false, "low=7:10:50 high=50:60")]
    public void Should_be_taken_and_handed_on_to_a_process_in_the_background(string line, bool off, string? credits)
    {
        var parsed = _command.Parse(line);
        Assert.Empty(parsed.Errors);
        Assert.Equal(new ReactionOptions(off, credits is null ? null : CreditPlan.Parse(credits.Split(' '), out _)), _settings.Of(parsed));
        Assert.Equal(line, string.Join(' ', _settings.Words(parsed)));
    }

    [Fact]
    public void Should_say_what_credits_look_like() =>
        Assert.Contains(
            "--cpu-credits wants [CLASS=]PERCENT:SECONDS[:WEIGHT], such as 25:300 or 25:300:50, with 5 to 100 percent, 10 to 86400 seconds and a weight of 10 to 1000 percent, and as CLASS low, normal or high, each once; not '1:2'.",
            _command.Parse("--cpu-credits 1:2").Errors.Select(error => error.Message));
}
