using System.Net;
using Akka.Actor;
using Fleet.Scheduler.Admin;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Logging;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Scheduler.Tests.Journal;
using Fleet.Tests;
using Microsoft.Extensions.Logging.Abstractions;
using Xunit;

namespace Fleet.Scheduler.Tests.Admin;

/// <summary>What the console says and does in a cell of three nodes: three actor systems in this process, which share a database.</summary>
[Collection(PostgresCollection.Name)]
public sealed class ThreeNodeTests(SharedPostgres postgres)
{
    [Fact]
    [Trait("Kind", "Slow")]
    public async Task Should_show_three_members_take_one_out_in_order_and_declare_a_dead_one_down()
    {
        var folder = Path.Combine(Path.GetTempPath(), $"fleet-cell-{Guid.NewGuid():n}");
        var options = TestCell.Options(folder) with { ExtraHocon = "", Database = await postgres.NewDatabaseAsync() };
        await using var first = await CellSystem.StartAsync(options with { RemotingPort = FreePort.Next() }, CancellationToken.None);
        await using var second = await CellSystem.StartAsync(options with { RemotingPort = FreePort.Next() }, CancellationToken.None);
        await using var third = await CellSystem.StartAsync(options with { RemotingPort = FreePort.Next() }, CancellationToken.None);
        var nodes = new[] { first, second, third };
        var addresses = nodes.Select(node => Akka.Cluster.Cluster.Get(node.ActorSystem).SelfAddress.ToString()).ToArray();
        var consoles = nodes.Select(node => ConsoleOf(node, options)).ToArray();

        for (var i = 0; i < nodes.Length; i++)
        {
            var self = addresses[i];
            await Eventually.TrueAsync(async () => (await RowsAsync(consoles[i], "cluster", "show")).Count(row => (string)row["status"]! == "up") == 3);
            var members = await RowsAsync(consoles[i], "cluster", "show");
            Assert.Equal(addresses.Order(), members.Select(row => (string)row["address"]!).Order());
            Assert.Contains("self", ((string)members.Single(row => (string)row["address"]! == self)["is"]!).Split(','));
            // The first one that was there is the oldest, whoever is asked, and is listed first.
            Assert.Equal(addresses[0], (string)members[0]["address"]!);
            Assert.Equal(addresses[0], (string)members.Single(row => ((string)row["is"]!).Split(',').Contains("oldest"))["address"]!);
        }

        // Two actors that live somewhere: all nodes count the same, over all nodes.
        await first.Cell.CreateVmAsync(TestCell.NewVmId(), TestCell.Spec(), CancellationToken.None);
        await first.Cell.CreateVmAsync(TestCell.NewVmId(), TestCell.Spec(), CancellationToken.None);
        foreach (var console in consoles)
        {
            await Eventually.TrueAsync(async () =>
                await RowsAsync(console, "cluster-sharding", "region-stats", "vm") is { Count: 3 } rows && rows.Sum(row => (long)row["entities"]!) == 2);
            var stats = await RowsAsync(console, "cluster-sharding", "region-stats", "vm");
            Assert.Equal(3, stats.Count);
            Assert.Equal(addresses[0], (string)stats.Single(row => (bool)row["coordinator"]!)["node"]!);
        }

        Assert.Contains($"{addresses[1]} was told to leave", await TextAsync(consoles[0], "cluster", "leave", addresses[1], "--yes"), StringComparison.Ordinal);
        await second.ActorSystem.WhenTerminated.WaitAsync(Eventually.Bound);
        // Not a node that lost its cell.
        Assert.True(second.HasLeft);
        await Eventually.TrueAsync(async () => (await RowsAsync(consoles[0], "cluster", "show")).Count == 2);

        ((ExtendedActorSystem)third.ActorSystem).Abort();
        await Eventually.TrueAsync(async () => (await RowsAsync(consoles[0], "cluster", "show")).Any(row => !(bool)row["reachable"]!));
        var hostAndPort = addresses[2][(addresses[2].IndexOf('@', StringComparison.Ordinal) + 1)..];
        Assert.Contains($"{addresses[2]} (up, unreachable) is declared down", await TextAsync(consoles[0], "cluster", "down", hostAndPort, "--yes"), StringComparison.Ordinal);
        await Eventually.TrueAsync(async () => (await RowsAsync(consoles[0], "cluster", "show")).Count == 1);
        Assert.False(third.HasLeft);

        await first.DisposeAsync();
    }

    // The palettes used here touch nothing of a node but its actors.
    private static AdminConsole ConsoleOf(CellSystem cell, CellOptions options) => new(
        new AdminContext
        {
            Actors = cell.ActorSystem,
            Placement = ActorRefs.Nobody,
            Api = null!,
            Events = null!,
            Options = options,
            Log = new NodeLog(),
            StartedAt = default,
            LinkEndpoint = new(IPAddress.Loopback, 0),
        },
        NullLogger.Instance);

    private static async Task<List<CommandFrame>> RunAsync(AdminConsole console, bool forPrograms, string[] words)
    {
        var frames = new List<CommandFrame>();
        var output = new CommandOutput(
            frame =>
            {
                frames.Add(frame);
                return ValueTask.CompletedTask;
            },
            forPrograms);
        await console.RunAsync(console.Parse(words), "test", output, CancellationToken.None);
        return frames;
    }

    private static async Task<IReadOnlyList<System.Text.Json.Nodes.JsonObject>> RowsAsync(AdminConsole console, params string[] words) =>
        [.. (await RunAsync(console, true, words)).Where(frame => frame.Row is not null).Select(frame => frame.Row!)];

    private static async Task<string> TextAsync(AdminConsole console, params string[] words) =>
        string.Join('\n', (await RunAsync(console, false, words)).Select(frame => frame.Text));

}
