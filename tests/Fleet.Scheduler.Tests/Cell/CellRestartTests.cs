using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Journal;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>Kills in the middle: what was acknowledged is there afterwards, and what was under way comes to its end.</summary>
public sealed class CellRestartTests
{
    [Fact]
    public async Task Should_have_the_same_records_after_a_kill_and_touch_no_running_microVM()
    {
        await using var cell = await TestCell.StartAsync();
        await using var agent = new FakeAgent("rack1-7");
        await agent.ConnectAsync(cell.System.HostLink);
        var running = await cell.CreateAsync(TestCell.Spec("running"));
        var stopped = await cell.CreateAsync(TestCell.Spec("stopped"));
        var deleted = await cell.CreateAsync(TestCell.Spec("deleted"));
        var full = await cell.CreateAsync(TestCell.Spec("full", memoryMib: 1_000_000));
        foreach (var id in new[] { running, stopped, deleted })
            await cell.WaitAsync(id, VmState.Running);
        agent.Report(stopped, HostVmState.Ended, new Reason { Code = "command_exited" }, new GuestExit { Status = 3 });
        await cell.WaitAsync(stopped, VmState.Stopped);
        await cell.Cell.DeleteVmAsync(deleted, CancellationToken.None);
        await cell.WaitAsync(deleted, VmState.Deleted);
        await cell.WaitAsync(full, VmState.Unplaced);
        var before = await Task.WhenAll(new[] { running, stopped }.Select(cell.GetAsync));

        await cell.CrashAndRestartAsync();
        Assert.Equal(before, await Task.WhenAll(new[] { running, stopped }.Select(cell.GetAsync)));
        Assert.Equal(VmState.Unplaced, (await cell.GetAsync(full)).State);
        Assert.Equal("not_found", (await cell.Cell.GetVmAsync(deleted, CancellationToken.None)).Problem?.Code);
        var host = await cell.HostAsync("rack1-7");
        Assert.Equal((1U, 128UL, HostState.Disconnected), (host.Vms, host.ReservedMemoryMib, host.State));

        await agent.EndedAsync();
        await agent.ConnectAsync(cell.System.HostLink);
        await Eventually.TrueAsync(() => agent.Received.Count(message => message.ReportAck?.VmId == running) >= 2);
        Assert.Equal(before, await Task.WhenAll(new[] { running, stopped }.Select(cell.GetAsync)));
        Assert.Equal(1, agent.Find(running)!.Starts);
        await cell.Cell.StopVmAsync(running, TimeSpan.Zero, CancellationToken.None);
        await cell.WaitAsync(running, VmState.Stopped);
    }

    [Theory]
    [InlineData("launch")]
    [InlineData("running")]
    [InlineData("stop")]
    [InlineData("remove")]
    public async Task Should_finish_after_a_kill_what_was_under_way(string step)
    {
        await using var cell = await TestCell.StartAsync();
        await using var agent = new FakeAgent("rack1-7");
        await agent.ConnectAsync(cell.System.HostLink);
        if (step == "launch")
            agent.Swallow = message => message.Launch is not null;
        if (step == "running")
            agent.Swallow = message => message.ReportAck is not null;
        var id = await cell.CreateAsync();
        await cell.WaitAsync(id, step == "launch" ? VmState.Starting : VmState.Running);
        var then = VmState.Running;
        if (step is "stop" or "remove")
        {
            agent.Swallow = message => message.Stop is not null || message.Remove is not null;
            then = step == "stop" ? VmState.Stopped : VmState.Deleted;
            if (step == "stop")
                await cell.Cell.StopVmAsync(id, TimeSpan.Zero, CancellationToken.None);
            else
                await cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        }

        await cell.CrashAndRestartAsync();
        agent.Swallow = null;
        await agent.EndedAsync();
        await agent.ConnectAsync(cell.System.HostLink);
        await cell.WaitAsync(id, then);
        if (step is "launch" or "running")
            Assert.Equal(1, agent.Find(id)!.Starts);
        else
            await Eventually.TrueAsync(async () => (await cell.HostAsync("rack1-7")).Vms == 0);
    }

    [Fact]
    public async Task Should_keep_every_acknowledged_microVM_through_kills_at_any_moment()
    {
        await using var cell = await TestCell.StartAsync();
        var acknowledged = new List<string>();
        for (var round = 0; round < 3; round++)
        {
            await using var agent = new FakeAgent("rack1-7") { Inventory = FakeAgent.Simulated(4096, 1 << 20) };
            await agent.ConnectAsync(cell.System.HostLink);
            using var enough = new CancellationTokenSource();
            var creating = Enumerable.Range(0, 4).Select(_ => CreateUntilAsync(cell.Cell, acknowledged, enough.Token)).ToList();
            var target = acknowledged.Count + 20 * (round + 1);
            await Eventually.TrueAsync(() => Count(acknowledged) >= target);
            await cell.CrashAsync();
            await enough.CancelAsync();
            await Task.WhenAll(creating);
            await cell.CrashAndRestartAsync(alreadyDown: true);
        }
        foreach (var id in acknowledged)
            Assert.Equal(id, (await cell.GetAsync(id)).Id);
    }

    private static int Count(List<string> acknowledged)
    {
        lock (acknowledged)
            return acknowledged.Count;
    }

