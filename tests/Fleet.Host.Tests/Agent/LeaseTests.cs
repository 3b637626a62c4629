using Fleet.Host.Agent;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Processes;
using Fleet.Host.Fencing;
using Fleet.Host.Link;
using Fleet.Host.Tests.Link;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>The host's lease on its way from the control plane to every VMM.</summary>
public sealed class LeaseTests : AgentTest
{
    private const uint Lifetime = 20_000;
    private const uint EndsAfter = 60_000;

    private readonly ScriptedDriver _driver = new();

    [Fact]
    public async Task Should_launch_with_the_lease_of_welcome_and_pass_on_those_that_follow()
    {
        VmmLease? launched = null;
        _driver.OnLaunch = (launch, _) =>
        {
            launched = launch.Lease;
            return Task.CompletedTask;
        };
        Scheduler.Answer = _ => Welcome();
        var before = Posix.BootTime;
        await using var agent = await StartAsync(_driver);
        var stream = await Scheduler.NextAsync();
        Assert.True(stream.Hello.Fenced);
        await stream.SendAsync(Launch());
        await UntilAsync("the first lease", () => Leases(0).Count > 0);
        Assert.Equal(launched, Leases(0)[0]);
        Assert.InRange(launched!.LapsesAt, before + TimeSpan.FromMilliseconds(Lifetime), Posix.BootTime + TimeSpan.FromMilliseconds(Lifetime));
        Assert.Equal(TimeSpan.FromMilliseconds(EndsAfter), launched.EndsAt - launched.LapsesAt);

        await RenewAsync(stream);
        await UntilAsync("a longer lease", () => Leases(0).Count > 1);
        Assert.True(Leases(0)[1].LapsesAt > launched.LapsesAt);
    }

