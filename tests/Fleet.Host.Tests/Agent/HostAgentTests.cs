using Fleet.Host.Agent;
using Fleet.Host.Drivers.Simulated;
using Fleet.Host.State;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>What an agent does with the control plane's commands.</summary>
public sealed class HostAgentTests : AgentTest
{
    [Fact]
    public async Task Should_say_who_it_is_and_what_it_has()
    {
        await using var agent = await StartAsync();
        var hello = (await Scheduler.NextAsync()).Hello;
        Assert.Equal("rack1", hello.HostId);
        Assert.Equal("simulated", Assert.Single(hello.Inventory.Drivers).Name);
        Assert.True(hello.Inventory is { Cpus: > 0, MemoryMib: > 0, Kernel.Length: > 0 });
        Assert.NotEmpty(hello.BootId);
    }

    [Fact]
    public void Should_read_the_machines_memory() =>
        Assert.Equal(23_000, HostInventory.MemoryMib("MemTotal:       23552000 kB\nMemFree:         1000 kB\n"));

    [Fact]
    public async Task Should_launch_once_report_until_heard_and_tell_the_exit_status()
    {
        var clock = new ManualClock();
        await using var agent = await StartAsync(clock: clock);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch(new SimulatedGuest { RunMs = 100, ExitStatus = 7 }));
        await stream.SendAsync(Launch(new SimulatedGuest { RunMs = 100, ExitStatus = 7 }));
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        clock.Advance(TimeSpan.FromMilliseconds(100));
        var ended = await stream.ExpectReportAsync(Id, HostVmState.Ended);
        Assert.Equal(7, ended.Exit.Status);

        clock.Advance(TimeSpan.FromSeconds(2)); // nobody acknowledged it
        var again = await stream.ExpectReportAsync(Id, HostVmState.Ended);
        Assert.Equal(ended.Sequence, again.Sequence);
        await stream.AckAsync(ended);

