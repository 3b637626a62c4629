using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>microVMs that are suspended: they give their capacity back, and are admitted again when they go on.</summary>
public sealed class SuspendTests : IAsyncLifetime
{
    private static readonly LeaseTerms Terms = new(TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(30), TimeSpan.FromMilliseconds(600));

    private TestCell _cell = null!;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync(options => options with { Lease = Terms });

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    [Fact]
    public async Task Should_give_its_room_to_others_and_wait_for_room_with_a_reason_when_it_is_resumed()
    {
        await using var agent = await JoinAsync("only");
        var id = await RunAsync(TestCell.Spec(cpus: 8, memoryMib: 16_384));
        await SuspendAsync(id);
        Assert.True(await _cell.HostAsync("only") is { Vms: 0, ReservedCpus: 0, ReservedMemoryMib: 0 });
        var other = await RunAsync(TestCell.Spec(cpus: 8, memoryMib: 16_384));

        Assert.Null((await _cell.Cell.ResumeVmAsync(id, default)).Problem);
        Assert.Equal("no_capacity", (await _cell.WaitAsync(id, VmState.Unplaced)).Reason.Code);
        Assert.Equal(HostVmState.Suspended, agent.Find(id)!.State);
        await _cell.Cell.DeleteVmAsync(other, default);
        Assert.True(await _cell.WaitAsync(id, VmState.Running) is { Host: "only", Epoch: 2, Saved: null });
        Assert.Equal(1UL, agent.Received.Last(message => message.Launch?.VmId == id).Launch.SnapshotEpoch);
        Assert.True(await _cell.HostAsync("only") is { Vms: 1, ReservedCpus: 8 });
        // Of the epoch before nothing is left in the ledger.
        await Eventually.TrueAsync(async () => (await _cell.Cell.GetLedgerAsync("only", 10, default)).Ledger!.Entries is [{ Epoch: 2 }]);
        Assert.Equal(1, agent.Find(id)!.Starts);
    }

    /// <summary>What it is saved in is on the disk, whoever wants that; and it goes on with what it has there.</summary>
    [Fact]
    public async Task Should_promise_nobody_the_disk_that_it_is_saved_in()
    {
        await using var agent = new FakeAgent("only") { Fenced = true };
        agent.Inventory.DiskMib = 1000;
        await agent.ConnectAsync(_cell.System.HostLink);
        var saved = TestCell.Spec(memoryMib: 600);
        saved.DiskMib = 500;
        var id = await RunAsync(saved);
        await SuspendAsync(id);
        Assert.Equal(600UL, (await _cell.HostAsync("only")).Usage.SavedMib);
        var other = TestCell.Spec("other");
        other.DiskMib = 401;
        var waits = await _cell.WaitAsync(await _cell.CreateAsync(other), VmState.Unplaced);
        Assert.EndsWith("1 host short of disk (wanted 401 MiB, most free 400 MiB).", waits.Reason.Message, StringComparison.Ordinal);
        await agent.CutAsync();
        await _cell.CrashAndRestartAsync(change: options => options with { Lease = Terms });
        await agent.ConnectAsync(_cell.System.HostLink);
        Assert.Equal(600UL, (await _cell.HostAsync("only")).Usage.SavedMib);

        // Less than it wants is free, but it has that already.
        await _cell.Cell.ResumeVmAsync(id, default);
        await _cell.WaitAsync(id, VmState.Running);
        await Eventually.TrueAsync(async () => await _cell.HostAsync("only") is { Usage.SavedMib: 0, ReservedOther.DiskMib: 901 });
    }

