using Fleet.Host.Agent;
using Fleet.Host.Drivers.Simulated;
using Fleet.Host.Snapshots;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>What an agent makes of the order to save a microVM, and of a launch that goes on from there.</summary>
public sealed class AgentSuspendTests : AgentTest
{
    private string Folder => Path.Combine(Root, "vms", Id);

    private static SchedulerMessage Suspend(ulong attempt = 1, ulong epoch = 1) => new() { Suspend = new SuspendVm { VmId = Id, Epoch = epoch, Attempt = attempt } };

    private static SchedulerMessage Resume(ulong epoch = 2, ulong from = 1)
    {
        var launch = Launch(epoch: epoch);
        launch.Launch.SnapshotEpoch = from;
        return launch;
    }

    private async Task<(HostAgent Agent, Link.AgentStream Stream)> SuspendedAsync()
    {
        var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(Suspend());
        await stream.ExpectReportAsync(Id, HostVmState.Suspended);
        return (agent, stream);
    }

    [Fact]
    public async Task Should_save_it_and_have_it_go_on_under_the_next_epoch_in_its_folder()
    {
        var (agent, stream) = await SuspendedAsync();
        await using var _ = agent;
        Assert.NotNull(SnapshotFiles.Find(Folder, 1));
        await stream.SendAsync(Resume());
        await stream.SendAsync(Resume());
        await stream.ExpectReportAsync(Id, HostVmState.Running, epoch: 2);
        Assert.Empty(Directory.GetFiles(Folder, "snapshot.*"));
        // Of the epoch before there is nothing, and its removal takes nothing away.
        await stream.SendAsync(Remove());
        await stream.ExpectReportAsync(Id, HostVmState.Removed);
        await stream.SendAsync(Stop(epoch: 2));
        await stream.ExpectReportAsync(Id, HostVmState.Ended, epoch: 2);
    }

    [Fact]
    public async Task Should_be_found_suspended_by_the_next_agent()
    {
        var (agent, _) = await SuspendedAsync();
        await agent.DisposeAsync();
        await using var next = await StartAsync();
        var stream = await Scheduler.NextAsync();
        Assert.True(Assert.Single(stream.Hello.Vms) is { State: HostVmState.Suspended, Epoch: 1 });
        await stream.SendAsync(Resume());
        await stream.ExpectReportAsync(Id, HostVmState.Running, epoch: 2);
    }

    /// <summary>The record of the snapshot is what counts, whatever the launch's own record says, and on whatever boot.</summary>
    [Theory]
    [InlineData(null)]
    [InlineData("another boot")]
    public async Task Should_be_suspended_when_the_agent_was_killed_before_it_said_so(string? bootId)
    {
        Write(Record(HostVmState.Running, bootId));
        SnapshotFiles.Complete(Folder, new Host.State.SnapshotRecord { VmId = Id, Epoch = 1, Driver = "simulated", Played = new() });
        await using var agent = await StartAsync();
        await (await Scheduler.NextAsync()).ExpectReportAsync(Id, HostVmState.Suspended);
    }

    /// <summary>Killed between the new record and its guest.</summary>
    [Fact]
    public async Task Should_go_on_with_what_an_earlier_agent_had_promised_and_not_begun()
    {
        var record = Record(HostVmState.Launching);
        record.Launch = Resume().Launch;
        record.Report.Epoch = 2;
        Write(record);
        SnapshotFiles.Complete(Folder, new Host.State.SnapshotRecord { VmId = Id, Epoch = 1, Driver = "simulated", Played = new() });
        Scheduler.Answer = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 60_000, Lease = new Lease { LifetimeMs = 60_000, EndsAfterMs = 60_000 } } };
        await using var agent = await StartAsync();
        await (await Scheduler.NextAsync()).ExpectReportAsync(Id, HostVmState.Running, epoch: 2);
        Assert.Null(SnapshotFiles.Find(Folder, 1));
    }

    [Fact]
    public async Task Should_leave_nothing_when_it_is_removed_or_stopped()
    {
        var (agent, stream) = await SuspendedAsync();
        await using var _ = agent;
        await stream.SendAsync(Stop());
        Assert.Equal("stop_requested", (await stream.ExpectReportAsync(Id, HostVmState.Ended)).Reason.Code);
        Assert.Empty(Directory.GetFiles(Folder, "snapshot.*"));
        await stream.SendAsync(Resume());
        // What it was saved in is gone, and with it what had to be taken over.
        Assert.True(await stream.ExpectReportAsync(Id, HostVmState.Failed, epoch: 2) is { NeverRan: true, Reason.Code: "snapshot_lost" });
        await stream.SendAsync(Remove(epoch: 2));
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 2);
        Assert.False(Directory.Exists(Folder));
    }

    [Fact]
    public async Task Should_tell_once_for_each_attempt_that_it_can_not_be_saved_and_run_on()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        for (ulong attempt = 1; attempt <= 2; attempt++)
        {
            await stream.SendAsync(Suspend(attempt));
            await stream.SendAsync(Suspend(attempt));
            var report = (await stream.ExpectAsync(message => message.Report?.SuspendFailed?.Attempt == attempt)).Report;
            Assert.Equal((HostVmState.Running, "snapshot_failed"), (report.State, report.SuspendFailed.Reason.Code));
        }

        Assert.Equal(1, driver.Running);
    }
}
