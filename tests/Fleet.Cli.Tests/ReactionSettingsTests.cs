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
    public void Should_be_taken_and_handed_on_to_a_process_in_the_background(string line, bool off, string? credits)
    {
        var parsed = _command.Parse(line);
        Assert.Empty(parsed.Errors);
        Assert.Equal(new ReactionOptions(off, credits is null ? null : CreditTerms.Parse(credits)), _settings.Of(parsed));
        Assert.Equal(line, string.Join(' ', _settings.Words(parsed)));
    }

    [Fact]
    public void Should_say_what_credits_look_like() =>
        Assert.Contains(
            "--cpu-credits wants PERCENT:SECONDS, such as 25:300, with 5 to 100 percent and 10 to 86400 seconds; not '1:2'.",
            _command.Parse("--cpu-credits 1:2").Errors.Select(error => error.Message));
}
