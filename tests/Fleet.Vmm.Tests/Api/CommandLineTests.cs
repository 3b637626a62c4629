using Fleet.Vmm.Api;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

public sealed class CommandLineTests
{
    [Fact]
    public void Should_have_Firecrackers_defaults()
    {
        var line = CommandLine.Parse([]);
        Assert.Equal("/run/firecracker.socket", line.ApiSocket);
        Assert.Equal("anonymous-instance", line.Id);
        Assert.Equal(51200, line.LargestBody);
        Assert.Null(line.ConfigFile);
        Assert.Null(line.ExitFile);
        Assert.Null(line.StartTime);
        Assert.Null(line.ShowLevel);
    }

    [Fact]
    public void Should_take_what_the_jailer_and_the_agent_say()
    {
        var line = CommandLine.Parse(["--id", "vm-1", "--start-time-us", "12", "--start-time-cpu-us", "3", "--parent-cpu-time-us", "4", "--api-sock", "a", "--exit-file", "e", "--config-file", "c", "--no-api", "--level", "Off", "--show-level", "--show-log-origin", "--boot-timer", "--no-seccomp", "--metrics-path", "m", "--log-path", "l", "--http-api-max-payload-size", "100"]);
        Assert.Equal("vm-1", line.Id);
        Assert.Equal(12ul, line.StartTime);
        Assert.Equal((3ul, 4ul), (line.StartCpuTime, line.ParentCpuTime));
        Assert.Null(line.ApiSocket);
        Assert.Equal(("e", "c", "Off", "m", "l"), (line.ExitFile, line.ConfigFile, line.Level, line.MetricsPath, line.LogPath));
        Assert.Equal((true, true), (line.ShowLevel, line.ShowLogOrigin));
        Assert.Equal(100, line.LargestBody);
    }

    [Theory]
    [InlineData("Found argument 'foo' which wasn't expected, or isn't valid in this context.", "--foo")]
    [InlineData("Found argument 'foo' which wasn't expected, or isn't valid in this context.", "foo")]
    [InlineData("Found argument '--' which wasn't expected, or isn't valid in this context.", "--")]
    [InlineData("Found argument 'enable-pci' which wasn't expected, or isn't valid in this context.", "--enable-pci")]
    [InlineData("The argument 'id' requires a value, but none was supplied.", "--id")]
    [InlineData("The argument 'id' requires a value, but none was supplied.", "--id", "--no-api")]
    [InlineData("The argument 'exit-file' requires a value, but none was supplied.", "--exit-file", "")]
    [InlineData("The argument 'id' was provided more than once.", "--id", "a", "--id", "b")]
    [InlineData("Argument 'config-file' required, but not found.", "--no-api")]
    [InlineData("Argument 'run-label' required, but not found.", "--run-log", "r")]
    [InlineData("The argument 'run-label' takes at most 512 printable ASCII characters.", "--run-log", "r", "--run-label", "a\nb")]
    [InlineData("Invalid instance ID: Invalid char (_) at position 1.", "--id", "a_b")]
    [InlineData("Invalid instance ID: Invalid len (65);  the length must be between 1 and 64.", "--id", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")]
    [InlineData("The argument 'start-time-us' takes a whole number from 0 to 18446744073709551615, not 'now'.", "--start-time-us", "now")]
    [InlineData("The argument 'http-api-max-payload-size' takes a whole number from 0 to 524288, not '99999999999999999999999'.", "--http-api-max-payload-size", "99999999999999999999999")]
    public void Should_say_what_is_wrong(string fault, params string[] arguments) =>
        Assert.Equal(fault, Assert.Throws<ArgumentFaultException>(() => CommandLine.Parse(arguments)).Message);

    [Fact]
    public void Should_let_help_and_version_win()
    {
        Assert.True(CommandLine.Parse(["--nonsense", "--help"]).WantsHelp);
        Assert.True(CommandLine.Parse(["--id", "--version"]).WantsVersion);
        Assert.Contains("--exit-file <exit-file>", CommandLine.Help("1"), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_find_the_exit_file_on_a_line_that_is_wrong()
    {
        Assert.Equal("e", CommandLine.FindExitFile(["--what", "--exit-file", "e"]));
        Assert.Null(CommandLine.FindExitFile(["--exit-file"]));
    }

    [Fact]
    public void Should_tell_the_version_of_the_build() =>
        Assert.Equal(VmmProcess.Version, typeof(VmmProcess).Assembly.GetName().Version!.ToString(3));
}
