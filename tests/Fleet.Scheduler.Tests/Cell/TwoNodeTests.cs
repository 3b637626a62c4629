using System.Net;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Sessions;
using Fleet.Scheduler.Tests.Journal;
using Fleet.Shared.Contracts;
using Fleet.Tests;
using Serilog;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>
/// Two nodes with the settings of production, which share a database: messages really cross, encrypted, and whatever had no protobuf would
/// end in the serializer that refuses.
/// </summary>
[Collection(PostgresCollection.Name)]
public sealed class TwoNodeTests(SharedPostgres postgres)
{
    [Fact]
    [Trait("Kind", "Slow")]
    public async Task Should_carry_microVMs_across_nodes_and_go_on_when_one_leaves()
    {
        var folder = Path.Combine(Path.GetTempPath(), $"fleet-cell-{Guid.NewGuid():n}");
        var seen = new Collector();
        using var log = new LoggerConfiguration().WriteTo.Sink(seen).CreateLogger();
        int[] ports = [FreePort.Next(), FreePort.Next()];
        using var authority = CertificateAuthority.OpenOrCreate(folder);
        var options = TestCell.Options(folder) with
        {
            ExtraHocon = "",
            Log = log,
            HostDeadAfter = TimeSpan.FromSeconds(10),
            Database = await postgres.NewDatabaseAsync(),
            Authority = authority,
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

    [Fact]
    [Trait("Kind", "Slow")]
    public async Task Should_never_form_a_second_cell_on_one_database_and_let_no_stranger_in()
    {
        var folder = Path.Combine(Path.GetTempPath(), $"fleet-cell-{Guid.NewGuid():n}");
        using var authority = CertificateAuthority.OpenOrCreate(Path.Combine(folder, "ours"));
        using var foreign = CertificateAuthority.OpenOrCreate(Path.Combine(folder, "theirs"));
        var seen = new Collector();
        using var log = new LoggerConfiguration().WriteTo.Sink(seen).CreateLogger();
        var database = await postgres.NewDatabaseAsync();
        var options = TestCell.Options(folder) with { ExtraHocon = "", Log = log, Database = database, Authority = authority };
        try
        {
            // All at once, on an empty database: one of them forms the cell, and the others join it.
            var nodes = await Task.WhenAll(Enumerable.Range(0, 3).Select(_ => CellSystem.StartAsync(options with { RemotingPort = FreePort.Next() }, CancellationToken.None)));
            try
            {
                await Eventually.TrueAsync(() => nodes.All(node => Akka.Cluster.Cluster.Get(node.ActorSystem).State.Members.Count == 3));

                // It has the database's password, and the certificate of another cell.
                using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(8));
                await Assert.ThrowsAnyAsync<Exception>(() => CellSystem.StartAsync(options with { RemotingPort = FreePort.Next(), Authority = foreign }, patience.Token));
                Assert.Contains(seen.Lines, line => line.Contains("certificate_unknown", StringComparison.Ordinal));
                Assert.All(nodes, node => Assert.Equal(3, Akka.Cluster.Cluster.Get(node.ActorSystem).State.Members.Count));
            }
            finally
            {
                foreach (var node in nodes)
                    await node.DisposeAsync();
            }

            // All are gone, one without a word: its port refuses, so nobody waits for it.
            var crashed = await CellSystem.StartAsync(options with { RemotingPort = FreePort.Next() }, CancellationToken.None);
            ((Akka.Actor.ExtendedActorSystem)crashed.ActorSystem).Abort();
            await crashed.ActorSystem.WhenTerminated;
            await using var next = await CellSystem.StartAsync(options with { RemotingPort = FreePort.Next() }, CancellationToken.None);
            await Eventually.TrueAsync(() => Akka.Cluster.Cluster.Get(next.ActorSystem).State.Members.Count == 1);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
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
