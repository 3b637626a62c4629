using Akka.Actor;
using Fleet.Host.Agent;
using Fleet.Host.Drivers;
using Fleet.Host.Drivers.Simulated;
using Fleet.Host.State;
using Fleet.Shared.Contracts;
using Google.Protobuf.WellKnownTypes;
using Xunit;

namespace Fleet.Host.Tests.Agent;

/// <summary>What an agent makes of what an earlier one left, however that ended, and of its own faults.</summary>
public sealed class AgentRestartTests : AgentTest
{
    [Fact]
    public async Task Should_take_over_what_an_earlier_agent_left()
    {
        ulong before;
        await using (await StartAsync())
        {
            var first = await Scheduler.NextAsync();
            await first.SendAsync(Launch());
            before = (await first.ExpectReportAsync(Id, HostVmState.Running)).Sequence;
        }

        await using var second = await StartAsync();
        var stream = await Scheduler.NextAsync();
        var known = Assert.Single(stream.Hello.Vms);
        Assert.Equal((Id, 1UL, HostVmState.Running), (known.VmId, known.Epoch, known.State));
        Assert.True((await stream.ExpectReportAsync(Id, HostVmState.Running)).Sequence > before);
        await stream.SendAsync(Stop());
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
    }

    [Fact]
    public async Task Should_say_goodbye_and_leave_microvms_running()
    {
        var driver = new ScriptedDriver();
        await using (await StartAsync(driver))
        {
            var stream = await Scheduler.NextAsync();
            await stream.SendAsync(Launch());
            await stream.ExpectReportAsync(Id, HostVmState.Running);
            Lines.Log.Information("ending");
        }

        Assert.True(driver.Vmms[0].LetGo);
        Assert.Empty(driver.Vmms[0].Stops);
        Assert.Equal(1, driver.Running);
    }

    [Fact]
    public async Task Should_finish_a_launch_that_has_begun_before_it_ends()
    {
        var launching = new TaskCompletionSource();
        var driver = new ScriptedDriver { OnLaunch = (_, _) => launching.Task };
        var agent = await StartAsync(driver);
        await (await Scheduler.NextAsync()).SendAsync(Launch());
        await UntilAsync("the launch", () => driver.Launches == 1);
        var ending = agent.DisposeAsync().AsTask();
        Assert.NotSame(ending, await Task.WhenAny(ending, Task.Delay(300)));
        launching.SetResult();
        await ending;
        Assert.True(Assert.Single(driver.Vmms).LetGo);
    }

    /// <summary>At any moment of the lives of many microVMs the disk is such that the next agent knows all that was told.</summary>
    [Fact]
    public async Task Should_lose_nothing_that_it_told_when_it_is_killed()
    {
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        var random = new Random(7);
        for (var round = 0; round < 5; round++)
        {
            for (var i = 0; i < 20; i++)
                await stream.SendAsync(Launch(new SimulatedGuest { RunMs = (uint)random.Next(0, 30) }, id: IdOf((round * 100) + i)));
            var told = new Dictionary<string, VmReport>();
            for (var heard = random.Next(5, 45); heard > 0; heard--)
            {
                var report = (await stream.ExpectAsync(message => message.Report is not null)).Report;
                told[report.VmId] = report;
            }

            var copy = Snapshot();
            await using var next = await StartAsync(root: copy, id: "next");
            var hello = (await Scheduler.NextAsync()).Hello;
            Assert.Equal("next", hello.HostId);
            var known = hello.Vms.ToDictionary(report => report.VmId);
            foreach (var report in told.Values)
            {
                Assert.True(known.TryGetValue(report.VmId, out var now), $"{report} is lost");
                Assert.True(now!.Sequence >= report.Sequence && now.State >= report.State, $"told {report}, found {now}");
            }

            Assert.Empty(Directory.GetDirectories(Path.Combine(copy, "quarantine")));
        }
    }