    [Fact]
    public async Task Should_go_on_after_restarts_of_the_cell_at_every_step()
    {
        await using var agent = await JoinAsync("only");
        var id = await RunAsync();
        agent.Swallow = message => message.Suspend is not null;
        await _cell.Cell.SuspendVmAsync(id, default);
        Assert.Equal(VmState.Suspending, (await _cell.GetAsync(id)).State);
        await RestartAsync(agent);
        agent.Swallow = message => message.Launch is not null;
        await _cell.WaitAsync(id, VmState.Suspended);
        await RestartAsync(agent);
        Assert.Equal(VmState.Suspended, (await _cell.GetAsync(id)).State);
        // Asked about, and kept.
        await Task.WhenAll(Enumerable.Range(0, 3).Select(_ => _cell.HostAsync("only")));
        Assert.Equal(HostVmState.Suspended, agent.Find(id)!.State);
        await _cell.Cell.ResumeVmAsync(id, default);
        await _cell.WaitAsync(id, VmState.Starting);
        await RestartAsync(agent);
        agent.Swallow = null;
        Assert.True(await _cell.WaitAsync(id, VmState.Running) is { Host: "only", Epoch: 2 });
        Assert.Equal(1UL, agent.Received.Last(message => message.Launch?.VmId == id).Launch.SnapshotEpoch);
    }

    [Fact]
    public async Task Should_leave_nothing_of_one_that_is_deleted_or_stopped_while_it_is_suspended()
    {
        await using var agent = await JoinAsync("only");
        var (deleted, stopped) = (await RunAsync(), await RunAsync());
        await SuspendAsync(deleted);
        await SuspendAsync(stopped);
        await _cell.Cell.DeleteVmAsync(deleted, default);
        await _cell.WaitAsync(deleted, VmState.Deleted);
        await Eventually.TrueAsync(() => agent.Find(deleted) is null);
        await _cell.Cell.StopVmAsync(stopped, TimeSpan.Zero, default);
        Assert.Equal("stop_requested", (await _cell.WaitAsync(stopped, VmState.Stopped)).Reason.Code);
        Assert.Equal(HostVmState.Ended, agent.Find(stopped)!.State);
    }

    [Fact]
    public async Task Should_run_on_when_its_host_can_not_save_it()
    {
        await using var agent = await JoinAsync("only");
        agent.SuspendFault = new Reason { Code = "snapshot_failed", Message = "The disk is full." };
        var id = await RunAsync();
        await _cell.Cell.SuspendVmAsync(id, default);
        await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Reason.Message: "The disk is full.", Suspends: 1 });
        Assert.True(await _cell.HostAsync("only") is { Vms: 1 });
        agent.SuspendFault = null;
        await SuspendAsync(id);
    }

    [Fact]
    public async Task Should_tell_when_its_host_is_lost_and_begin_anew_by_its_restart_policy()
    {
        await using var lost = await JoinAsync("lost");
        var always = TestCell.Spec();
        always.Restart = "always";
        var (one, other) = (await RunAsync(), await RunAsync(always));
        await SuspendAsync(one);
        await SuspendAsync(other);
        await using var second = await JoinAsync("second");
        lost.Beats = false;
        await lost.CutAsync();
        Assert.Equal("host_lost", (await _cell.WaitAsync(one, VmState.Failed)).Reason.Code);
        await Eventually.TrueAsync(async () => await _cell.GetAsync(other) is { State: VmState.Running, Host: "second", Epoch: 2 });
        Assert.Equal(0UL, second.Received.Last(message => message.Launch?.VmId == other).Launch.SnapshotEpoch);
        // It comes back, and what it had saved may not stay.
        lost.Beats = true;
        await lost.ConnectAsync(_cell.System.HostLink);
        await Eventually.TrueAsync(() => lost.VmCount == 0);
    }

    private async Task<string> RunAsync(VmSpec? spec = null)
    {
        var id = await _cell.CreateAsync(spec);
        await _cell.WaitAsync(id, VmState.Running);
        return id;
    }

    private async Task SuspendAsync(string id)
    {
        Assert.Null((await _cell.Cell.SuspendVmAsync(id, default)).Problem);
        await _cell.WaitAsync(id, VmState.Suspended);
    }

    private async Task RestartAsync(FakeAgent agent)
    {
        await agent.CutAsync();
        await _cell.CrashAndRestartAsync(change: options => options with { Lease = Terms });
        await agent.ConnectAsync(_cell.System.HostLink);
    }

    private async Task<FakeAgent> JoinAsync(string name)
    {
        var agent = new FakeAgent(name) { Fenced = true };
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }
}
