using System.Diagnostics;
using System.Text.Json;
using Fleet.Vmm.Linux;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

/// <summary>The program as a process of its own: what only a real process has, such as signals, exit codes and standard streams.</summary>
public class BinaryTests
{
    /// <summary>The built program lies beside the tests.</summary>
    protected virtual string Binary => Path.Combine(AppContext.BaseDirectory, "fleet-vmm");

    [Fact]
    public void Should_print_version_and_help()
    {
        Assert.Equal((0, "fleet-vmm v0.1.0\n", ""), Run("--version"));
        var (code, output, _) = Run("--help");
        Assert.Equal(0, code);
        Assert.Contains("--api-sock <api-sock>", output, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_refuse_arguments_with_153()
    {
        using var files = new ScratchDirectory();
        var exit = files.File("exit.json");
        var (code, output, errors) = Run("--no-such", "--exit-file", exit);
        Assert.Equal((153, ""), (code, output));
        Assert.Equal("Arguments parsing error: Found argument 'no-such' which wasn't expected, or isn't valid in this context.\n\nFor more information try --help.\n", errors);
        Assert.Equal("arguments_invalid", Reason(exit));
    }

    [Fact]
    public void Should_refuse_a_bad_file_with_152_and_leave_standard_output_to_the_guest()
    {
        using var files = new ScratchDirectory();
        var exit = files.File("exit.json");
        var (code, output, errors) = Run("--no-api", "--config-file", "/no/such", "--exit-file", exit);
        Assert.Equal((152, ""), (code, output));
        Assert.Contains("Unable to open or read from the configuration file /no/such: open: No such file or directory (os error 2)", errors, StringComparison.Ordinal);
        Assert.Equal("bad_configuration", Reason(exit));
    }

    [Fact]
    public void Should_not_start_on_a_socket_that_is_taken()
    {
        using var files = new ScratchDirectory();
        var socket = files.File("api.sock", "");
        var exit = files.File("exit.json");
        Assert.Equal(1, Run("--api-sock", socket, "--exit-file", exit).Code);
        Assert.Equal("api_socket_failed", Reason(exit));
        Assert.True(File.Exists(socket));
    }

    [Theory]
    [InlineData(Signals.Terminate, 0)]
    [InlineData(Signals.Interrupt, 0)]
    [InlineData(Signals.HangUp, 156)]
    [InlineData(Signals.CpuTimeExceeded, 154)]
    public void Should_end_in_order_on_a_signal(int signal, int code)
    {
        using var files = new ScratchDirectory();
        var socket = files.File("api.sock");
        var exit = files.File("exit.json");
        using var process = Start("--api-sock", socket, "--exit-file", exit);
        try
        {
            Assert.True(SpinWait.SpinUntil(() => Answers(socket) || process.HasExited, RunningVmm.Patience));
            Assert.Equal(0, Native.kill(process.Id, signal));
            Assert.True(process.WaitForExit(RunningVmm.Patience));
            Assert.Equal(code, process.ExitCode);
            Assert.Equal([exit], Directory.GetFileSystemEntries(files.Root));
        }
        finally
        {
            process.Kill();
        }
    }

    [Fact]
    public void Should_live_through_SIGPIPE_and_SIGXFSZ()
    {
        using var files = new ScratchDirectory();
        var socket = files.File("api.sock");
        using var process = Start("--api-sock", socket, "--exit-file", files.File("exit.json"));
        try
        {
            Assert.True(SpinWait.SpinUntil(() => Answers(socket) || process.HasExited, RunningVmm.Patience));
            Assert.Equal(0, Native.kill(process.Id, 13));
            Assert.Equal(0, Native.kill(process.Id, 25));
            Assert.True(Answers(socket));
            Assert.Equal(0, Native.kill(process.Id, Signals.Terminate));
            Assert.True(process.WaitForExit(RunningVmm.Patience));
            Assert.Equal(0, process.ExitCode);
        }
        finally
        {
            process.Kill();
        }
    }

    protected (int Code, string Output, string Errors) Run(params string[] arguments)
    {
        using var process = Start(arguments);
        var errors = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        Assert.True(process.WaitForExit(RunningVmm.Patience));
        return (process.ExitCode, output, errors.GetAwaiter().GetResult());
    }

    // With every signal at its default, as a host agent starts it: who runs the tests may ignore some (nohup).
    protected Process Start(params string[] arguments) =>
        Process.Start(new ProcessStartInfo("env", ["--default-signal", Binary, .. arguments]) { RedirectStandardOutput = true, RedirectStandardError = true, RedirectStandardInput = true })!;

    private static bool Answers(string socket)
    {
        try
        {
            using var client = new RawClient(socket);
            return client.Request("GET", "/").Status == 200;
        }
        catch (System.Net.Sockets.SocketException)
        {
            return false;
        }
    }

    private static string Reason(string exitFile)
    {
        using var json = JsonDocument.Parse(File.ReadAllText(exitFile));
        return json.RootElement.GetProperty("reason").GetString()!;
    }
}

/// <summary>The same for the program that is shipped: native code, with a runtime that treats signals in its own way.</summary>
[Trait("Kind", "Slow")]
public sealed class PublishedBinaryTests(PublishedBinary published) : BinaryTests, IClassFixture<PublishedBinary>
{
    protected override string Binary => published.Path;

    /// <summary>Native only: the JIT itself needs more than this.</summary>
    [Fact]
    public void Should_say_so_when_there_are_no_descriptors()
    {
        using var files = new ScratchDirectory();
        var exit = files.File("exit.json");
        using var process = Process.Start("prlimit", ["--nofile=4", Binary, "--api-sock", files.File("api.sock"), "--exit-file", exit, "--log-path", "/dev/null"]);
        Assert.True(process.WaitForExit(RunningVmm.Patience));
        Assert.Equal(1, process.ExitCode);
        Assert.Contains("Too many open files", File.ReadAllText(exit), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_have_one_thread_beside_the_finalizers()
    {
        using var files = new ScratchDirectory();
        using var process = Start("--api-sock", files.File("api.sock"));
        try
        {
            Assert.True(SpinWait.SpinUntil(() => File.Exists(files.File("api.sock")), RunningVmm.Patience));
            Assert.Equal(2, Directory.GetDirectories($"/proc/{process.Id}/task").Length);
        }
        finally
        {
            process.Kill();
            process.WaitForExit();
        }
    }
}

/// <summary>Publishes fleet-vmm once for the class.</summary>
public sealed class PublishedBinary : IDisposable
{
    private readonly ScratchDirectory _directory = new();

    public PublishedBinary()
    {
        var root = new DirectoryInfo(AppContext.BaseDirectory);
        while (!File.Exists(System.IO.Path.Combine(root.FullName, "Fleet.sln")))
        {
            root = root.Parent ?? throw new InvalidOperationException("The tests do not lie below Fleet.sln.");
        }

        var output = _directory.File("out");
        using var publish = Process.Start("dotnet", ["publish", System.IO.Path.Combine(root.FullName, "Fleet.Vmm"), "-c", "Release", "-o", output, "-v", "q", "-p:RunAnalyzers=false"]);
        if (!publish.WaitForExit(TimeSpan.FromMinutes(5)) || publish.ExitCode != 0)
        {
            publish.Kill(entireProcessTree: true);
            publish.WaitForExit();
            _directory.Dispose();
            throw new InvalidOperationException("dotnet publish of Fleet.Vmm failed; its output says why.");
        }

        Path = System.IO.Path.Combine(output, "fleet-vmm");
    }

    public string Path { get; }

    public void Dispose() => _directory.Dispose();
}
