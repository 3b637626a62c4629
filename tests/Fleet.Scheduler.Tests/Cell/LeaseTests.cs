using System.Diagnostics;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>Hosts that fall silent: given up when their lease has run out and not before, and told the truth when they return.</summary>
public sealed class LeaseTests : IAsyncLifetime
{
    private static readonly LeaseTerms Terms = new(TimeSpan.FromSeconds(1), TimeSpan.FromSeconds(30), TimeSpan.FromMilliseconds(600));

    private TestCell _cell = null!;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync(options => options with { Lease = Terms });

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    [Fact]
    public async Task Should_grant_a_lease_with_welcome_and_with_each_heartbeat_and_to_fenced_hosts_only()
    {
        await using var fenced = await JoinAsync("fenced");
        await using var free = new FakeAgent("free");
        await free.ConnectAsync(_cell.System.HostLink);
        var expected = new Lease { Sequence = 0, LifetimeMs = 1000, EndsAfterMs = 30_000 };
        Assert.Equal(expected, fenced.Received.First().Welcome.Lease);
        await Eventually.TrueAsync(() => fenced.Received.Count(message => message.Lease is { Sequence: > 0, LifetimeMs: 1000, EndsAfterMs: 30_000 }) >= 3);
        await Eventually.TrueAsync(() => free.Received.Count(message => message.Heartbeat is not null) >= 3);
        Assert.DoesNotContain(free.Received, message => message.Lease is not null || message.Welcome?.Lease is not null);
    }

