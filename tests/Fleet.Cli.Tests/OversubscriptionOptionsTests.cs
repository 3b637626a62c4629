using System.CommandLine;
using Fleet.Cli.Node;
using Fleet.Scheduler.Cell;
using Xunit;

namespace Fleet.Cli.Tests;

/// <summary>How much more than they have hosts promise, as a command line says it.</summary>
public sealed class OversubscriptionOptionsTests
{
    private readonly OversubscriptionOptions _options = new();
    private readonly Command _command = new("up");

    public OversubscriptionOptionsTests() => _options.AddTo(_command);

    [Fact]
    public void Should_be_taken_and_handed_on_to_a_process_in_the_background()
    {
        var parsed = _command.Parse(["--predict", "--cpu-predictor", "sigma:5", "--predict-class", "large cpus>=64 cpu=peak:0.2:2", "--predict-class", "batch label.pool=batch reserve=0.05"]);
        for (var handedOn = 0; handedOn < 2; handedOn++)
        {
            Assert.Empty(parsed.Errors);
            var terms = _options.Of(parsed)(new CellOptions { DataDirectory = "/x" }).Prediction!;
            Assert.Equal(("sigma:5", ""), (terms.Cpu, terms.Class));
            Assert.Equal([("large", "peak:0.2:2", 0.1), ("batch", "sigma:5", 0.05)], terms.Classes.Select(one => (one.Name, one.Terms.Cpu, one.Terms.Reserve)));
            parsed = _command.Parse([.. _options.Words(parsed)]);
        }
    }

    [Theory]
    [InlineData("--predict-class goes with --predict.", "--predict-class", "large cpus>=64 cpu=limit")]
    [InlineData("--predict-class: the class large has no condition, and so would be all hosts.", "--predict", "--predict-class", "large cpu=limit reserve=0")]
    [InlineData("--predict-class: the class of hosts a is there twice.", "--predict", "--predict-class", "a cpus>=1 cpu=limit", "--predict-class", "a cpus>=2 cpu=limit")]
    public void Should_say_what_is_wrong(string error, params string[] words) => Assert.Equal([error], _command.Parse(words).Errors.Select(one => one.Message));
}
