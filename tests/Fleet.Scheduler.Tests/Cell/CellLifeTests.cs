using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Placement;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>microVMs between the API and a host, through the real actors, journal and service.</summary>
public sealed class CellLifeTests(SharedCell shared) : IClassFixture<SharedCell>
{
    private TestCell Cell => shared.Cell;

    [Fact]
    public async Task Should_take_a_microVM_from_create_to_delete()
    {
        await using var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent, cpus: 2, memoryMib: 256));
        var running = await Cell.WaitAsync(id, VmState.Running);
        Assert.Equal((agent.HostId, 1UL, "simulated", 4711), (running.Host, running.Epoch, running.Driver, running.VmmPid));
        var host = await Cell.HostAsync(agent.HostId);
        Assert.Equal((2U, 256UL, 1U), (host.ReservedCpus, host.ReservedMemoryMib, host.Vms));

        agent.Report(id, HostVmState.Ended, new Reason { Code = "command_exited", Message = "7" }, new GuestExit { Status = 7 });
        var stopped = await Cell.WaitAsync(id, VmState.Stopped);
        Assert.Equal((7, "command_exited", 0), (stopped.Exit.Status, stopped.Reason.Code, stopped.VmmPid));
        Assert.Equal(0U, (await Cell.HostAsync(agent.HostId)).Vms);

        // The fake agent fails the test if a new epoch is launched while the old one is still there.
        Assert.Null((await Cell.Cell.StartVmAsync(id, CancellationToken.None)).Problem);
        Assert.Equal(2UL, (await Cell.WaitAsync(id, VmState.Running)).Epoch);

        Assert.Null((await Cell.Cell.DeleteVmAsync(id, CancellationToken.None)).Problem);
        await Cell.WaitAsync(id, VmState.Deleted);
        Assert.Equal("not_found", (await Cell.Cell.GetVmAsync(id, CancellationToken.None)).Problem?.Code);
        Assert.Equal("not_found", (await Cell.Cell.DeleteVmAsync(id, CancellationToken.None)).Problem?.Code);
        Assert.Equal("not_found", (await Cell.Cell.CreateVmAsync(id, TestCell.Spec(), CancellationToken.None)).Problem?.Code);
        await Eventually.TrueAsync(() => agent.VmCount == 0);
        host = await Cell.HostAsync(agent.HostId);
        Assert.Equal((0U, 0UL, 0U), (host.ReservedCpus, host.ReservedMemoryMib, host.Vms));
    }

    [Fact]
    public async Task Should_answer_a_repeated_create_with_the_same_microVM()
    {
        await using var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        var again = await Cell.Cell.CreateVmAsync(id, TestCell.Spec("other"), CancellationToken.None);
        Assert.Null(again.Problem);
        Assert.Equal("one", again.Vm!.Spec.Name);
    }

    [Fact]
    public async Task Should_wait_for_room_with_the_numbers_and_take_it_when_it_comes()
    {
        await using var agent = await shared.JoinAsync(cpus: 1, memoryMib: 1024);
        var first = await Cell.CreateAsync(SharedCell.On(agent, memoryMib: 1000));
        await Cell.WaitAsync(first, VmState.Running);
        var second = await Cell.CreateAsync(SharedCell.On(agent, memoryMib: 512));
        var unplaced = await Cell.WaitAsync(second, VmState.Unplaced);
        Assert.Equal("no_capacity", unplaced.Reason.Code);
        Assert.Contains("wanted 512 MiB, most free 24 MiB", unplaced.Reason.Message, StringComparison.Ordinal);

        await Cell.Cell.DeleteVmAsync(first, CancellationToken.None);
        Assert.Equal(agent.HostId, (await Cell.WaitAsync(second, VmState.Running)).Host);
    }

    [Fact]
    public async Task Should_give_the_last_room_to_exactly_one_of_many()
    {
        await using var agent = await shared.JoinAsync(cpus: 1, memoryMib: 128);
        var ids = await Task.WhenAll(Enumerable.Range(0, 8).Select(_ => Cell.CreateAsync(SharedCell.On(agent))));
        var settled = await Task.WhenAll(ids.Select(id => Cell.WaitAsync(id, VmState.Running, VmState.Unplaced)));
        await Eventually.TrueAsync(async () =>
            (await Task.WhenAll(ids.Select(Cell.GetAsync))).Count(vm => vm.State == VmState.Running) == 1);
        Assert.Equal(128UL, (await Cell.HostAsync(agent.HostId)).ReservedMemoryMib);
        Assert.Equal(1, agent.VmCount);
        Assert.Equal(8, settled.Length);
    }

    [Fact]
    public async Task Should_place_when_the_named_host_joins()
    {
        await using var agent = SharedCell.NewAgent();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        Assert.Equal("host_not_found", (await Cell.WaitAsync(id, VmState.Unplaced)).Reason.Code);
        await agent.ConnectAsync(Cell.System.HostLink);
        await Cell.WaitAsync(id, VmState.Running);
    }

    [Fact]
    public async Task Should_place_nothing_on_a_cordoned_host_and_leave_there_what_it_has()
    {
        await using var agent = await shared.JoinAsync();
        var first = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(first, VmState.Running);
        Assert.True((await Cell.Cell.CordonHostAsync(agent.HostId, true, CancellationToken.None)).Host!.Cordoned);
        Assert.True((await Cell.Cell.CordonHostAsync(agent.HostId, true, CancellationToken.None)).Host!.Cordoned);
        var second = await Cell.CreateAsync(SharedCell.On(agent));
        var waits = await Cell.WaitAsync(second, VmState.Unplaced);
        Assert.Equal(("no_hosts", "The connected host is cordoned. 'fleet host uncordon' lets one take microVMs again."), (waits.Reason.Code, waits.Reason.Message));
        Assert.Equal((VmState.Running, 1), ((await Cell.GetAsync(first)).State, agent.VmCount));

        // A new stream of its agent changes nothing about it.
        await agent.CutAsync();
        await agent.ConnectAsync(Cell.System.HostLink);
        Assert.True((await Cell.HostAsync(agent.HostId)).Cordoned);
        Assert.False((await Cell.Cell.CordonHostAsync(agent.HostId, false, CancellationToken.None)).Host!.Cordoned);
        await Cell.WaitAsync(second, VmState.Running);
        Assert.Equal("not_found", (await Cell.Cell.CordonHostAsync("nobody", true, CancellationToken.None)).Problem?.Code);
    }

    [Fact]
    public async Task Should_run_again_what_ends_by_itself_also_after_a_crash_of_the_cell()
    {
        await using var cell = await TestCell.StartAsync();
        await using var agent = new FakeAgent("again");
        await agent.ConnectAsync(cell.System.HostLink);
        var spec = TestCell.Spec();
        spec.Restart = "on_failure";
        var id = await cell.CreateAsync(spec);
        await cell.WaitAsync(id, VmState.Running);
        agent.Report(id, HostVmState.Failed, new Reason { Code = "vmm_killed", Message = "gone" });
        await Eventually.TrueAsync(async () => await cell.GetAsync(id) is { State: VmState.Running, Epoch: 2, Restarts: 1 });
        agent.Report(id, HostVmState.Failed, new Reason { Code = "vmm_killed", Message = "gone" });
        await cell.WaitAsync(id, VmState.Failed);
        await agent.CutAsync();
        await cell.CrashAndRestartAsync();
        await agent.ConnectAsync(cell.System.HostLink);
        await Eventually.TrueAsync(async () => await cell.GetAsync(id) is { State: VmState.Running, Epoch: 3, Restarts: 2 });
    }

    [Fact]
    public async Task Should_say_when_no_host_has_the_driver()
    {
        await using var agent = await shared.JoinAsync();
        var spec = SharedCell.On(agent);
        spec.Driver = "kvm";
        var id = await Cell.CreateAsync(spec);
        Assert.Equal("no_driver", (await Cell.WaitAsync(id, VmState.Unplaced)).Reason.Code);
    }

    [Fact]
    public async Task Should_stop_and_delete_what_was_never_placed()
    {
        var spec = TestCell.Spec();
        spec.Host = "nobody";
        var id = await Cell.CreateAsync(spec);
        await Cell.Cell.StopVmAsync(id, TimeSpan.Zero, CancellationToken.None);
        Assert.Equal("stop_requested", (await Cell.WaitAsync(id, VmState.Stopped)).Reason.Code);
        var deleted = await Cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        Assert.Equal(VmState.Deleted, deleted.Vm!.State);
    }

    [Fact]
    public async Task Should_stop_and_refuse_verbs_that_do_not_fit()
    {
        await using var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        Assert.Equal("wrong_state", (await Cell.Cell.StartVmAsync(id, CancellationToken.None)).Problem?.Code);
        Assert.Equal(VmState.Stopping, (await Cell.Cell.StopVmAsync(id, TimeSpan.FromSeconds(3), CancellationToken.None)).Vm!.State);
        Assert.Equal("stop_requested", (await Cell.WaitAsync(id, VmState.Stopped)).Reason.Code);
        Assert.Equal(3000U, agent.Received.First(message => message.Stop is not null).Stop.GraceMs);
    }

    [Fact]
    public async Task Should_say_that_a_delete_waits_for_its_host_and_finish_when_it_is_back()
    {
        await using var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => (await Cell.HostAsync(agent.HostId)).State == HostState.Disconnected);
        Assert.Equal(VmState.Running, (await Cell.GetAsync(id)).State);
        var inUse = (await Cell.Cell.RemoveHostAsync(agent.HostId, false, CancellationToken.None)).Problem;
        Assert.Equal("host_in_use", inUse?.Code);
        Assert.Contains(id, inUse!.Message, StringComparison.Ordinal);

        await Cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await Eventually.TrueAsync(async () => (await Cell.GetAsync(id)).Reason?.Code == "host_disconnected");

        await agent.ConnectAsync(Cell.System.HostLink);
        await Cell.WaitAsync(id, VmState.Deleted);
        Assert.Equal("host_connected", (await Cell.Cell.RemoveHostAsync(agent.HostId, false, CancellationToken.None)).Problem?.Code);
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => (await Cell.Cell.RemoveHostAsync(agent.HostId, false, CancellationToken.None)).Problem is null);
        Assert.Equal("not_found", (await Cell.Cell.GetHostAsync(agent.HostId, CancellationToken.None)).Problem?.Code);

        // A removed host may join again, but not by the certificate that it had.
        agent.Open(Cell.System.HostLink);
        agent.Send(new HostMessage { Hello = agent.Hello() });
        await Eventually.TrueAsync(() => agent.Refusal?.Code == "certificate_revoked");
        await agent.EnrolAsync(Cell.Cell);
        await agent.ConnectAsync(Cell.System.HostLink);
        await Cell.WaitAsync(await Cell.CreateAsync(SharedCell.On(agent)), VmState.Running);
    }

    /// <summary>A machine that never comes back must not hold the names of its microVMs for ever.</summary>
    [Fact]
    public async Task Should_end_a_delete_when_its_host_is_given_up_and_tell_the_host_if_it_returns()
    {
        await using var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => (await Cell.HostAsync(agent.HostId)).State == HostState.Disconnected);
        await Cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await Eventually.TrueAsync(async () => (await Cell.Cell.RemoveHostAsync(agent.HostId, false, CancellationToken.None)).Problem is null);
        await Cell.WaitAsync(id, VmState.Deleted);

        await agent.EnrolAsync(Cell.Cell);
        await agent.ConnectAsync(Cell.System.HostLink);
        await Eventually.TrueAsync(() => agent.VmCount == 0);
        Assert.Equal((0U, 0UL), ((await Cell.HostAsync(agent.HostId)).ReservedCpus, (await Cell.HostAsync(agent.HostId)).ReservedMemoryMib));
    }

    [Fact]
    public async Task Should_release_what_earlier_epochs_left_once()
    {
        await using var agent = await shared.JoinAsync();
        var id = TestCell.NewVmId();
        var hosts = Cell.System.ActorSystem.ActorSelection("/system/sharding/host");
        for (var epoch = 1UL; epoch <= 3; epoch++)
        {
            var answer = await hosts.Ask<RoomAnswer>(new ReserveRoom { HostId = agent.HostId, VmId = id, Epoch = epoch, Spec = SharedCell.On(agent) }, Eventually.Bound);
            Assert.Null(answer.Rejection);
        }

        await hosts.Ask<HostCommandAnswer>(
            new CommandHost { HostId = agent.HostId, VmId = id, Epoch = 3, Launch = new LaunchVm { VmId = id, Epoch = 3, Spec = SharedCell.On(agent) } }, Eventually.Bound);
        await Eventually.TrueAsync(() => agent.Received.Any(message => message.Launch is { Epoch: 3 } launch && launch.VmId == id));

        // What it stored can be read back: it answers after it was ended as well.
        await hosts.Ask<HostCommandAnswer>(new CommandHost { HostId = agent.HostId, VmId = id, Epoch = 1, Stop = new StopVm { VmId = id, Epoch = 1 } }, Eventually.Bound);
        Assert.InRange((await Cell.HostAsync(agent.HostId)).ReservedCpus, 0U, 1U);
    }

    [Fact]
    public async Task Should_forget_what_an_ended_microVM_left_on_a_host_that_is_removed()
    {
        await using var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        agent.Report(id, HostVmState.Ended, new Reason { Code = "guest_shutdown" });
        await Cell.WaitAsync(id, VmState.Stopped);
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => (await Cell.Cell.RemoveHostAsync(agent.HostId, false, CancellationToken.None)).Problem is null);
        await Cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await Cell.WaitAsync(id, VmState.Deleted);

        await agent.EnrolAsync(Cell.Cell);
        await agent.ConnectAsync(Cell.System.HostLink);
        await Eventually.TrueAsync(() => agent.VmCount == 0);
    }

    [Fact]
    public async Task Should_repeat_an_order_until_a_report_answers_it()
    {
        await using var agent = await shared.JoinAsync();
        var dropped = 0;
        agent.Swallow = message => message.Launch is not null && Interlocked.Increment(ref dropped) <= 3;
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        Assert.Equal(1, agent.Find(id)!.Starts);

        dropped = 0;
        agent.Swallow = message => message.Remove is not null && Interlocked.Increment(ref dropped) <= 3;
        await Cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await Cell.WaitAsync(id, VmState.Deleted);
    }

    [Fact]
    public async Task Should_not_stop_what_never_reached_its_host()
    {
        await using var agent = await shared.JoinAsync();
        agent.Swallow = message => message.Launch is not null;
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Starting);
        await Eventually.TrueAsync(() => agent.Received.Any(message => message.Launch?.VmId == id));
        await agent.CutAsync();
        await agent.ConnectAsync(Cell.System.HostLink);
        await Cell.Cell.StopVmAsync(id, TimeSpan.Zero, CancellationToken.None);
        // The agent knows nothing of it and never answers; its Hello without the microVM was answer enough, or the repeated launch's loss.
        await agent.CutAsync();
        await agent.ConnectAsync(Cell.System.HostLink);
        await Cell.WaitAsync(id, VmState.Stopped);
        await Eventually.TrueAsync(async () => (await Cell.HostAsync(agent.HostId)).Vms == 0);
    }

    [Fact]
    public async Task Should_fail_what_its_host_lost()
    {
        await using var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        await agent.CutAsync();
        agent.Forget(id);
        await agent.ConnectAsync(Cell.System.HostLink);
        Assert.Equal("vmm_killed", (await Cell.WaitAsync(id, VmState.Failed)).Reason.Code);
        await Eventually.TrueAsync(async () => (await Cell.HostAsync(agent.HostId)).Vms == 0);
        await Cell.Cell.StartVmAsync(id, CancellationToken.None);
        Assert.Equal(2UL, (await Cell.WaitAsync(id, VmState.Running)).Epoch);
    }

    [Fact]
    public async Task Should_believe_a_host_that_removed_its_own_microVM_unasked()
    {
        await using var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        agent.Report(id, HostVmState.Removed);
        Assert.Equal("vmm_killed", (await Cell.WaitAsync(id, VmState.Failed)).Reason.Code);
        await Eventually.TrueAsync(() => agent.VmCount == 0);
        Assert.Equal(0U, (await Cell.HostAsync(agent.HostId)).Vms);
        await Cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await Cell.WaitAsync(id, VmState.Deleted);
    }

    [Fact]
    public async Task Should_have_strangers_removed_and_never_believe_a_host_about_them()
    {
        await using var agent = await shared.JoinAsync();
        await using var liar = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);

        liar.Send(new HostMessage { Report = new VmReport { VmId = id, Epoch = 1, Sequence = 99, State = HostVmState.Ended, Reason = new Reason { Code = "lies" } } });
        await Eventually.TrueAsync(() => liar.Received.Any(message => message.Remove?.VmId == id));
        liar.Send(new HostMessage { Report = new VmReport { VmId = id, Epoch = 1, Sequence = 100, State = HostVmState.Removed } });
        await Eventually.TrueAsync(() => liar.Received.Any(message => message.ReportAck?.Sequence == 100));
        Assert.Equal(VmState.Running, (await Cell.GetAsync(id)).State);
    }

    [Fact]
    public async Task Should_release_a_reservation_that_no_microVM_wants()
    {
        await using var agent = await shared.JoinAsync();
        var answer = await Akka.Actor.Futures.Ask<RoomAnswer>(
            Akka.Cluster.Sharding.ClusterSharding.Get(Cell.System.ActorSystem).ShardRegion(ShardRegions.Hosts),
            new ReserveRoom { HostId = agent.HostId, VmId = TestCell.NewVmId(), Epoch = 1, Spec = SharedCell.On(agent) },
            Eventually.Bound);
        Assert.Null(answer.Rejection);
        Assert.Equal(1U, (await Cell.HostAsync(agent.HostId)).Vms);
        await Eventually.TrueAsync(
            async () => (await Cell.HostAsync(agent.HostId)).Vms == 0,
            () => $"It still holds its room. The stream is {(agent.IsOpen ? "open" : "over")}; the agent received {string.Join(", ", agent.Received.Select(message => message.BodyCase))}.");
    }

    /// <summary>A microVM that has not heard yet how its launch ended orders it once more, when its room may be another's already.</summary>
    [Fact]
    public async Task Should_not_launch_what_has_ended_on_the_host_once_more()
    {
        await using var agent = await shared.JoinAsync();
        agent.LaunchFault = new Reason { Code = "kernel_missing", Message = "no" };
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Failed);
        var answer = await Akka.Actor.Futures.Ask<HostCommandAnswer>(
            Akka.Cluster.Sharding.ClusterSharding.Get(Cell.System.ActorSystem).ShardRegion(ShardRegions.Hosts),
            new CommandHost { HostId = agent.HostId, VmId = id, Epoch = 1, Launch = new LaunchVm { VmId = id, Epoch = 1, Spec = SharedCell.On(agent) } },
            Eventually.Bound);
        Assert.Equal(HostCommandOutcome.Accepted, answer.Outcome);
        // Comes behind it on the stream.
        await Cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        await Eventually.TrueAsync(() => agent.VmCount == 0);
        Assert.Single(agent.Received, message => message.Launch is not null);
    }

    [Fact]
    public async Task Should_refuse_room_on_a_host_without_the_labels_or_zone_whatever_placement_thought()
    {
        await using var agent = await shared.JoinAsync();
        var hosts = Akka.Cluster.Sharding.ClusterSharding.Get(Cell.System.ActorSystem).ShardRegion(ShardRegions.Hosts);
        var labelled = SharedCell.On(agent);
        labelled.HostLabels.Add("disk", "ssd");
        var zoned = SharedCell.On(agent);
        zoned.Zones.Add("west");
        foreach (var (spec, reason) in new[] { (labelled, RejectionReason.Labels), (zoned, RejectionReason.Zone) })
        {
            var answer = await Akka.Actor.Futures.Ask<RoomAnswer>(
                hosts, new ReserveRoom { HostId = agent.HostId, VmId = TestCell.NewVmId(), Epoch = 1, Spec = spec }, Eventually.Bound);
            Assert.Equal(reason, answer.Rejection?.Reason);
        }
    }

    [Fact]
    public async Task Should_answer_waits_with_the_state_the_timeout_or_the_end()
    {
        await using var agent = await shared.JoinAsync();
        agent.Swallow = message => message.Launch is not null;
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        var running = Cell.Cell.WaitVmAsync(id, new HashSet<VmState> { VmState.Running }, Eventually.Bound, CancellationToken.None);
        var late = await Cell.Cell.WaitVmAsync(id, new HashSet<VmState> { VmState.Stopped }, TimeSpan.FromMilliseconds(50), CancellationToken.None);
        Assert.Equal(("timeout", id), (late.Problem?.Code, late.Vm?.Id));
        agent.Swallow = null;
        Assert.Equal(VmState.Running, (await running).Vm?.State);

        var never = Cell.Cell.WaitVmAsync(id, new HashSet<VmState> { VmState.Failed }, Eventually.Bound, CancellationToken.None);
        await Cell.Cell.DeleteVmAsync(id, CancellationToken.None);
        Assert.Equal("not_found", (await never).Problem?.Code);
        Assert.Equal("not_found", (await Cell.Cell.WaitVmAsync("no id", new HashSet<VmState>(), TimeSpan.Zero, CancellationToken.None)).Problem?.Code);
        Assert.Equal("not_found", (await Cell.Cell.WaitVmAsync(TestCell.NewVmId(), new HashSet<VmState>(), TimeSpan.Zero, CancellationToken.None)).Problem?.Code);
    }

    [Fact]
    public async Task Should_bound_the_callers_that_wait_for_one_microVM()
    {
        var spec = TestCell.Spec();
        spec.Host = "nobody";
        var id = await Cell.CreateAsync(spec);
        var waits = Enumerable.Range(0, 80)
            .Select(_ => Cell.Cell.WaitVmAsync(id, new HashSet<VmState> { VmState.Running }, TimeSpan.FromMilliseconds(500), CancellationToken.None))
            .ToList();
        var answers = await Task.WhenAll(waits);
        var most = TestCell.Options("").WaitersPerVm;
        Assert.Equal(most, answers.Count(answer => answer.Problem?.Code == "timeout"));
        Assert.Equal(80 - most, answers.Count(answer => answer.Problem?.Code == "unavailable"));
        await Cell.Cell.DeleteVmAsync(id, CancellationToken.None);
    }

    [Fact]
    public void Should_have_sent_nothing_without_protobuf() => Assert.Empty(AkkaOnlySerializer.Refused);
}