    [Fact]
    public async Task Should_place_again_what_a_lost_host_carried_and_not_before_its_lease_is_over()
    {
        await using var first = await JoinAsync("first");
        var ids = await Task.WhenAll(Enumerable.Range(0, 5).Select(_ => _cell.CreateAsync()));
        foreach (var id in ids)
            await _cell.WaitAsync(id, VmState.Running);
        await using var second = await JoinAsync("second");
        first.Beats = false;
        var cut = Stopwatch.StartNew();
        await first.CutAsync();
        foreach (var id in ids)
            await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Host: "second", Epoch: 2 });
        // Its last heartbeat was answered up to a beat before the cut.
        Assert.InRange(cut.Elapsed, Terms.Lifetime + Terms.Margin - (2 * first.Heartbeat), TimeSpan.FromSeconds(15));
        await Eventually.TrueAsync(async () => await _cell.HostAsync("first") is { State: HostState.Lost, Vms: 0, ReservedMemoryMib: 0 });

        // It comes back with what it had, and hears that none of it may stay.
        await first.ConnectAsync(_cell.System.HostLink);
        Assert.Equal(ids.Order(), first.Received.Last(message => message.Welcome is not null).Welcome.Unknown.Select(unknown => unknown.VmId).Order());
        first.Beats = true;
        await Eventually.TrueAsync(() => first.VmCount == 0);
        Assert.Equal(5, second.VmCount);
    }

    [Fact]
    public async Task Should_keep_everything_when_the_host_is_back_in_time()
    {
        await using var agent = await JoinAsync("back");
        var id = await _cell.CreateAsync();
        await _cell.WaitAsync(id, VmState.Running);
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("back")).State == HostState.Disconnected);
        await agent.ConnectAsync(_cell.System.HostLink);
        var since = Stopwatch.StartNew();
        await Eventually.TrueAsync(() => since.Elapsed > (Terms.Lifetime + Terms.Margin) * 2);
        Assert.True(await _cell.GetAsync(id) is { State: VmState.Running, Epoch: 1 });
        Assert.Equal(1, agent.VmCount);
    }

    /// <summary>An agent on an emptied state directory, on another machine, or after a restart knows nothing of what may run on by the former lease.</summary>
    [Theory]
    [InlineData("state-2", "boot-1")]
    [InlineData("state-1", "boot-2")]
    public async Task Should_not_take_the_word_of_another_agent_for_the_end_of_what_runs_before_its_lease_is_over(string state, string boot)
    {
        await using var first = await JoinAsync("box");
        var id = await _cell.CreateAsync();
        await _cell.WaitAsync(id, VmState.Running);
        var since = Stopwatch.StartNew();
        await using var other = new FakeAgent("box") { Fenced = true, Of = (state, boot) };
        other.Open(_cell.System.HostLink);
        other.Send(new HostMessage { Hello = other.Hello() });
        await Eventually.TrueAsync(() => other.Refusal?.Code == "host_not_over");
        // The one before is heard on, and as long as it is, no other takes its place.
        Assert.True(first.IsOpen);
        Assert.True(await _cell.GetAsync(id) is { State: VmState.Running, Epoch: 1 });

        await first.CutAsync();
        since.Restart();
        await Eventually.TrueAsync(async () =>
        {
            if (other.IsOver)
            {
                other.Open(_cell.System.HostLink);
                other.Send(new HostMessage { Hello = other.Hello() });
            }
            return await _cell.GetAsync(id) is { State: VmState.Running, Epoch: 2 };
        });
        Assert.True(since.Elapsed > Terms.Lifetime + Terms.Margin - (2 * first.Heartbeat), $"it ran again after {since.Elapsed}");
    }

    /// <summary>A stream that stays open says nothing about the lease.</summary>
    [Fact]
    public async Task Should_give_up_a_host_whose_stream_is_open_but_does_not_beat()
    {
        await using var silent = await JoinAsync("silent");
        var id = await _cell.CreateAsync();
        await _cell.WaitAsync(id, VmState.Running);
        await using var other = await JoinAsync("other");
        silent.Beats = false;
        await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Host: "other", Epoch: 2 });
        Assert.False(silent.IsOpen);
    }

    /// <summary>A control plane that was stopped and goes on finds every lease over at once, before it has read what hosts sent meanwhile.</summary>
    [Fact]
    public async Task Should_not_hold_against_hosts_that_the_control_plane_stood_still()
    {
        var clock = new JumpingClock();
        await using var cell = await TestCell.StartAsync(options => options with { Lease = new LeaseTerms(TimeSpan.FromSeconds(4), TimeSpan.FromSeconds(30), TimeSpan.FromSeconds(1)), Clock = clock });
        await using var agent = new FakeAgent("alive") { Fenced = true };
        await agent.ConnectAsync(cell.System.HostLink);
        var id = await cell.CreateAsync();
        await cell.WaitAsync(id, VmState.Running);
        clock.Jump(TimeSpan.FromSeconds(30));
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => (await cell.HostAsync("alive")).State != HostState.Connected);

        await agent.ConnectAsync(cell.System.HostLink);
        await Eventually.TrueAsync(async () => (await cell.HostAsync("alive")).State == HostState.Connected);
        Assert.True(await cell.GetAsync(id) is { State: VmState.Running, Epoch: 1 });
    }

    [Fact]
    public async Task Should_never_give_up_a_host_that_is_not_fenced()
    {
        await using var agent = new FakeAgent("free");
        await agent.ConnectAsync(_cell.System.HostLink);
        var id = await _cell.CreateAsync();
        await _cell.WaitAsync(id, VmState.Running);
        await using var other = await JoinAsync("other");
        await agent.CutAsync();
        var since = Stopwatch.StartNew();
        await Eventually.TrueAsync(() => since.Elapsed > (Terms.Lifetime + Terms.Margin) * 2);
        Assert.Equal(HostState.Disconnected, (await _cell.HostAsync("free")).State);
        Assert.True(await _cell.GetAsync(id) is { State: VmState.Running, Host: "free", Epoch: 1 });
    }

    [Fact]
    public async Task Should_end_a_stop_and_a_delete_that_wait_for_a_host_that_is_lost()
    {
        await using var agent = await JoinAsync("gone");
        var stopped = await _cell.CreateAsync();
        var deleted = await _cell.CreateAsync();
        await _cell.WaitAsync(stopped, VmState.Running);
        await _cell.WaitAsync(deleted, VmState.Running);
        await agent.CutAsync();
        await _cell.Cell.StopVmAsync(stopped, TimeSpan.Zero, CancellationToken.None);
        await _cell.Cell.DeleteVmAsync(deleted, CancellationToken.None);
        Assert.Equal("stop_requested", (await _cell.WaitAsync(stopped, VmState.Stopped)).Reason.Code);
        await _cell.WaitAsync(deleted, VmState.Deleted);
        await Eventually.TrueAsync(async () => await _cell.HostAsync("gone") is { State: HostState.Lost });
    }

    /// <summary>Nobody has to delete anything by hand; but nothing is placed elsewhere before its lease is over, whoever wants the host gone.</summary>
    [Fact]
    public async Task Should_remove_a_dead_host_when_its_lease_is_over_and_not_before_even_by_force()
    {
        await using var dead = await JoinAsync("dead");
        var ids = await Task.WhenAll(Enumerable.Range(0, 30).Select(_ => _cell.CreateAsync(TestCell.Spec(memoryMib: 32))));
        foreach (var id in ids)
            await _cell.WaitAsync(id, VmState.Running);
        await using var other = await JoinAsync("other");
        await dead.CutAsync();
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("dead")).State != HostState.Connected);
        var early = (await _cell.Cell.RemoveHostAsync("dead", true, CancellationToken.None)).Problem;
        Assert.Equal("host_in_use", early?.Code);
        Assert.Contains("Its lease is over in ", early!.Message, StringComparison.Ordinal);
        await Eventually.TrueAsync(async () => (await _cell.Cell.RemoveHostAsync("dead", false, CancellationToken.None)).Problem is null);
        foreach (var id in ids)
            Assert.NotEqual("dead", (await _cell.GetAsync(id)).Host);
        foreach (var id in ids)
            await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Host: "other", Epoch: 2 });

        // If it lives after all and joins anew, it hears that nothing of it may stay.
        await dead.EnrolAsync(_cell.Cell);
        await dead.ConnectAsync(_cell.System.HostLink);
        Assert.Equal(ids.Length, dead.Received.Last(message => message.Welcome is not null).Welcome.Unknown.Count);
    }

    [Fact]
    public async Task Should_take_the_operators_word_for_a_host_without_a_lease_after_as_long_a_silence()
    {
        await using var free = new FakeAgent("free");
        await free.ConnectAsync(_cell.System.HostLink);
        var id = await _cell.CreateAsync();
        await _cell.WaitAsync(id, VmState.Running);
        await using var other = await JoinAsync("other");
        Assert.Equal("host_connected", (await _cell.Cell.RemoveHostAsync("free", true, CancellationToken.None)).Problem?.Code);
        await free.CutAsync();
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("free")).State != HostState.Connected);
        Assert.Contains("remove it by force", (await _cell.Cell.RemoveHostAsync("free", false, CancellationToken.None)).Problem!.Message, StringComparison.Ordinal);
        Assert.Contains("heard of a moment ago", (await _cell.Cell.RemoveHostAsync("free", true, CancellationToken.None)).Problem!.Message, StringComparison.Ordinal);
        await Eventually.TrueAsync(async () => (await _cell.Cell.RemoveHostAsync("free", true, CancellationToken.None)).Problem is null);
        await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Host: "other", Epoch: 2 });
    }

    /// <summary>The actor before may have granted a lease until it died.</summary>
    [Fact]
    public async Task Should_wait_a_whole_lease_after_a_restart_and_then_give_up_the_host()
    {
        await using var agent = await JoinAsync("crash");
        var id = await _cell.CreateAsync();
        await _cell.WaitAsync(id, VmState.Running);
        await agent.CutAsync();
        await _cell.CrashAndRestartAsync(change: options => options with { Lease = Terms });
        var since = Stopwatch.StartNew();
        await using var other = await JoinAsync("other");
        await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Host: "other", Epoch: 2 });
        Assert.True(since.Elapsed > Terms.Lifetime, $"given up after {since.Elapsed}");
    }

    /// <summary>Killed between giving up a host and telling its microVMs.</summary>
    [Fact]
    public async Task Should_go_on_handing_back_after_a_restart()
    {
        await using var agent = await JoinAsync("lost");
        var ids = await Task.WhenAll(Enumerable.Range(0, 3).Select(_ => _cell.CreateAsync()));
        foreach (var id in ids)
            await _cell.WaitAsync(id, VmState.Running);
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("lost")).State == HostState.Lost);
        await _cell.CrashAndRestartAsync(change: options => options with { Lease = Terms });
        await using var other = await JoinAsync("other");
        foreach (var id in ids)
            await Eventually.TrueAsync(async () => await _cell.GetAsync(id) is { State: VmState.Running, Host: "other", Epoch: 2 });
    }

    private async Task<FakeAgent> JoinAsync(string name)
    {
        var agent = new FakeAgent(name) { Fenced = true };
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }
}