    [Fact]
    public async Task Should_launch_what_an_earlier_agent_had_promised_and_not_begun()
    {
        Write(Record(HostVmState.Launching));
        Scheduler.Answer = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 60_000, Lease = new Lease { LifetimeMs = 60_000, EndsAfterMs = 60_000 } } };
        await using var agent = await StartAsync();
        await (await Scheduler.NextAsync()).ExpectReportAsync(Id, HostVmState.Running);
    }

    /// <summary>The host may have been given up while no agent ran, and the microVM placed elsewhere.</summary>
    [Fact]
    public async Task Should_begin_nothing_that_it_found_before_it_has_a_lease()
    {
        Write(Record(HostVmState.Launching));
        var looked = 0;
        var driver = new ScriptedDriver
        {
            OnAdopt = (_, _) =>
            {
                Interlocked.Increment(ref looked);
                return Task.FromResult<IVmm?>(null);
            },
        };
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await UntilAsync("the look for a VMM", () => Volatile.Read(ref looked) > 0);
        // Answered by the same actor, behind whatever it would have begun.
        await stream.SendAsync(new SchedulerMessage { OpenConsole = new OpenConsole { StreamId = 9, VmId = "vm-none" } });
        await stream.ExpectAsync(message => message.Console is { StreamId: 9 });
        Assert.Equal(0, driver.Launches);

        await stream.SendAsync(Stop());
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
        Assert.Equal(0, driver.Launches);
    }

    /// <summary>Its VMM may run: it is not called failed, or a second one could be started.</summary>
    [Fact]
    public async Task Should_not_call_failed_what_it_has_no_driver_for()
    {
        var record = Record(HostVmState.Running);
        record.Driver = "absent";
        Write(record);
        await using var agent = await StartAsync(new ScriptedDriver());
        var stream = await Scheduler.NextAsync();
        Assert.Equal(HostVmState.Running, Assert.Single(stream.Hello.Vms).State);
        await UntilAsync("the word of it", () => Lines.All.Any(line => line.Contains("can't be taken over", StringComparison.Ordinal)));
        await stream.SendAsync(Stop());
        await stream.SendAsync(new SchedulerMessage { OpenConsole = new OpenConsole { StreamId = 9, VmId = "vm-none" } });
        await stream.ExpectAsync(message => message.Report is { State: not HostVmState.Running } ? throw new InvalidOperationException(message.ToString()) : message.Console is { StreamId: 9 });
    }

    [Fact]
    public async Task Should_not_run_again_what_had_run()
    {
        Write(Record(HostVmState.Running));
        var driver = new ScriptedDriver();
        await using var agent = await StartAsync(driver);
        var report = await (await Scheduler.NextAsync()).ExpectReportAsync(Id, HostVmState.Failed);
        Assert.Equal(("vmm_killed", 0), (report.Reason.Code, driver.Launches));
    }

    [Fact]
    public async Task Should_say_that_the_machine_was_started_anew()
    {
        Write(Record(HostVmState.Running, bootId: "another-boot"));
        await using var agent = await StartAsync();
        Assert.Equal("host_rebooted", (await (await Scheduler.NextAsync()).ExpectReportAsync(Id, HostVmState.Failed)).Reason.Code);
    }

    [Fact]
    public async Task Should_tell_again_how_one_ended_before()
    {
        var record = Record(HostVmState.Ended);
        record.Report.Exit = new GuestExit { Status = 3 };
        record.Report.Reason = new Reason { Code = "command_exited", Message = "It ended." };
        Write(record);
        var driver = new ScriptedDriver { OnAdopt = (_, _) => throw new InvalidOperationException("there is nothing to take over") };
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        var report = await stream.ExpectReportAsync(Id, HostVmState.Ended);
        Assert.Equal((3, "command_exited"), (report.Exit.Status, report.Reason.Code));
        await stream.SendAsync(Remove());
        await stream.ExpectReportAsync(Id, HostVmState.Removed);
    }

    [Fact]
    public async Task Should_take_over_before_it_stops_what_it_was_told_to_stop()
    {
        Write(Record(HostVmState.Running));
        var adopting = new TaskCompletionSource<IVmm?>();
        var driver = new ScriptedDriver { OnAdopt = (_, cancellation) => adopting.Task.WaitAsync(cancellation) };
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Stop(graceMs: 3000));
        await stream.SendAsync(Stop(epoch: 9));
        await stream.ExpectReportAsync(Id, HostVmState.Removed, epoch: 9);
        var vmm = driver.NewVmm();
        adopting.SetResult(vmm);
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
        Assert.Equal([TimeSpan.FromSeconds(3)], vmm.Stops);
        Assert.Equal(0, driver.Running);
    }

    [Fact]
    public async Task Should_never_give_up_a_vmm_that_may_still_run()
    {
        Write(Record(HostVmState.Running));
        var clock = new ManualClock();
        var tries = 0;
        var driver = new ScriptedDriver();
        driver.OnAdopt = (_, _) => Interlocked.Increment(ref tries) < 3 ? throw new IOException("too many open files") : Task.FromResult<IVmm?>(driver.NewVmm());
        await using var agent = await StartAsync(driver, clock);
        var stream = await Scheduler.NextAsync();
        Assert.Equal(HostVmState.Running, Assert.Single(stream.Hello.Vms).State);
        await stream.SendAsync(Remove());
        await UntilAsync("the third try", () =>
        {
            clock.Advance(TimeSpan.FromMilliseconds(500));
            return tries == 3;
        });
        await stream.ExpectReportAsync(Id, HostVmState.Removed);
        Assert.Equal((0, 0), (driver.Launches, driver.Running));
        Assert.Single(Lines.All, line => line.Contains("too many open files", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Should_count_the_boot_time_over_restarts_but_let_a_guest_say_that_it_is_ready()
    {
        var clock = new ManualClock();
        var record = Record(HostVmState.Running);
        record.Launch.Spec.BootTimeoutSeconds = 120;
        record.Launch.Spec.Boot = new BootSource { KernelPath = "/kernel" };
        record.LaunchedAt = Duration.FromTimeSpan(clock.GetElapsedTime(0) - TimeSpan.FromHours(1));
        Write(record);
        var driver = new ScriptedDriver();
        driver.OnAdopt = (_, _) => Task.FromResult<IVmm?>(driver.NewVmm());
        await using var agent = await StartAsync(driver, clock);
        var stream = await Scheduler.NextAsync();
        await stream.ExpectReportAsync(Id, HostVmState.Running);
        clock.Advance(TimeSpan.FromSeconds(9));
        // What comes later has overtaken nothing.
        await stream.SendAsync(new SchedulerMessage { ConsoleInput = new ConsoleInput { VmId = Id, Data = Google.Protobuf.ByteString.CopyFromUtf8("x") } });
        await UntilAsync("the input", () => driver.Vmms[0].Input.Count == 1);
        Assert.Empty(driver.Vmms[0].Stops);
        clock.Advance(TimeSpan.FromSeconds(1));
        Assert.Equal("boot_timeout", (await stream.ExpectReportAsync(Id, HostVmState.Failed)).Reason.Code);
    }

    [Fact]
    public async Task Should_put_a_broken_record_aside_and_serve_the_others()
    {
        Write(Record(HostVmState.Launching));
        var broken = Path.Combine(Root, "vms", IdOf(1));
        Directory.CreateDirectory(broken);
        await File.WriteAllTextAsync(Path.Combine(broken, "launch.pb"), "garbage");
        await using var agent = await StartAsync();
        var stream = await Scheduler.NextAsync();
        Assert.Equal(Id, Assert.Single(stream.Hello.Vms).VmId);
        Assert.Contains(Lines.All, line => line.Contains(IdOf(1), StringComparison.Ordinal) && line.Contains("quarantine", StringComparison.Ordinal));
    }

    [Fact]
    public async Task Should_begin_a_microvms_actor_anew_that_failed()
    {
        var driver = new ScriptedDriver();
        driver.OnAdopt = (_, _) => Task.FromResult<IVmm?>(driver.Vmms[0]);
        var faults = 1;
        driver.NewThreads = () => faults-- > 0 ? throw new InvalidOperationException("threads can't be told") : Task.FromResult<IReadOnlyList<int>>([]);
        await using var agent = await StartAsync(driver);
        var stream = await Scheduler.NextAsync();
        await stream.SendAsync(Launch());
        Assert.Equal(4711, (await stream.ExpectReportAsync(Id, HostVmState.Running)).VmmPid);
        Assert.Equal((1, 1), (driver.Launches, driver.MostAtOnce));
        await stream.SendAsync(Stop());
        await stream.ExpectReportAsync(Id, HostVmState.Ended);
    }

    [Fact]
    public async Task Should_know_a_vcpu_of_a_vmm_that_was_taken_over_as_soon_as_it_is_told()
    {
        Write(Record(HostVmState.Running));
        var told = new TaskCompletionSource<IReadOnlyList<int>>();
        var driver = new ScriptedDriver { NewThreads = () => told.Task };
        driver.OnAdopt = (_, _) => Task.FromResult<IVmm?>(driver.NewVmm());
        using var state = StateDirectory.Open(Root, Lines.Log);
        using var ending = new CancellationTokenSource();
        var context = new MicroVmContext(state, [driver], "", MicroVmContext.CurrentBoot(), TimeProvider.System, Lines.Log, ending.Token) { Networks = Networks(Lines.Log) };
        using var actors = ActorSystem.Create("host", AgentActors.Setup(Lines.Log));
        var agent = actors.ActorOf(Props.Create<HostAgentActor>(context, state.ReadAll()), "agent");
        await UntilAsync("the takeover", () => driver.Vmms.Count == 1);
        told.SetResult([4712, 4713]);

        IActorRef? found = null;
        await UntilAsync("the second vCPU", () => (found = Ask()) is not null);
        Assert.StartsWith(agent.Path.ToString(), found!.Path.ToString(), StringComparison.Ordinal);
        await actors.Terminate();
        await ending.CancelAsync();

        IActorRef? Ask() => actors.ActorSelection(agent.Path / "*" / "vcpu-1").Ask<ActorIdentity>(new Identify(1), TimeSpan.FromMilliseconds(200))
            .ContinueWith(answer => answer.IsCompletedSuccessfully ? answer.Result.Subject : null, TaskScheduler.Default).GetAwaiter().GetResult();
    }

    [Fact]
    public async Task Should_remember_a_stop_that_an_earlier_agent_had_begun()
    {
        var driver = new ScriptedDriver();
        driver.OnLaunch = (_, _) => Task.CompletedTask;
        await using (await StartAsync(driver))
        {
            var first = await Scheduler.NextAsync();
            await first.SendAsync(Launch());
            await first.ExpectReportAsync(Id, HostVmState.Running);
            driver.Vmms[0].OnStop = _ => new TaskCompletionSource().Task;
            await first.SendAsync(Stop());
            await UntilAsync("the stop", () => driver.Vmms[0].Stops.Count == 1);
        }

        // It ended while nobody watched, and not in an order that it could tell of.
        driver.OnAdopt = (_, _) =>
        {
            var gone = driver.NewVmm();
            gone.Break("vmm_killed");
            return Task.FromResult<IVmm?>(gone);
        };
        await using var second = await StartAsync(driver);
        var ended = await (await Scheduler.NextAsync()).ExpectReportAsync(Id, HostVmState.Ended);
        Assert.Equal("stop_requested", ended.Reason.Code);
    }

    /// <summary>The agent's own actor: begun anew it knows what the disk knows, not what stood there when the agent was started.</summary>
    [Fact]
    public async Task Should_begin_anew_from_the_disk()
    {
        Write(Record(HostVmState.Ended));
        using var state = StateDirectory.Open(Root, Lines.Log);
        using var ending = new CancellationTokenSource();
        var context = new MicroVmContext(
            state, [new SimulatedDriver(TimeProvider.System)], "", MicroVmContext.CurrentBoot(), TimeProvider.System, Lines.Log, ending.Token) { Networks = Networks(Lines.Log) };
        var actors = ActorSystem.Create("host", AgentActors.Setup(Lines.Log));
        var agent = actors.ActorOf(Props.Create<HostAgentActor>(context, state.ReadAll()), "agent");
        agent.Tell(new HostAgentActor.FromScheduler(Remove(), () => { }));
        agent.Tell(new HostAgentActor.FromScheduler(Launch(id: IdOf(2)), () => { }));
        var reports = Array.Empty<VmReport>();
        await UntilAsync("removal and launch", () =>
        {
            reports = agent.Ask<HostAgentActor.Reports>(HostAgentActor.GetReports.Instance).GetAwaiter().GetResult().Vms;
            return reports is [{ State: HostVmState.Running }];
        });
        agent.Tell(new HostAgentActor.FromScheduler(Stop(), () => throw new InvalidOperationException("a fault of the agent")));
        await UntilAsync("the new beginning", () => Lines.ToString().Contains("begun anew from the state directory", StringComparison.Ordinal));
        reports = (await agent.Ask<HostAgentActor.Reports>(HostAgentActor.GetReports.Instance, TimeSpan.FromSeconds(10))).Vms;
        Assert.Equal(IdOf(2), Assert.Single(reports).VmId);
        Assert.Contains(Lines.All, line => line.Contains("a fault of the agent", StringComparison.Ordinal));
        await actors.Terminate();
    }
}