    /// <summary>A lease counts from the heartbeat that it answers, and one that answers none is nothing.</summary>
    [Fact]
    public async Task Should_pass_on_nothing_that_answers_no_heartbeat()
    {
        Scheduler.Answer = _ => Welcome();
        await using var agent = await StartAsync(_driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await UntilAsync("the first lease", () => Leases(0).Count > 0);
        await stream.SendAsync(new SchedulerMessage { Lease = new Lease { Sequence = 1000, LifetimeMs = 3_000_000, EndsAfterMs = 1 } });
        await RenewAsync(stream);
        await UntilAsync("a longer lease", () => Leases(0).Count > 1);
        Assert.InRange(Leases(0)[1].LapsesAt, TimeSpan.Zero, Posix.BootTime + TimeSpan.FromMilliseconds(Lifetime));
    }

    /// <summary>What the control plane does not know here may have been placed elsewhere.</summary>
    [Fact]
    public async Task Should_not_renew_what_may_not_stay()
    {
        _driver.OnLaunched = vmm => vmm.OnStop = _ => new TaskCompletionSource().Task;
        Scheduler.Answer = _ => Welcome();
        await using var agent = await StartAsync(_driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.SendAsync(Launch(id: IdOf(2)));
        await UntilAsync("both leases", () => _driver.Vmms.Count == 2 && Leases(0).Count > 0 && Leases(1).Count > 0);
        Scheduler.Answer = _ =>
        {
            var welcome = Welcome();
            welcome.Welcome.Unknown.Add(new VmEpoch { VmId = Id, Epoch = 1 });
            return welcome;
        };
        await stream.Cut.CancelAsync();
        var second = await Scheduler.NextAsync();
        await UntilAsync("the stop of the other", () => _driver.Vmms.Exists(vmm => vmm.Stops.Count > 0));
        var kept = _driver.Vmms.FindIndex(vmm => vmm.Stops.Count == 0);
        await UntilAsync("a lease for the one that stays", () => Leases(kept).Count > 1);
        await RenewAsync(second);
        await UntilAsync("another", () => Leases(kept).Count > 2);
        Assert.Single(Leases(1 - kept));
    }

    [Fact]
    public async Task Should_end_a_guest_whose_VMM_can_not_stop_by_itself()
    {
        _driver.OnLaunched = vmm => vmm.OnLease = () => false;
        Scheduler.Answer = _ => Welcome(lifetime: 300);
        await using var agent = await StartAsync(_driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await UntilAsync("the end", () => _driver.Vmms.Count == 1 && _driver.Vmms[0].Stops.Count == 1);
        Assert.True(Posix.BootTime >= Leases(0)[^1].LapsesAt);
        await foreach (var message in stream.Incoming.Reader.ReadAllAsync(new CancellationTokenSource(TimeSpan.FromSeconds(20)).Token))
        {
            if (message.Report is { State: HostVmState.Failed } report)
            {
                Assert.Equal("lease_over", report.Reason.Code);
                break;
            }
        }
    }

    /// <summary>It runs on while the host is cut off: nothing of a lease reaches its VMM, also where the agent would have to end it.</summary>
    [Fact]
    public async Task Should_give_no_lease_to_what_may_run_twice()
    {
        VmmLease? launched = null;
        _driver.OnLaunch = (launch, _) =>
        {
            launched = launch.VmId == Id ? launch.Lease : launched;
            return Task.CompletedTask;
        };
        _driver.OnLaunched = vmm => vmm.OnLease = () => false;
        Scheduler.Answer = _ => Welcome(lifetime: 300);
        await using var agent = await StartAsync(_driver);
        var stream = await Scheduler.NextAsync();
        var relaxed = Launch();
        relaxed.Launch.Spec.Fencing = "relaxed";
        await stream.SendAsync(relaxed);
        await UntilAsync("the relaxed one", () => _driver.Vmms.Count == 1);
        await stream.SendAsync(Launch(id: IdOf(2)));
        await UntilAsync("the end of the strict one", () => _driver.Vmms.Count == 2 && _driver.Vmms[1].Stops.Count == 1);
        Assert.Null(launched);
        Assert.Empty(Leases(0));
        Assert.Empty(_driver.Vmms[0].Stops);
    }

    [Fact]
    public void Should_bound_what_the_control_plane_says()
    {
        var lease = VmmLease.Of(new Lease { LifetimeMs = uint.MaxValue, EndsAfterMs = uint.MaxValue }, TimeSpan.FromSeconds(5));
        Assert.Equal(new VmmLease(TimeSpan.FromSeconds(3605), TimeSpan.FromSeconds(3605) + TimeSpan.FromDays(1)), lease);
        var current = new CurrentLease();
        Assert.True(current.Take(lease));
        Assert.False(current.Take(lease));
        Assert.False(current.Take(new VmmLease(TimeSpan.FromSeconds(3604), TimeSpan.FromDays(9))));
        Assert.Equal(lease, current.Now);
    }

    [Fact]
    public void Should_know_when_the_last_heartbeats_were_sent()
    {
        var beats = new SentBeats(TimeSpan.FromSeconds(1));
        for (ulong i = 1; i <= 100; i++)
            beats.Note(i, TimeSpan.FromSeconds(i));
        Assert.Equal(TimeSpan.FromSeconds(1), beats.Of(0));
        Assert.Equal(TimeSpan.FromSeconds(100), beats.Of(100));
        Assert.Equal(TimeSpan.FromSeconds(37), beats.Of(37));
        Assert.Null(beats.Of(36));
        Assert.Null(beats.Of(101));
    }

    private static SchedulerMessage Welcome(uint lifetime = Lifetime) => new()
    {
        Welcome = new Welcome { HeartbeatMs = 100, Lease = new Lease { LifetimeMs = lifetime, EndsAfterMs = EndsAfter } },
    };

    // Answers a heartbeat that was really sent.
    private static async Task RenewAsync(AgentStream stream)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(20));
        await foreach (var message in stream.Incoming.Reader.ReadAllAsync(limit.Token))
        {
            if (message.Heartbeat is { } beat)
            {
                await stream.SendAsync(new SchedulerMessage { Lease = new Lease { Sequence = beat.Sequence, LifetimeMs = Lifetime, EndsAfterMs = EndsAfter } });
                return;
            }
        }
    }

    private List<VmmLease> Leases(int vmm)
    {
        if (_driver.Vmms.Count <= vmm)
            return [];
        lock (_driver.Vmms[vmm].Leases)
            return [.. _driver.Vmms[vmm].Leases];
    }
}
