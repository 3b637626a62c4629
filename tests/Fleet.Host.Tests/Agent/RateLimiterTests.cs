using Fleet.Host.Agent;
using Fleet.Host.Drivers;
using Fleet.Host.State;
using Fleet.Host.Tests.Link;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>What an agent does about rate limiters of the microVMs it carries.</summary>
public sealed class RateLimiterTests : AgentTest
{
    private static RateLimit Limit(ulong operations) => new() { Ops = new TokenBucket { Size = operations, RefillTimeMs = 1000 } };

    private static SchedulerMessage Set(ulong revision, RateLimit? limit, ulong epoch = 1)
    {
        var set = new SetLimits { VmId = Id, Epoch = epoch, Revision = revision };
        if (limit is not null)
            set.RateLimits.Add("entropy", limit);
        return new SchedulerMessage { SetLimits = set };
    }

    private static SchedulerMessage LaunchWith(RateLimit limit)
    {
        var launch = Launch();
        launch.Launch.Spec.RateLimits.Add("entropy", limit);
        return launch;
    }

    private static Task<VmReport> FollowsAsync(AgentStream stream, ulong revision) =>
        ReportAsync(stream, report => report.State == HostVmState.Running && report.LimitsRevision == revision);

    private static async Task<VmReport> ReportAsync(AgentStream stream, Func<VmReport, bool> wanted) =>
        (await stream.ExpectAsync(message => message.Report is { } report && wanted(report))).Report;

    private static async Task<LimiterFigure?> FigureAsync(AgentStream stream, Func<LimiterFigures, bool> wanted) =>
        (await stream.ExpectAsync(message => message.Limiters is { } figures && wanted(figures))).Limiters.Limiters.SingleOrDefault();

    private LaunchVm StateRecord()
    {
        var file = Directory.GetFiles(Root, "*", SearchOption.AllDirectories).Single(name => Path.GetFileName(name) == StateDirectory.RecordFile);
        return LaunchRecord.Parser.ParseFrom(File.ReadAllBytes(file)).Launch;
    }

    [Fact]
    public async Task Should_retune_and_lift_while_the_guest_runs()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        Assert.Equal(0UL, (await stream.ExpectReportAsync(Id, HostVmState.Running)).LimitsRevision);

        await stream.SendAsync(Set(1, Limit(5)));
        await FollowsAsync(stream, 1);
        var vmm = driver.Vmms[0];
        Assert.Equal(Limit(5), vmm.Limits["entropy"]);
        var figure = await FigureAsync(stream, figures => figures.Limiters.Count > 0);
        Assert.Equal(new LimiterFigure { VmId = Id, Epoch = 1, Name = "entropy", InForce = Limit(5), PassedOps = 1, PassedBytes = 2, ThrottledCount = 3, ThrottledUs = 4 }, figure);

        await stream.SendAsync(Set(2, null));
        await FollowsAsync(stream, 2);
        Assert.Empty(vmm.Limits);

        // An old one changes nothing, and is answered with what is.
        await stream.SendAsync(Set(1, Limit(5)));
        await FollowsAsync(stream, 2);
        Assert.Equal((0, 2), (vmm.Limits.Count, vmm.LimiterSettings));

