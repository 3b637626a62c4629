using System.Text;
using CsCheck;
using Fleet.Guest.Configuration;
using Fleet.Guest.Linux;
using Fleet.Guest.Processes;
using Fleet.Guest.Reporting;
using Xunit;

namespace Fleet.Guest.Tests;

public sealed class PathLookupTests
{
    private static FoundFile Machine(string path) => path switch
    {
        "/bin/sh" or "/usr/bin/env" or "./here" => FoundFile.Executable,
        "/usr/bin/sh" or "/bin/notes" => FoundFile.Forbidden,
        _ => FoundFile.Nothing,
    };

    [Theory]
    [InlineData("sh", "/usr/bin:/bin", "/bin/sh")]
    [InlineData("env", "/bin/:/usr/bin/", "/usr/bin/env")]
    [InlineData("notes", "/usr/bin:/bin", "/bin/notes")]
    [InlineData("here", "/bin::/usr/bin", "./here")]
    [InlineData("here", "", "./here")]
    [InlineData("nope", "/usr/bin:/bin", null)]
    [InlineData("./nope", "/usr/bin:/bin", "./nope")]
    [InlineData("/nope", "", "/nope")]
    public void Finds_what_a_shell_would_find(string name, string path, string? expected) =>
        Assert.Equal(expected, PathLookup.Find(name, path, Machine));
}

public sealed class ExitStatusTests
{
    [Theory]
    [InlineData("exit 0", 0)]
    [InlineData("exit 7", 7)]
    [InlineData("exit 255", 255)]
    [InlineData("kill -KILL $$", 137)]
    [InlineData("kill -TERM $$", 143)]
    [InlineData("ulimit -c 0; kill -SEGV $$", 139)]
    public void Says_what_a_shell_would_say(string script, int expected)
    {
        Assert.Equal(0, Spawner.Start("/bin/sh", ["sh", "-c", script], [], 2, foreground: false, out var pid));
        Assert.Equal(expected, ExitStatus.Of(Spawner.Wait(pid)));
    }

    [Fact]
    public void Tells_a_stopped_process_from_an_ended_one()
    {
        Assert.True(ExitStatus.IsStopped(20 << 8 | 0x7F));
        Assert.False(ExitStatus.IsStopped(9));
        Assert.False(ExitStatus.IsStopped(0x7F << 8));
    }
}

public sealed class SpawnerTests : IDisposable
{
    private readonly string _output = Path.GetTempFileName();

    [Fact]
    public void Hands_over_arguments_and_environment_unchanged()
    {
        var text = Gen.String.Select(s => new string([.. s.Where(c => c != '\0' && !char.IsSurrogate(c))]));
        text.Array[0, 10].Sample(arguments =>
        {
            var (status, output) = Run("/bin/sh", ["sh", "-c", "printf '%s\\0' \"$FLAVOUR\" \"$@\"", "sh", .. arguments], ["FLAVOUR=a b\nç"]);
            Assert.Equal(0, status);
            string[] expected = ["a b\nç", .. arguments];
            Assert.Equal(string.Concat(expected.Select(item => item + "\0")), output);
        }, iter: 40, threads: 1);
    }

    [Fact]
    public void Starts_a_group_of_its_own_with_no_signal_ignored_or_blocked()
    {
        var (_, output) = Run("/bin/sh", ["sh", "-c", "grep -E 'Sig(Blk|Ign)' /proc/self/status; cut -d' ' -f5 /proc/$$/stat; echo $$"], ["PATH=/usr/bin:/bin"]);
        var lines = output.Split('\n', StringSplitOptions.RemoveEmptyEntries);
        // Signals 32 and 33 are the C library's own; it lets nobody change them.
        Assert.All(lines[..2], line => Assert.Equal(0L, Convert.ToInt64(line.Split('\t')[1], 16) & 0x7FFFFFFF));
        Assert.Equal(lines[3], lines[2]);
    }

