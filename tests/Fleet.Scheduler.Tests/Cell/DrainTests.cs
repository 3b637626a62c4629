using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>Hosts that are emptied: room elsewhere first, then the stop, and the launch there under the next epoch.</summary>
public sealed class DrainTests : IAsyncLifetime
{
    private static readonly TimeSpan Long = TimeSpan.FromHours(1);

    private TestCell _cell = null!;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync();

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    [Fact]
    public async Task Should_move_everything_and_leave_nothing_behind()
    {
        await using var old = await JoinAsync("old");
        var ids = await StartAsync(20);
        await using var other = await JoinAsync("other");
        var begun = (await DrainAsync("old", Long)).Host!;
        Assert.True(begun is { Cordoned: true, Drain: { Vms: 20, DoneAt: null } });
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("old")).Drain.DoneAt is not null);
        foreach (var id in ids)
        {
            var moved = await _cell.WaitAsync(id, VmState.Running);
            Assert.True(moved is { Host: "other", Epoch: 2, Move: null, Restarts: 0 }, $"{moved}");
        }

        Assert.All(old.Received.Where(message => message.Stop is not null), stop => Assert.Equal(3000U, stop.Stop.GraceMs));
        await Eventually.TrueAsync(() => old.VmCount == 0);
        var hosts = (await _cell.HostAsync("old"), await _cell.HostAsync("other"));
        Assert.Equal((0U, 0UL, 20U, 20U * 128UL), (hosts.Item1.Vms, hosts.Item1.ReservedMemoryMib, hosts.Item2.Vms, hosts.Item2.ReservedMemoryMib));
        Assert.Null((await _cell.Cell.CordonHostAsync("old", false, CancellationToken.None)).Host!.Drain);
    }

    [Fact]
    public async Task Should_leave_where_it_is_what_fits_nowhere_else_and_say_why_until_the_deadline()
    {
        await using var old = await JoinAsync("old");
        var ids = await StartAsync(3);
        await DrainAsync("old", Long);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("old")).Drain.Staying.Count == 3);
        var staying = (await _cell.HostAsync("old")).Drain.Staying;
        Assert.Equal(ids.Order(), staying.Select(one => one.VmId).Order());
        Assert.All(staying, one => Assert.Equal("no_hosts", one.Reason.Code));
        Assert.DoesNotContain(old.Received, message => message.Stop is not null);
        Assert.All(await Task.WhenAll(ids.Select(_cell.GetAsync)), vm => Assert.Equal(VmState.Running, vm.State));

        // The deadline is over: stopped without grace, and they wait for a host.
        await DrainAsync("old", TimeSpan.Zero);
        foreach (var id in ids)
            Assert.Equal("no_hosts", (await _cell.WaitAsync(id, VmState.Unplaced)).Reason.Code);
        Assert.All(old.Received.Where(message => message.Stop is not null), stop => Assert.Equal(0U, stop.Stop.GraceMs));
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("old")).Drain.DoneAt is not null);
        await using var other = await JoinAsync("other");
        foreach (var id in ids)
            Assert.True(await _cell.WaitAsync(id, VmState.Running) is { Host: "other", Epoch: 2, Arrived: { From: "old", WithMemory: false, Reason.Message: "The drain's deadline was over." } });
    }

    [Fact]
    public async Task Should_take_memory_along_where_the_host_can_be_fetched_from_and_the_processor_is_the_same()
    {
        await using var old = await JoinAsync("old", "10.0.0.1:7072", enrolments: 1);
        var ids = await StartAsync(12);
        await using var other = await JoinAsync("other", processor: "one", enrolments: 2);
        // What is fetched has not left: the drain is not over before it runs there.
        other.Swallow = message => message.Launch is not null;
        await DrainAsync("old", Long);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("old")).Vms == 4);
        Assert.Null((await _cell.HostAsync("old")).Drain.DoneAt);
        Assert.Equal((12, 8), (old.VmCount, old.Received.Where(message => message.Suspend is not null).Select(message => message.Suspend.VmId).Distinct().Count()));
        other.Swallow = null;
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("old")).Drain.DoneAt is not null);
        foreach (var id in ids)
            Assert.True(await _cell.WaitAsync(id, VmState.Running) is { Host: "other", Epoch: 2, Saved: null, Move: null, Arrived: { From: "old", WithMemory: true, Reason: null } });
        Assert.DoesNotContain(old.Received, message => message.Stop is not null);
        Assert.All(old.Received.Where(message => message.Suspend is not null), message => Assert.True(message.Suspend is { ForHost: "other", ForEnrolment: 2 }));
        Assert.All(other.Received.Where(message => message.Launch is not null), message => Assert.True(
            message.Launch is { SnapshotEpoch: 1, Ticket: { Host: "old", Address: "10.0.0.1:7072", Enrolment: 1 } ticket, Spec.Driver: "simulated" } && ticket.Digest.Equals(FakeAgent.Digest)));
        await Eventually.TrueAsync(() => old.VmCount == 0);
    }

    [Theory]
    [InlineData("", "Host old runs without --transfer.")]
    [InlineData("other processor", "Host other has another processor.")]
    [InlineData("can't be saved", "The disk is full.")]
    [InlineData("can't be fetched", "It does not answer.")]
    [InlineData("no time", "Less than the 32 s for its memory were left until the drain's deadline.")]
    public async Task Should_restart_elsewhere_what_can_not_take_its_memory_along_and_say_why(string why, string said)
    {
        await using var old = await JoinAsync("old", why.Length == 0 ? "" : "10.0.0.1:7072");
        var id = Assert.Single(await StartAsync(1));
        if (why == "can't be saved")
            old.SuspendFault = new Reason { Code = "snapshot_failed", Message = "The disk is full." };
        await using var other = await JoinAsync("other", processor: why == "other processor" ? "two" : "one");
        if (why == "can't be fetched")
        {
            other.Swallow = message =>
            {
                if (message.Launch is { Ticket: not null })
                    other.LaunchFault = new Reason { Code = "snapshot_unreachable", Message = "It does not answer." };
                else if (message.Launch is not null)
                    other.LaunchFault = null;
                return false;
            };
        }
        await DrainAsync("old", why == "no time" ? TimeSpan.FromSeconds(20) : Long);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("old")).Drain.DoneAt is not null);
        await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Host: "other" });
        Assert.True(other.Received.Last(message => message.Launch is not null).Launch is { SnapshotEpoch: 0, Ticket: null });
        var arrived = (await _cell.GetAsync(id)).Arrived;
        Assert.True(arrived is { From: "old", WithMemory: false } && arrived.Reason.Message.Contains(said, StringComparison.Ordinal), $"{arrived}");
        await Eventually.TrueAsync(() => old.VmCount == 0);
        Assert.Equal(1, other.VmCount);
    }

    /// <summary>Whatever a transfer is waiting for, and with no grace at all, the deadline is one.</summary>
    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public async Task Should_begin_anew_what_is_still_saved_or_fetched_at_the_deadline(bool saves)
    {
        await using var old = await JoinAsync("old", "10.0.0.1:7072");
        var id = Assert.Single(await StartAsync(1));
        await using var other = await JoinAsync("other");
        old.Swallow = message => saves && message.Suspend is not null;
        other.Swallow = message => message.Launch is { Ticket: not null };
        await _cell.Cell.DrainHostAsync("old", Long, TimeSpan.Zero, CancellationToken.None);
        await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Stopping or VmState.Starting, Reason: not null } or { Saved: not null }
            && (saves ? old : other).Received.Any(message => message.Suspend is not null || message.Launch is not null));
        await DrainAsync("old", TimeSpan.Zero);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("old")).Drain.DoneAt is not null);
        if (!saves)
        {
            await Eventually.TrueAsync(() => other.Received.Any(message => message.Stop is { VmId: var stopped } && stopped == id));
            other.Swallow = null;
            other.Send(new HostMessage { Report = new VmReport { VmId = id, Epoch = 2, Sequence = 9, State = HostVmState.Failed, NeverRan = true, Driver = "simulated", Reason = new Reason { Code = "snapshot_unreachable", Message = "It is gone." } } });
            await Eventually.TrueAsync(() => other.Received.Any(message => message.Remove is { VmId: var removed } && removed == id));
            other.Send(new HostMessage { Report = new VmReport { VmId = id, Epoch = 2, Sequence = 10, State = HostVmState.Removed, Driver = "simulated" } });
        }
        await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Host: "other" });
        Assert.True(other.Received.Last(message => message.Launch is not null).Launch is { SnapshotEpoch: 0, Ticket: null });
        await Eventually.TrueAsync(() => old.VmCount == 0);
    }

    [Fact]
    public async Task Should_go_on_after_a_restart_of_the_cell()
    {
        await using var old = await JoinAsync("old");
        var ids = await StartAsync(3);
        await using var other = await JoinAsync("other");
        // Nothing stops for now, so that the moves are under way.
        old.Swallow = message => message.Stop is not null;
        await DrainAsync("old", Long);
        foreach (var id in ids)
            await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Stopping, Move: { Host: "other", Epoch: 2 }, Reason.Code: "host_drains" });
        await old.CutAsync();
        await other.CutAsync();
        await _cell.CrashAndRestartAsync();
        old.Swallow = null;
        await other.ConnectAsync(_cell.System.HostLink);
        await old.ConnectAsync(_cell.System.HostLink);
        foreach (var id in ids)
            await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Host: "other", Epoch: 2 });
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("old")).Drain.DoneAt is not null);
        Assert.Equal(3U, (await _cell.HostAsync("other")).Vms);
    }

    /// <summary>A stop or a delete while it moves is the last word, and the room elsewhere is given back.</summary>
    [Fact]
    public async Task Should_not_run_on_elsewhere_what_is_stopped_deleted_or_comes_to_its_end_meanwhile()
    {
        await using var old = await JoinAsync("old");
        var ids = await StartAsync(3);
        await using var other = await JoinAsync("other");
        old.Swallow = message => message.Stop is not null;
        await DrainAsync("old", Long);
        foreach (var id in ids)
            await Eventually.TrueAsync(async () => (await _cell.GetAsync(id)).Move is not null);
        Assert.Equal(3U, (await _cell.HostAsync("other")).Vms);
        await _cell.Cell.StopVmAsync(ids[0], TimeSpan.FromSeconds(60), CancellationToken.None);
        await _cell.Cell.DeleteVmAsync(ids[1], CancellationToken.None);
        old.Report(ids[2], HostVmState.Ended, new Reason { Code = "command_exited", Message = "done" }, new GuestExit { Status = 0 });
        old.Swallow = null;
        Assert.Equal("stop_requested", (await _cell.WaitAsync(ids[0], VmState.Stopped)).Reason.Code);
        await _cell.WaitAsync(ids[1], VmState.Deleted);
        Assert.True(await _cell.WaitAsync(ids[2], VmState.Stopped) is { Reason.Code: "command_exited", Epoch: 1, Host: "old" });
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("other")).Vms == 0);
        Assert.Equal(0, other.VmCount);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("old")).Drain.DoneAt is not null);
    }

    private Task<HostAnswer> DrainAsync(string host, TimeSpan deadline) => _cell.Cell.DrainHostAsync(host, deadline, TimeSpan.FromSeconds(3), CancellationToken.None);

    private async Task<string[]> StartAsync(int count)
    {
        var ids = await Task.WhenAll(Enumerable.Range(0, count).Select(_ => _cell.CreateAsync()));
        foreach (var id in ids)
            await _cell.WaitAsync(id, VmState.Running);
        return ids;
    }

    private async Task<FakeAgent> JoinAsync(string name, string transfer = "", string processor = "one", byte enrolments = 0)
    {
        var agent = new FakeAgent(name) { Fenced = true };
        for (byte key = 1; key <= enrolments; key++)
            agent.Enrolment = (await _cell.Cell.EnrolHostAsync(name, [key], named: true, CancellationToken.None)).Host!.Enrolment;
        (agent.Inventory.TransferAddress, agent.Inventory.Processor) = (transfer, processor);
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }
}
