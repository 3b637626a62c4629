using Fleet.Shared.Contracts;

namespace Fleet.Host.Tests.Agent;

/// <summary>Volumes by way of the agent: the driver boots nothing, the files are real.</summary>
public sealed class AgentVolumeTests : AgentTest
{
    [Fact]
    public async Task A_volume_is_kept_over_delete_and_create_and_an_older_launch_does_not_get_it()
    {
        var disks = new List<string>();
        var driver = new ScriptedDriver { OnLaunch = (launch, _) => { disks.Add(Assert.Single(launch.VolumeDisks)); return Task.CompletedTask; } };
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Start(IdOf(1), generation: 1));
        await stream.ExpectReportAsync(IdOf(1), HostVmState.Running);
        File.AppendAllText(disks[0], "kept");
        await stream.SendAsync(new SchedulerMessage { Remove = new RemoveVm { VmId = IdOf(1), Epoch = 1 } });
        await stream.ExpectReportAsync(IdOf(1), HostVmState.Removed);
        // What its guest wrote last is in the guest's memory yet.
        Assert.Equal([TimeSpan.FromSeconds(10)], driver.Vmms[0].Stops);

        await stream.SendAsync(Start(IdOf(2), generation: 2));
        await stream.ExpectReportAsync(IdOf(2), HostVmState.Running);
        Assert.Equal(disks[0], disks[1]);
        Assert.EndsWith("kept", File.ReadAllText(disks[1]), StringComparison.Ordinal);

        await stream.SendAsync(Start(IdOf(3), generation: 1));
        var refused = await stream.ExpectReportAsync(IdOf(3), HostVmState.Failed);
        Assert.Equal(("volume_stale", true, 2), (refused.Reason.Code, refused.NeverRan, driver.Launches));
    }

    /// <summary>Else a microVM that ends at once would give back the room of a volume that nobody has counted.</summary>
    [Fact]
    public async Task A_volume_is_told_before_the_word_that_its_microVM_runs()
    {
        await using var agent = await StartAsync(new ScriptedDriver());
        var stream = await Scheduler.NextAsync();
        Assert.True(stream.Hello.Inventory.HasDiskMib);
        Assert.Empty(stream.Hello.Inventory.Volumes);
        await stream.SendAsync(Start(IdOf(1), generation: 1));
        var first = await stream.ExpectAsync(message => message.Volumes is not null || message.Report is { State: HostVmState.Running or HostVmState.Ended });
        Assert.Equal(new HeldVolume { Name = "data", SizeMib = 32 }, Assert.Single(first.Volumes.Volumes));
        await stream.ExpectReportAsync(IdOf(1), HostVmState.Running);
        await stream.SendAsync(new SchedulerMessage { Remove = new RemoveVm { VmId = IdOf(1), Epoch = 1 } });
        await stream.ExpectReportAsync(IdOf(1), HostVmState.Removed);
        await stream.SendAsync(new SchedulerMessage { Volume = new VolumeOrder { Name = "data" } });
        await stream.ExpectAsync(message => message.Volumes is { Volumes.Count: 0 });
    }

    [Fact]
    public async Task An_agent_that_was_killed_before_the_launch_gives_the_same_placement_its_volume_again()
    {
        string left;
        using var hold = new ManualResetEventSlim();
        await using (await StartAsync(new ScriptedDriver { OnLaunch = (_, ends) => Task.Run(() => hold.Wait(ends), ends) }))
        {
            var stream = await Scheduler.NextAsync();
            await stream.SendAsync(Start(IdOf(1), generation: 5));
            await UntilAsync("the volume was given", () => File.Exists(Path.Combine(Root, "volumes", "_", "data", "given")));
            left = Snapshot();
            hold.Set();
        }

        Scheduler.Answer = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 60_000, Lease = new Lease { LifetimeMs = 60_000, EndsAfterMs = 60_000 } } };
        var driver = new ScriptedDriver();
        await using var next = await StartAsync(driver, root: left);
        var again = await Scheduler.NextAsync();
        await again.ExpectReportAsync(IdOf(1), HostVmState.Running);
        Assert.Equal(1, driver.Launches);
    }

    [Fact]
    public async Task Orders_are_carried_out_and_answered_as_often_as_they_come()
    {
        await using var agent = await StartAsync(new ScriptedDriver());
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Start(IdOf(1), generation: 1));
        await stream.ExpectReportAsync(IdOf(1), HostVmState.Running);
        for (var i = 0; i < 2; i++)
        {
            await stream.SendAsync(new SchedulerMessage { Volume = new VolumeOrder { Name = "data", CopyTo = "copy" } });
            Assert.Null((await stream.ExpectAsync(message => message.VolumeDone is not null)).VolumeDone.Problem);
        }
        Assert.True(File.Exists(Path.Combine(Root, "volumes", "_", "copy", "disk")));
        await stream.SendAsync(new SchedulerMessage { Volume = new VolumeOrder { Name = "copy" } });
        await stream.ExpectAsync(message => message.VolumeDone is { Order.Name: "copy", Problem: null });
        Assert.False(Directory.Exists(Path.Combine(Root, "volumes", "_", "copy")));
    }

    private static SchedulerMessage Start(string id, ulong generation)
    {
        var launch = Launch(id: id);
        launch.Launch.Spec.Volumes.Add(new VolumeMount { Name = "data", Path = "/data", SizeMib = 32 });
        launch.Launch.Volumes.Add(new VolumeGrant { Name = "data", SizeMib = 32, Generation = generation });
        return launch;
    }
}