        await stream.SendAsync(Remove());
        await stream.ExpectReportAsync(Id, HostVmState.Removed);
        Assert.Empty(Directory.GetDirectories(Path.Combine(Root, "vms")));
        Assert.Empty(Directory.GetDirectories(Path.Combine(Root, "trash")));
    }

    [Fact]
    public async Task Should_not_repeat_what_was_acknowledged()
    {
        var clock = new ManualClock();
        await using var agent = await StartAsync(clock: clock);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.AckAsync(await stream.ExpectReportAsync(Id, HostVmState.Running));
        await stream.SendAsync(Stop(epoch: 9)); // its answer tells that the acknowledgement was taken
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 9);
        clock.Advance(TimeSpan.FromSeconds(2));
        await stream.SendAsync(Stop(epoch: 8));
        await stream.ExpectAsync(message =>
        {
            Assert.NotEqual(1UL, message.Report?.Epoch);
            return message.Report?.Epoch == 8;
        });
    }

    [Fact]
    public async Task Should_end_the_older_epoch_before_the_newer_begins()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(Launch(epoch: 2));
        await stream.SendAsync(Launch(epoch: 3));
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 1);
        await stream.ExpectReportAsync(Id, HostVmState.Running, epoch: 3);
        Assert.Equal((2, 1), (driver.Launches, driver.MostAtOnce));

        await stream.SendAsync(Launch(epoch: 1)); // late, and answered with the truth
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 1);
        await stream.SendAsync(Stop(epoch: 1));
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 1);
        await stream.SendAsync(Stop(epoch: 3));
        Assert.Equal("stop_requested", (await stream.ExpectReportAsync(Id, HostVmState.Ended, epoch: 3)).Reason.Code);
        Assert.Equal(2, driver.Launches);
    }

    [Fact]
    public async Task Should_forget_a_waiting_epoch_that_is_stopped()
    {
        var stopping = new TaskCompletionSource();
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        driver.Vmms[0].OnStop = _ => stopping.Task;
        await stream.SendAsync(Launch(epoch: 2));
        await stream.SendAsync(Stop(epoch: 2));
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 2);
        stopping.SetResult();
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 1);
        for (var i = 0; i < 3; i++)
        {
            // Time enough for a launch that must not come.
            await stream.SendAsync(Launch(id: IdOf(i)));
            await stream.ExpectReportAsync(IdOf(i), HostVmState.Running);
        }

        Assert.Equal(4, driver.Launches);
    }

    /// <summary>Hello does not tell it, and its host may have been given up meanwhile.</summary>
    [Fact]
    public async Task Should_forget_a_waiting_epoch_when_the_stream_breaks()
    {
        var stopping = new TaskCompletionSource();
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var first = await Scheduler.NextAsync();
        await first.SendAsync(Launch());
        await first.ExpectReportAsync(Id, HostVmState.Running);
        driver.Vmms[0].OnStop = _ => stopping.Task;
        await first.SendAsync(Launch(epoch: 2));
        // Obeyed in order: when this one runs, the other waits.
        await first.SendAsync(Launch(id: IdOf(0)));
        await first.ExpectReportAsync(IdOf(0), HostVmState.Running);
        await first.Cut.CancelAsync();

        var second = await Scheduler.NextAsync();
        stopping.SetResult();
        await second.ExpectReportAsync(Id, HostVmState.Removed);
        for (var i = 1; i < 4; i++)
        {
            // Time enough for a launch that must not come.
            await second.SendAsync(Launch(id: IdOf(i)));
            await second.ExpectReportAsync(IdOf(i), HostVmState.Running);
        }

        Assert.Equal(5, driver.Launches);
    }

    [Fact]
    public async Task Should_not_launch_an_epoch_again_that_it_called_removed()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(Remove());
        await stream.AckAsync(await stream.ExpectReportAsync(Id, HostVmState.Removed));
        for (var i = 0; i < 3; i++)
        {
            // Until its actor is gone for certain.
            await stream.SendAsync(Launch(id: IdOf(i)));
            await stream.ExpectReportAsync(IdOf(i), HostVmState.Running);
        }

        await stream.SendAsync(Launch());
        var answer = await stream.ExpectAsync(message => message.Report?.VmId == Id);
        Assert.Equal((HostVmState.Removed, 4), (answer.Report.State, driver.Launches));
    }

    [Fact]
    public async Task Should_give_up_a_launch_that_is_stopped()
    {
        var driver = new ScriptedDriver { OnLaunch = (_, cancellation) => Task.Delay(Timeout.Infinite, cancellation) };
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Launching);
        await UntilAsync("the launch", () => driver.Launches == 1);
        await stream.SendAsync(Stop(graceMs: 10_000));
        Assert.Equal("stop_requested", (await stream.ExpectReportAsync(Id, HostVmState.Ended)).Reason.Code);
    }

    [Fact]
    public async Task Should_hold_a_stop_to_its_grace()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        await stream.SendAsync(Stop(graceMs: uint.MaxValue));
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
        Assert.Equal([TimeSpan.FromMinutes(5)], driver.Vmms[0].Stops); // the most that the API lets ask for
    }

    [Fact]
    public async Task Should_give_up_a_guest_that_is_never_ready()
    {
        var clock = new ManualClock();
        await using var agent = await StartAsync(clock: clock);
        var stream = await Scheduler.NextAsync();
        var launch = Launch(new SimulatedGuest { Fault = "never_boots" });
        launch.Launch.Spec.BootTimeoutSeconds = 120;
        await stream.SendAsync(launch);
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        clock.Advance(TimeSpan.FromSeconds(119));
        await stream.SendAsync(launch);
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        clock.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal("boot_timeout", (await stream.ExpectReportAsync(Id, HostVmState.Failed)).Reason.Code);
    }

    [Fact]
    public async Task Should_leave_a_guest_alone_that_was_ready_in_time()
    {
        var clock = new ManualClock();
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver, clock);
        var stream = await Scheduler.NextAsync();
        var launch = Launch();
        launch.Launch.Spec.BootTimeoutSeconds = 10;
        await stream.SendAsync(launch);
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        driver.Vmms[0].Ready.SetResult();
        await stream.SendAsync(Stop(epoch: 9)); // whoever is asked later has heard of it
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 9);
        await Task.Yield();
        clock.Advance(TimeSpan.FromSeconds(20));
        await stream.SendAsync(Stop(graceMs: 7_000));
        Assert.Equal("stop_requested", (await stream.ExpectReportAsync(Id, HostVmState.Ended)).Reason.Code);
        Assert.Equal([TimeSpan.FromSeconds(7)], driver.Vmms[0].Stops);
    }

    [Theory]
    [InlineData("launch_fails", "launch_failed")]
    [InlineData("vmm_dies", "vmm_killed")]
    public async Task Should_tell_what_went_wrong(string fault, string code)
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch(new SimulatedGuest { Fault = fault, RunMs = 1 }));
        Assert.Equal(code, (await stream.ExpectReportAsync(Id, HostVmState.Failed)).Reason.Code);
    }

    [Fact]
    public async Task Should_say_which_driver_it_lacks()
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        var launch = Launch();
        launch.Launch.Spec.Simulated = null;
        launch.Launch.Spec.Driver = "auto"; // and nothing here boots a stock kernel
        await stream.SendAsync(launch);
        Assert.Equal("driver_unusable", (await stream.ExpectReportAsync(Id, HostVmState.Failed)).Reason.Code);
    }

    [Fact]
    public async Task Should_start_nothing_that_it_could_not_write_down()
    {
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        Directory.CreateDirectory(Path.Combine(Root, "vms", Id, "launch.pb.new")); // no file can be written there
        await stream.SendAsync(Launch());
        Assert.Equal("launch_failed", (await stream.ExpectReportAsync(Id, HostVmState.Failed)).Reason.Code);
        Assert.Equal(0, driver.Launches);
        await stream.SendAsync(Remove());
        await stream.ExpectReportAsync(Id, HostVmState.Removed);
    }

    [Fact]
    public async Task Should_delete_again_when_asked_again()
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        var trash = Path.Combine(Root, "trash");
        Directory.Delete(trash); // the folder can't be moved there
        await stream.SendAsync(Remove());
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
        await UntilAsync("the failed deletion", () => Lines.ToString().Contains("could not be deleted", StringComparison.Ordinal));
        Directory.CreateDirectory(trash);
        await stream.SendAsync(Remove());
        await stream.ExpectReportAsync(Id, HostVmState.Removed);
        Assert.Empty(Directory.GetDirectories(Path.Combine(Root, "vms")));
    }

    [Fact]
    public async Task Should_dial_again_when_the_stream_breaks_or_goes_silent()
    {
        Scheduler.Answer = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 500 } };
        await using var agent = await StartAsync();
        var first = await Scheduler.NextAsync();
        await first.SendAsync(Launch());
        await first.ExpectReportAsync(Id, HostVmState.Running);
        await first.Cut.CancelAsync();
        var second = await Scheduler.NextAsync();
        Assert.Single(second.Hello.Vms);
        Assert.Equal(first.Hello.AgentInstance, second.Hello.AgentInstance);
        await second.ExpectReportAsync(Id, HostVmState.Running); // not acknowledged on the first
        Scheduler.Alive = false;
        await Scheduler.NextAsync();
    }

    [Fact]
    public async Task Should_go_on_dialling_when_it_is_refused()
    {
        var refusals = 2;
        Scheduler.Answer = _ => refusals-- > 0
            ? new SchedulerMessage { Refusal = new Refusal { Code = "host_id_taken", Message = "Another agent\nuses this id." } }
            : new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 60_000 } };
        await using var agent = await StartAsync();
        await Scheduler.NextAsync();
        var told = Assert.Single(Lines.All, line => line.Contains("Warning", StringComparison.Ordinal));
        Assert.Contains("refused: Another agent?uses this id. (host_id_taken)", told, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_remove_what_the_control_plane_does_not_know()
    {
        Write(Record(HostVmState.Launching));
        Scheduler.Answer = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 60_000, Unknown = { new VmEpoch { VmId = Id, Epoch = 1 } } } };
        await using var agent = await StartAsync();
        await (await Scheduler.NextAsync()).ExpectReportAsync(Id, HostVmState.Removed);
        Assert.Empty(Directory.GetDirectories(Path.Combine(Root, "vms")));
    }

    [Fact]
    public async Task Should_carry_many_at_once()
    {
        const int Many = 200;
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        for (var i = 0; i < Many; i++)
            await stream.SendAsync(Launch(id: IdOf(i)));
        var running = new HashSet<string>();
        while (running.Count < Many)
            running.Add((await stream.ExpectAsync(message => message.Report?.State == HostVmState.Running)).Report.VmId);
    }

    [Fact]
    public async Task Should_not_start_on_a_directory_in_use_or_with_a_bad_name()
    {
        await using var agent = await StartAsync();
        await Assert.ThrowsAsync<AgentStartException>(() => StartAsync());
        await Assert.ThrowsAsync<AgentStartException>(() => StartAsync(id: "Not A Name"));
    }

    [Theory]
    [InlineData(0, 1, "https://127.0.0.1:1")]
    [InlineData(1, -5, "https://127.0.0.1:1")]
    [InlineData(1, 1, "127.0.0.1")]
    [InlineData(1, 1, "http://127.0.0.1:1")]
    [InlineData(1, 1, "https://127.0.0.1:1", "rack2")]
    public async Task Should_not_start_with_an_offer_that_nobody_takes(int cpus, int memoryMib, string address, string certified = "rack1") =>
        await Assert.ThrowsAsync<AgentStartException>(() => HostAgent.StartAsync(
            new HostAgentOptions
            {
                HostId = "rack1",
                StateDirectory = Root,
                SchedulerAddresses = [new Uri(address, UriKind.RelativeOrAbsolute)],
                Credentials = Scheduler.Authority.Credentials(certified),
                Drivers = [new SimulatedDriver(TimeProvider.System)],
                Cpus = cpus,
                MemoryMib = memoryMib,
            },
            default));
}
