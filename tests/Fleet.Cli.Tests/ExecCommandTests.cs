using System.CommandLine;
using Fleet.Cli.Vms;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class ExecCommandTests
{
    [Theory]
    [InlineData("vm exec one -- sh", -1)]
    [InlineData("vm exec -it one -- sh -c exec", -1)]
    [InlineData("vm run -- exec", 40_000)]
    [InlineData("vm list", 40_000)]
    public void Should_go_on_after_a_signal_as_long_as_the_command_does(string line, int milliseconds) =>
        Assert.Equal(milliseconds, ExecCommand.PatienceOf(new RootCommand { VmCommands.Create() }.Parse(line.Split(' '))).TotalMilliseconds);
}
