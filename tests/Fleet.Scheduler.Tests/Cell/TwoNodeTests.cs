using System.Collections.Concurrent;
using System.Net;
using System.Net.Sockets;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Sessions;
using Fleet.Shared.Contracts;
using Serilog;
using Serilog.Core;
using Serilog.Events;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>
/// Two nodes with the settings of production: messages really cross, and whatever had no protobuf would end in the serializer that refuses.
/// They share one journal file, which only a test may do: the gate is one per process and here it is one per node.
/// </summary>
public sealed class TwoNodeTests
{
    private sealed class Collector : ILogEventSink
    {
        public ConcurrentQueue<string> Lines { get; } = new();

        public void Emit(LogEvent logEvent)
        {
            if (logEvent.Level >= LogEventLevel.Information)
                Lines.Enqueue($"{logEvent.RenderMessage(global::System.Globalization.CultureInfo.InvariantCulture)} {logEvent.Exception}");
        }
    }

    private static int FreePort()
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        return ((IPEndPoint)listener.LocalEndpoint).Port;
    }

    [Fact]
    [Trait("Kind", "Slow")]
    public async Task Should_carry_microVMs_across_nodes_and_go_on_when_one_leaves()
    {
        var folder = Path.Combine(Path.GetTempPath(), $"fleet-cell-{Guid.NewGuid():n}");
        var seen = new Collector();
        using var log = new LoggerConfiguration().WriteTo.Sink(seen).CreateLogger();
        int[] ports = [FreePort(), FreePort()];
        var options = TestCell.Options(folder) with
        {
            ExtraHocon = "",
            Log = log,
            HostDeadAfter = TimeSpan.FromSeconds(10),
            SeedNodes = [$"akka.tcp://fleet@127.0.0.1:{ports[0]}"],
        };
        var first = await CellSystem.StartAsync(options with { RemotingPort = ports[0] }, CancellationToken.None);
        await using var second = await CellSystem.StartAsync(options with { RemotingPort = ports[1] }, CancellationToken.None);

        await using var one = new FakeAgent("one");
        await using var two = new FakeAgent("two");
        await one.ConnectAsync(first.HostLink);
        await two.ConnectAsync(second.HostLink);
        var cells = new[] { first.Cell, second.Cell };
        var ids = new List<string>();
        for (var i = 0; i < 16; i++)
        {
            var spec = TestCell.Spec(memoryMib: 64);
            spec.Host = i % 4 < 2 ? "one" : "two";
            ids.Add(TestCell.NewVmId());
            Assert.Null((await cells[i % 2].CreateVmAsync(ids[i], spec, CancellationToken.None)).Problem);
        }
        foreach (var id in ids)
        {
            foreach (var cell in cells)
                Assert.Equal(VmState.Running, await StateAsync(cell, id, VmState.Running));
        }

        await first.DisposeAsync();
        await one.EndedAsync();
        using var over = new CancellationTokenSource();
        var dialing = DialAsync([one, two], second.HostLink, over.Token);
        foreach (var id in ids)
        {
            await Eventually.TrueAsync(async () => (await second.Cell.DeleteVmAsync(id, CancellationToken.None)).Problem is null);
            var answer = await second.Cell.WaitVmAsync(id, new HashSet<VmState> { VmState.Deleted }, Eventually.Bound, CancellationToken.None);
            Assert.True(
                answer.Problem is null,
                $"{answer}\nhost: {await second.Cell.GetHostAsync(answer.Vm!.Host, CancellationToken.None)}\nopen: {one.IsOpen} {two.IsOpen} {one.Refusal} {two.Refusal}\n{string.Join('\n', seen.Lines)}");
        }
        await over.CancelAsync();
        await dialing;
        await second.DisposeAsync();
        Directory.Delete(folder, recursive: true);
        Assert.DoesNotContain(seen.Lines, line => line.Contains("SerializationException", StringComparison.Ordinal) || line.Contains("was refused", StringComparison.Ordinal));
    }

    /// <summary>Agents dial again when their stream ends, as real ones do: the host's actor may have lived on the node that left.</summary>
    private static async Task DialAsync(FakeAgent[] agents, HostLinkService link, CancellationToken over)
    {
        while (!over.IsCancellationRequested)
        {
            foreach (var agent in agents.Where(agent => !agent.IsOpen))
                await agent.ConnectAsync(link);
            await Task.Delay(50, CancellationToken.None);
        }
    }

    private static async Task<VmState?> StateAsync(ICell cell, string id, VmState wanted) =>
        (await cell.WaitVmAsync(id, new HashSet<VmState> { wanted }, Eventually.Bound, CancellationToken.None)).Vm?.State;
}