        vmm.End();
        await FigureAsync(stream, figures => figures.Limiters.Count == 0);
    }

    [Fact]
    public async Task Should_leave_a_vmm_alone_that_does_what_is_wanted()
    {
        var driver = new ScriptedDriver();
        driver.OnLaunched = vmm => vmm.Limits["entropy"] = Limit(5);
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(LaunchWith(Limit(5)));
        Assert.Equal(Limit(5), (await FigureAsync(stream, figures => figures.Limiters.Count > 0))!.InForce);
        Assert.Equal(0, driver.Vmms[0].LimiterSettings);
    }

    [Fact]
    public async Task Should_set_a_vmm_right_that_does_something_else_and_look_again_by_the_clock()
    {
        var clock = new ManualClock();
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver, clock);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(LaunchWith(Limit(5)));
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await UntilAsync("the limit", () => driver.Vmms[0].Limits.ContainsKey("entropy"));

        driver.Vmms[0].Limits["entropy"] = Limit(999);
        await UntilAsync("the limit again", () =>
        {
            clock.Advance(RateLimiterActor.ReadEvery);
            return driver.Vmms[0].Limits["entropy"].Equals(Limit(5));
        });
    }

    [Fact]
    public async Task Should_say_that_limits_are_in_force_only_when_they_are()
    {
        var clock = new ManualClock();
        var driver = new ScriptedDriver();
        var refused = 3;
        driver.OnLaunched = vmm => vmm.OnSetLimiter = () => Interlocked.Decrement(ref refused) >= 0 ? throw new IOException("busy") : Task.CompletedTask;
        await using var agent = await StartAsync(driver, clock);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(Set(1, Limit(5)));
        var followed = FollowsAsync(stream, 1);
        await UntilAsync("the report", () =>
        {
            clock.Advance(TimeSpan.FromSeconds(1));
            return followed.IsCompleted;
        });
        Assert.True(refused < 0, "it was tried again");
        Assert.Equal(Limit(5), driver.Vmms[0].Limits["entropy"]);
        Assert.Single(Lines.All, line => line.Contains("can't be read or set", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Should_keep_wanted_limits_over_a_restart_of_the_agent()
    {
        var driver = new ScriptedDriver();
        var never = new TaskCompletionSource();
        driver.OnLaunched = vmm => vmm.OnSetLimiter = () => never.Task;
        string copy;
        await using (await StartAsync(driver))
        {
            var first = await Scheduler.NextAsync();
            await first.SendAsync(Launch());
            await first.ExpectReportAsync(Id, HostVmState.Running);
            await first.SendAsync(Set(1, Limit(5)));
            await UntilAsync("the wish", () => StateRecord() is { LimitsRevision: 1 });
            copy = Snapshot();
            never.SetException(new IOException("the agent ended"));
        }

        // The VMM knows nothing of it yet.
        driver.OnLaunched = _ => { };
        driver.OnAdopt = (_, _) => Task.FromResult<IVmm?>(driver.NewVmm());
        await using var second = await StartAsync(driver, root: copy, id: "next");
        var stream = await Scheduler.NextAsync();
        await FollowsAsync(stream, 1);
        Assert.Equal(Limit(5), driver.Vmms[^1].Limits["entropy"]);
    }

    /// <summary>An agent that was killed before it could lift a limit finds no limiter wanted, and the VMM limiting.</summary>
    [Fact]
    public async Task Should_lift_what_an_earlier_agent_had_set()
    {
        var record = Record(HostVmState.Running);
        record.Launch.LimitsRevision = 2;
        record.Report.LimitsRevision = 1;
        Write(record);
        var driver = new ScriptedDriver();
        driver.OnLaunched = vmm => vmm.Limits["entropy"] = Limit(5);
        driver.OnAdopt = (_, _) => Task.FromResult<IVmm?>(driver.NewVmm());
        await using var agent = await StartAsync(driver);
        await FollowsAsync(await Scheduler.NextAsync(), 2);
        Assert.Empty(driver.Vmms[0].Limits);
    }

    [Fact]
    public async Task Should_refuse_what_is_no_limit_and_tell_what_is_not_here()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Set(1, Limit(5)));
        await stream.ExpectReportAsync(Id, HostVmState.Removed);
        await stream.SendAsync(Launch(epoch: 2));
        await stream.ExpectReportAsync(Id, HostVmState.Running, epoch: 2);
        await stream.SendAsync(Set(1, Limit(0), epoch: 2));
        await stream.SendAsync(Set(1, Limit(7), epoch: 2));
        await FollowsAsync(stream, 1);
        Assert.Equal(Limit(7), driver.Vmms[0].Limits["entropy"]);
    }
}
