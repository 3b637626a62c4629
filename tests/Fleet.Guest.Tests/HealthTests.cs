using System.Net;
using System.Net.Sockets;
using System.Text;
using Fleet.Guest.Configuration;
using Fleet.Guest.Health;
using Fleet.Guest.Linux;
using Fleet.Guest.Processes;
using Fleet.Shared.GuestChannel;
using Xunit;

namespace Fleet.Guest.Tests;

public sealed class HealthTests
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(20);
    private static readonly TimeSpan Short = TimeSpan.FromMilliseconds(200);

    private static HealthCheck Check(int failures = 2, int startPeriod = 0) => new(["true"], 0, "", Short, Short, failures, TimeSpan.FromSeconds(startPeriod));

    [Fact]
    public void Counts_failures_in_a_row_only()
    {
        var record = new HealthRecord(Check(failures: 2));
        Assert.False(record.Take("bad", Soon));
        Assert.False(record.Take(null, Soon));
        Assert.False(record.Take("bad", Soon));
        Assert.True(record.Take("bad", Soon));
    }

    [Fact]
    public void Counts_none_in_the_start_period()
    {
        var record = new HealthRecord(Check(failures: 1, startPeriod: 10));
        Assert.False(record.Take("bad", TimeSpan.FromSeconds(9)));
        Assert.True(record.Take("bad", TimeSpan.FromSeconds(10)));
    }

    [Theory]
    [InlineData("HTTP/1.1 200 OK\r\n", null)]
    [InlineData("HTTP/1.0 302 Found\r\n", null)]
    [InlineData("HTTP/1.1 503 Service Unavailable\r\n", "status 503")]
    [InlineData("HTTP/1.1 20", "the answer is no HTTP")]
    [InlineData("SSH-2.0-OpenSSH 200", "the answer is no HTTP")]
    [InlineData("", "the answer is no HTTP")]
    public void Reads_the_status_of_an_answer(string answer, string? problem) => Assert.Equal(problem, Probe.Judge(Encoding.ASCII.GetBytes(answer)));

    [Fact]
    public async Task Asks_a_port_and_does_not_wait_for_ever()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var port = (ushort)((IPEndPoint)listener.LocalEndpoint).Port;
        Assert.Null(Probe.Ask(port, "", Soon));
        Assert.Contains("in time", Probe.Ask(port, "/ready", Short), StringComparison.Ordinal);
        listener.AcceptTcpClient().Dispose();
        listener.AcceptTcpClient().Dispose();
        var served = Task.Run(() =>
        {
            using var client = listener.AcceptTcpClient();
            var buffer = new byte[1000];
            var read = client.GetStream().Read(buffer);
            client.GetStream().Write("HTTP/1.1 204 No Content\r\n\r\n"u8);
            return Encoding.ASCII.GetString(buffer, 0, read);
        });
        Assert.Null(Probe.Ask(port, "/ready", Soon));
        Assert.StartsWith("GET /ready HTTP/1.1\r\n", await served, StringComparison.Ordinal);
        listener.Stop();
        Assert.NotNull(Probe.Ask(port, "", Soon));
    }

    [Theory]
    [InlineData("exit 0", null)]
    [InlineData("exit 3", "ended with status 3")]
    [InlineData("sleep 600", "did not end within")]
    public void Runs_a_program_and_does_not_wait_for_ever(string script, string? problem)
    {
        var found = Run(new CommandLine("/bin/sh", ["sh", "-c", script], [], IsShell: false), null, script.StartsWith("sleep", StringComparison.Ordinal) ? Short : Soon);
        if (problem is null) Assert.Null(found);
        else Assert.Contains(problem, found, StringComparison.Ordinal);
    }

    [Fact]
    public void Runs_a_script_without_an_interpreter_line_in_the_commands_folder()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-health-").FullName;
        try
        {
            File.WriteAllText(Path.Combine(folder, "mark"), "");
            var script = Path.Combine(folder, "ready.sh");
            File.WriteAllText(script, "test -e mark && test \"$1\" = now\n");
            File.SetUnixFileMode(script, (UnixFileMode)0x1ED);
            Assert.Null(Run(new CommandLine("./ready.sh", ["./ready.sh", "now"], [], IsShell: false), folder, Soon));
            Assert.Contains("ended with status 1", Run(new CommandLine("./ready.sh", ["./ready.sh", "later"], [], IsShell: false), folder, Soon), StringComparison.Ordinal);
            Assert.NotNull(Run(new CommandLine("./ready.sh", ["./ready.sh", "now"], [], IsShell: false), null, Soon));
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    [Fact]
    public void Watches_until_it_is_unhealthy_and_says_so_once()
    {
        using var told = new SemaphoreSlim(0);
        var words = "";
        var results = new Queue<string?>([null, "bad", null, "bad", "worse", "worst"]);
        var states = new List<(HealthState, ushort)>();
        HealthWatch watch = null!;
        watch = new HealthWatch(Check() with { Interval = TimeSpan.FromMilliseconds(1) }, results.Dequeue, problem =>
        {
            words = problem;
            told.Release();
        }, () => states.Add(watch.State));
        Assert.Equal((HealthState.Starting, (ushort)0), watch.State);
        watch.Start();
        Assert.True(told.Wait(Soon));
        Assert.Equal(("worse", 1), (words, results.Count));
        Assert.Equal([(HealthState.Passing, (ushort)0), (HealthState.Failing, 1), (HealthState.Passing, 0), (HealthState.Failing, 1), (HealthState.Failing, 2)], states);
    }

    [Theory]
    [InlineData("""{"argv": [], "port": 0}""")]
    [InlineData("""{"argv": ["x"], "port": 80}""")]
    [InlineData("""{"port": 65536}""")]
    [InlineData("""{"port": 80, "interval": 0}""")]
    [InlineData("""{"port": 80, "what": 1}""")]
    [InlineData("""{"port": "80"}""")]
    [InlineData("[]")]
    public void Takes_no_check_that_is_none(string health) => Assert.Throws<BadConfigurationException>(() =>
        RunConfiguration.Parse(Encoding.UTF8.GetBytes($$"""{"argv": [], "health": {{health}}}""")));

    private static string? Run(CommandLine command, string? folder, TimeSpan timeout)
    {
        var exits = new ChildExits();
        using var over = new CancellationTokenSource();
        var reaper = new Thread(() => Reap(exits, over.Token));
        reaper.Start();
        var nothing = Files.Open("/dev/null", Libc.O_RDWR, out _);
        var found = Probe.Run(command, folder, exits, nothing, timeout);
        Libc.close(nothing);
        Assert.Empty(exits.Awaited);
        over.Cancel();
        reaper.Join();
        return found;
    }

    private static unsafe void Reap(ChildExits exits, CancellationToken over)
    {
        while (!over.IsCancellationRequested)
        {
            foreach (var pid in exits.Awaited)
            {
                int status;
                // SAFETY: the kernel writes one int, on this frame.
                if (Libc.waitpid(pid, &status, Libc.WNOHANG) == pid) exits.Ended(pid, status);
            }
            Thread.Sleep(2);
        }
    }
}
