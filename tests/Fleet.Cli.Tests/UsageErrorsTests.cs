using System.CommandLine;
using Fleet.Cli.Access;
using Fleet.Cli.Output;
using Xunit;

namespace Fleet.Cli.Tests;

public sealed class UsageErrorsTests
{
    [Fact]
    public void Should_say_in_one_line_what_may_be_chosen() => Assert.Equal(
        "Argument 'root' not recognized. Must be one of: 'host' 'scheduler' 'admin' 'tenant'",
        UsageErrors.Plain(Assert.Single(new RootCommand { TokenCommands.Create() }.Parse(["token", "create", "--role", "root"]).Errors).Message));
}