    private static async Task CreateUntilAsync(ICell cell, List<string> acknowledged, CancellationToken enough)
    {
        while (!enough.IsCancellationRequested)
        {
            var id = TestCell.NewVmId();
            try
            {
                var answer = await cell.CreateVmAsync(id, TestCell.Spec(), enough);
                if (answer.Problem is null)
                {
                    lock (acknowledged)
                        acknowledged.Add(id);
                }
            }
            catch (OperationCanceledException) when (enough.IsCancellationRequested)
            {
                return;
            }
        }
    }

    [Fact]
    public async Task Should_let_microVMs_at_rest_leave_the_memory_and_wake_them_when_something_comes()
    {
        static CellOptions Restless(CellOptions options) => options with { RestAfter = TimeSpan.FromMilliseconds(200) };
        await using var cell = await TestCell.StartAsync(Restless);
        await using var agent = new FakeAgent("rack1-7");
        await agent.ConnectAsync(cell.System.HostLink);
        var running = await cell.CreateAsync();
        var waiting = await cell.CreateAsync(TestCell.Spec(memoryMib: 1_000_000));
        await cell.WaitAsync(running, VmState.Running);
        await cell.WaitAsync(waiting, VmState.Unplaced);
        await Eventually.TrueAsync(async () => await AwakeAsync(cell) == 1);

        // Not remembered, so not woken by the start; its host's Hello finds it all the same.
        await cell.CrashAndRestartAsync(change: Restless);
        await Eventually.TrueAsync(async () => await AwakeAsync(cell) == 1);
        await agent.EndedAsync();
        agent.Forget(running);
        await agent.ConnectAsync(cell.System.HostLink);
        Assert.Equal("vmm_killed", (await cell.WaitAsync(running, VmState.Failed)).Reason.Code);
        await Eventually.TrueAsync(async () => await AwakeAsync(cell) == 1);
        await cell.Cell.DeleteVmAsync(running, CancellationToken.None);
        await cell.WaitAsync(running, VmState.Deleted);
        Assert.Equal(VmState.Unplaced, (await cell.GetAsync(waiting)).State);
    }

    private static async Task<int> AwakeAsync(TestCell cell)
    {
        var stats = await Akka.Actor.Futures.Ask<Akka.Cluster.Sharding.ShardRegionStats>(
            Akka.Cluster.Sharding.ClusterSharding.Get(cell.System.ActorSystem).ShardRegion(ShardRegions.Vms),
            Akka.Cluster.Sharding.GetShardRegionStats.Instance,
            Eventually.Bound);
        return stats.Stats.Values.Sum();
    }

    [Fact]
    public async Task Should_take_up_a_host_from_its_snapshot()
    {
        await using var cell = await TestCell.StartAsync(options => options with { HostSnapshotEvery = 5 });
        await using var agent = new FakeAgent("rack1-7");
        await agent.ConnectAsync(cell.System.HostLink);
        var ids = new List<string>();
        for (var i = 0; i < 9; i++)
            ids.Add(await cell.CreateAsync());
        foreach (var id in ids)
            await cell.WaitAsync(id, VmState.Running);
        await cell.Cell.DeleteVmAsync(ids[0], CancellationToken.None);
        await cell.WaitAsync(ids[0], VmState.Deleted);
        var before = await cell.HostAsync("rack1-7");
        Assert.Equal(8U, before.Vms);
        await cell.CrashAndRestartAsync();
        var after = await cell.HostAsync("rack1-7");
        Assert.Equal((before.Vms, before.ReservedMemoryMib, before.Version + 1), (after.Vms, after.ReservedMemoryMib, after.Version));
    }

    [Fact]
    public async Task Should_refuse_settings_and_folders_that_can_not_work()
    {
        var folder = Path.Combine(Path.GetTempPath(), $"fleet-cell-{Guid.NewGuid():n}");
        var options = TestCell.Options(folder);
        await Assert.ThrowsAsync<CellStartException>(() => CellSystem.StartAsync(options with { HostDeadAfter = options.Heartbeat }, CancellationToken.None));
        await Assert.ThrowsAsync<CellStartException>(() => CellSystem.StartAsync(options with { Database = PostgresDatabase.Parse("postgresql://db/fleet") }, CancellationToken.None));
        Directory.CreateDirectory(folder);
        await File.WriteAllTextAsync(Path.Combine(folder, "journal.db"), "This is no database, but long enough to be looked at as one.");
        var fault = await Assert.ThrowsAsync<CellStartException>(() => CellSystem.StartAsync(options, CancellationToken.None));
        Assert.Contains("journal.db", fault.Message, StringComparison.Ordinal);
        Directory.Delete(folder, recursive: true);
    }

    [Fact]
    public async Task Should_ask_under_names_that_the_start_before_did_not_use()
    {
        await using var cell = await TestCell.StartAsync();
        var before = NextNames(cell);
        await cell.CrashAndRestartAsync();
        Assert.Empty(before.Intersect(NextNames(cell)));
    }

    private static List<string> NextNames(TestCell cell) =>
        [.. Enumerable.Range(0, 10_000).Select(_ => ((Akka.Actor.ExtendedActorSystem)cell.System.ActorSystem).Provider.TempPath().Name)];
}
