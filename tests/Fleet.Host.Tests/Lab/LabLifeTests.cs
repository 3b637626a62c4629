using System.Net;
using System.Net.Sockets;
using System.Text;
using Fleet.Host.Lab;
using Fleet.Tests;
using Serilog.Core;
using Xunit;

namespace Fleet.Host.Tests.Lab;

/// <summary>A lab of real nodes, with a shell script in the agent's place.</summary>
[Trait("Kind", "Slow")]
public sealed class LabLifeTests : IDisposable
{
    private readonly string _root = Directory.CreateTempSubdirectory("fleet-lab-").FullName;
    private readonly TcpListener _scheduler = new(IPAddress.Loopback, 0);
    private readonly CancellationTokenSource _limit = new(TimeSpan.FromMinutes(4));

    public LabLifeTests()
    {
        Directory.CreateDirectory(Path.Combine(_root, "build", "cli"));
        Directory.CreateDirectory(Path.Combine(_root, "images"));
        File.WriteAllText(Path.Combine(_root, "build", "cli", "greeting"), "hello from");
        File.WriteAllText(Path.Combine(_root, "images", "image"), "image");
        _scheduler.Start();
        var port = ((IPEndPoint)_scheduler.LocalEndpoint).Port;
        Options = new LabOptions
        {
            StateDirectory = Path.Combine(_root, "state"),
            CacheDirectory = Path.Combine(Checkout.Artifacts, "test-images"),
            MemoryMib = 1024,
            Agent = new LabAgent(
                Path.Combine(_root, "build"), ["cli"],
                ["sh", "-c", $$"""echo "$(cat {build}/cli/greeting) {node} $(cat {data}/cache/image)" | busybox nc {{LabAgent.OuterLoopback}} {{port}}; exec sleep 1000"""],
                Path.Combine(_root, "images")),
        };
    }

    private LabOptions Options { get; }

    public void Dispose()
    {
        _scheduler.Dispose();
        _limit.Dispose();
        Directory.Delete(_root, recursive: true);
    }

    [Fact]
    public async Task Should_join_nodes_power_them_off_and_leave_nothing()
    {
        var lab = new Host.Lab.Lab(Options, Logger.None);
        try
        {
            await lab.UpAsync(2, _limit.Token);
            var joined = new[] { await AcceptAsync(), await AcceptAsync() };
            Assert.Equal(["hello from lab-1 image\n", "hello from lab-2 image\n"], joined.Order());

            await lab.PowerOffAsync("lab-1", _limit.Token);
            Assert.Equal([LabNodeState.Off, LabNodeState.Running], lab.List().Select(node => node.State));
            await lab.RemoveAsync("lab-1", _limit.Token);
            Assert.Equal("lab-2", Assert.Single(lab.List()).Name);
            Assert.Contains("FLEET-LAB ready lab-2", await File.ReadAllTextAsync(lab.List()[0].SerialLog), StringComparison.Ordinal);

            // An agent that ends is started again.
            await lab.RunAsync("lab-2", LabCommand.Shell("pkill sleep"), TimeSpan.FromSeconds(30), _limit.Token);
            Assert.Equal("hello from lab-2 image\n", await AcceptAsync());
        }
        finally
        {
            await lab.DownAsync(CancellationToken.None);
        }
        Assert.Empty(FakeEmulator.ProcessesIn(_root));
        Assert.False(Directory.Exists(Options.StateDirectory));
    }

    [Fact]
    public async Task Should_leave_nothing_when_a_boot_is_cancelled_half_way()
    {
        var lab = new Host.Lab.Lab(Options, Logger.None);
        using var cancel = CancellationTokenSource.CreateLinkedTokenSource(_limit.Token);
        var up = lab.UpAsync(1, cancel.Token);
        while (NodeProcess.Find(Path.Combine(Options.StateDirectory, "lab-1")) is null) await Task.Delay(20, _limit.Token);
        await cancel.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => up);
        Assert.Empty(FakeEmulator.ProcessesIn(_root));
        Assert.False(Directory.Exists(Options.StateDirectory));
    }

    [Fact]
    public async Task Should_say_that_a_node_panicked_under_a_command()
    {
        await using var node = await LabMachine.StartAsync(Options with { Agent = null }, Logger.None, _limit.Token);
        var error = await Assert.ThrowsAsync<LabException>(() =>
            node.RunAsync(LabCommand.Shell("echo c >/proc/sysrq-trigger; sleep 1000"), TimeSpan.FromSeconds(60), _limit.Token));
        Assert.Equal("node_off", error.Code);
        Assert.Contains("Kernel panic", error.Message, StringComparison.Ordinal);
    }

    private async Task<string> AcceptAsync()
    {
        using var connection = await _scheduler.AcceptTcpClientAsync(_limit.Token);
        using var reader = new StreamReader(connection.GetStream(), Encoding.UTF8);
        return await reader.ReadLineAsync(_limit.Token) + "\n";
    }
}