    [Fact]
    public void Says_why_a_program_can_not_be_started()
    {
        Assert.Equal(Libc.ENOENT, Spawner.Start("/does/not/exist", ["x"], [], 2, false, out var pid));
        Assert.Equal(0, pid);
        Assert.Equal(Libc.EACCES, Spawner.Start("/etc/passwd", ["x"], [], 2, false, out _));
        Assert.Equal(0, Run("/bin/chmod", ["chmod", "700", _output], []).Status);
        File.WriteAllText(_output, "echo no interpreter line\n");
        Assert.Equal(Libc.ENOEXEC, Spawner.Start(_output, ["x"], [], 2, false, out _));
    }

    public void Dispose() => File.Delete(_output);

    private (int Status, string Output) Run(string path, IReadOnlyList<string> argv, IReadOnlyList<string> environment)
    {
        File.WriteAllBytes(_output, []);
        var fd = Files.Open(_output, Libc.O_RDWR, out _);
        try
        {
            Assert.Equal(0, Spawner.Start(path, argv, environment, fd, foreground: false, out var pid));
            return (ExitStatus.Of(Spawner.Wait(pid)), Encoding.UTF8.GetString(File.ReadAllBytes(_output)));
        }
        finally
        {
            Libc.close(fd);
        }
    }
}

public sealed class CommandLineTests
{
    private static FoundFile Only(string program, string path) => path == program ? FoundFile.Executable : FoundFile.Nothing;

    [Fact]
    public void The_specs_environment_lies_over_the_images()
    {
        var run = new RunConfiguration(["tool"], [new("HOME", "/data"), new("PATH", "/opt/bin"), new("EMPTY", "")], "db-1");
        var command = CommandLine.From(run, null, path => Only("/opt/bin/tool", path));

        Assert.Equal("/opt/bin/tool", command.Path);
        Assert.False(command.IsShell);
        Assert.Contains("HOME=/data", command.Environment);
        Assert.Contains("PATH=/opt/bin", command.Environment);
        Assert.Contains("EMPTY=", command.Environment);
        Assert.Contains("HOSTNAME=db-1", command.Environment);
        Assert.Contains(command.Environment, item => item.StartsWith("TERM=", StringComparison.Ordinal));
        Assert.Equal(command.Environment.Count, command.Environment.Select(item => item.Split('=')[0]).Distinct().Count());
    }

    [Fact]
    public void No_command_means_a_shell()
    {
        var command = CommandLine.From(new RunConfiguration([], [], ""), null, _ => FoundFile.Nothing);
        Assert.True(command.IsShell);
        Assert.Equal("/bin/sh", command.Path);
        Assert.Equal(["sh"], command.Argv);
    }

    [Fact]
    public void Probes_real_files()
    {
        Assert.Equal(FoundFile.Executable, CommandLine.Probe("/bin/sh"));
        Assert.Equal(FoundFile.Forbidden, CommandLine.Probe("/etc/passwd"));
        Assert.Equal(FoundFile.Nothing, CommandLine.Probe("/etc"));
        Assert.Equal(FoundFile.Nothing, CommandLine.Probe("/does/not/exist"));
    }

    [Theory]
    [InlineData(Libc.ENOENT, 127)]
    [InlineData(Libc.ENOTDIR, 127)]
    [InlineData(Libc.EACCES, 126)]
    [InlineData(Libc.E2BIG, 126)]
    public void A_command_that_can_not_run_gets_the_shells_status(int error, int expected)
    {
        var refusal = CommandLine.Refusal("tool", error);
        Assert.Equal(expected, refusal?.Status);
        Assert.StartsWith("tool: ", refusal?.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Other_faults_are_not_the_commands() => Assert.Null(CommandLine.Refusal("tool", 12));
}

public sealed class StatusLineTests
{
    [Fact]
    public void An_error_is_one_line_whatever_it_says()
    {
        Gen.String.Sample(message =>
        {
            var line = StatusPort.ErrorLine("bad_config", message);
            Assert.StartsWith("FLEET 1 error bad_config ", line, StringComparison.Ordinal);
            Assert.DoesNotContain('\n', line);
            Assert.DoesNotContain('\r', line);
            Assert.True(line.Length < 400);
        }, iter: 1000);
    }
}
