using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Scheduler.Tests.Vms;

/// <summary>Lives with a suspension in them, as pure decisions.</summary>
public sealed class SuspendedLifeTests
{
    private const string Id = "vm-00000000000000000000000001";
    private static readonly DateTimeOffset Now = new(2026, 11, 23, 12, 0, 0, TimeSpan.Zero);

    private static VmLife Apply(VmLife life, Decision decision)
    {
        Assert.Null(decision.Problem);
        return decision.Events.Aggregate(life, (state, stored) => state.Apply(stored));
    }

    private static VmLife Running(string restart = "never", string driver = "kvm")
    {
        var life = Apply(VmLife.None, VmLife.None.Create(Id, new VmSpec { Name = "one", Cpus = 1, DiskMib = 100, Driver = "auto", Restart = restart }, 0, Now));
        life = Apply(life, life.Placed("a", 1, Now, out _));
        return Apply(life, life.Report("a", new VmReport { VmId = Id, Epoch = 1, State = HostVmState.Running, Driver = driver }, Now, out _));
    }

    private static VmLife Suspending() => Running() is var life ? Apply(life, life.Suspend(Now)) : null!;

    private static VmLife Suspended(string restart = "never")
    {
        var life = Running(restart);
        life = Apply(life, life.Suspend(Now));
        return Say(life, HostVmState.Suspended, 1);
    }

    private static VmLife Say(VmLife life, HostVmState state, ulong epoch, string code = "", bool neverRan = false) =>
        Apply(life, life.Report("a", new VmReport { VmId = Id, Epoch = epoch, State = state, Driver = "kvm", NeverRan = neverRan, Reason = code.Length == 0 ? null : new Reason { Code = code, Message = "why" } }, Now, out _));

    [Fact]
    public void Should_save_and_go_on_under_the_next_epoch_on_the_host_that_has_it()
    {
        var life = Suspending();
        Assert.Equal(new Goal.Suspend("a", 1, 1), life.Goal);
        Assert.Empty(life.Suspend(Now).Events);
        life = Say(life, HostVmState.Suspended, 1);
        Assert.True(life is { Record: { State: VmState.Suspended, Saved: { Host: "a", Epoch: 1, Driver: "kvm" } }, Goal: Goal.Rest });
        life = Apply(life, life.Resume(Now));
        Assert.Empty(life.Resume(Now).Events);
        Assert.Equal(new Goal.FindPlace(2), life.Goal);
        Assert.Equal(("a", "kvm"), (life.Wanted.Host, life.Wanted.Driver));
        var wanted = VmLife.SearchFor(life.Record!, 2).Demand;
        Assert.Equal(("a", "kvm", 0), (wanted.Host, wanted.Driver, wanted.Needs.DiskMib));
        life = Apply(life, life.Placed("a", 2, Now, out _));
        // What the host says of the epoch that it is saved under neither counts nor has it removed there.
        Assert.Empty(life.Report("a", new VmReport { VmId = Id, Epoch = 1, State = HostVmState.Suspended }, Now, out var stale).Events);
        Assert.False(stale);
        Assert.Empty(life.Check("a", 1, present: false, Now, out var keep).Events);
        Assert.True(keep);
        life = Say(life, HostVmState.Running, 2);
        Assert.True(life.Record is { State: VmState.Running, Saved: null, Epoch: 2 });
        _ = life.Report("a", new VmReport { VmId = Id, Epoch = 1, State = HostVmState.Suspended }, Now, out stale);
        Assert.True(stale);
    }

    [Fact]
    public void Should_run_on_when_it_could_not_be_saved_and_try_again_only_when_asked_again()
    {
        var life = Suspending();
        var refused = new VmReport { VmId = Id, Epoch = 1, State = HostVmState.Running, SuspendFailed = new SuspendFailure { Attempt = 1, Reason = new Reason { Code = "snapshot_failed", Message = "no room" } } };
        life = Apply(life, life.Report("a", refused, Now, out _));
        Assert.True(life.Record is { State: VmState.Running, Reason.Message: "no room" });
        life = Apply(life, life.Suspend(Now));
        // A late copy of the answer to the first.
        Assert.Empty(life.Report("a", refused, Now, out _).Events);
        Assert.Equal(new Goal.Suspend("a", 1, 2), life.Goal);
    }

    [Fact]
    public void Should_stay_suspended_when_it_did_not_go_on_and_begin_anew_when_nothing_is_left_of_it()
    {
        var life = Suspended();
        life = Apply(life, life.Resume(Now));
        life = Apply(life, life.Placed("a", 2, Now, out _));
        var again = Say(life, HostVmState.Failed, 2, "vmm_failed", neverRan: true);
        Assert.True(again.Record is { State: VmState.Suspended, Saved.Epoch: 1, Epoch: 2, Reason.Code: "vmm_failed" });
        again = Apply(again, again.Resume(Now));
        Assert.Equal(new Goal.FindPlace(3), again.Goal);
        Assert.Equal(VmState.Failed, Say(life, HostVmState.Failed, 2, "snapshot_lost", neverRan: true).Record!.State);
        Assert.Equal(VmState.Failed, Say(life, HostVmState.Failed, 2, "vmm_failed").Record!.State);
    }

    [Theory]
    [InlineData("never", false)]
    [InlineData("on_failure", true)]
    [InlineData("always", true)]
    public void Should_say_so_when_its_host_is_lost_and_leave_the_rest_to_its_restart_policy(string policy, bool again)
    {
        var life = Suspended(policy);
        var lost = Apply(life, life.Lost("a", 1, Now));
        Assert.True(lost.Record is { State: VmState.Failed, Reason.Code: "host_lost", Saved: null });
        Assert.Equal(again, lost.Goal is Goal.Restart);
        // One that somebody wants to run begins anew elsewhere.
        var resumed = Apply(life, life.Resume(Now));
        resumed = Apply(resumed, resumed.Lost("a", 1, Now));
        Assert.True(resumed.Record is { State: VmState.Pending, Host: "", Saved: null, Reason.Code: "host_lost" });
    }

    [Fact]
    public void Should_be_stopped_and_deleted_where_it_is_saved()
    {
        var life = Suspended();
        var stopping = Apply(life, life.Stop(0, Now));
        Assert.Equal(new Goal.Stop("a", 1, 0), stopping.Goal);
        Assert.Equal(VmState.Stopped, Say(stopping, HostVmState.Ended, 1).Record!.State);
        var waiting = Apply(life, life.Resume(Now));
        Assert.Equal(new Goal.Stop("a", 1, 0), Apply(waiting, waiting.Stop(0, Now)).Goal);
        Assert.Equal(new Goal.Remove("a", 1), Apply(life, life.Delete(Now)).Goal);
        Assert.Equal(new Goal.Remove("a", 1), Apply(waiting, waiting.Delete(Now)).Goal);
        Assert.Equal("wrong_state", life.Start(Now).Problem?.Code);
    }

    [Theory]
    [InlineData(0)]
    [InlineData(10_000)]
    public void Should_not_take_its_memory_along_any_more_when_the_deadline_is_over(uint grace)
    {
        var life = Running();
        life = Apply(life, life.Move("a", 1, "b", 2, grace, Now, out _, address: "h:1"));
        Assert.IsType<Goal.Suspend>(life.Goal);
        // It gives way to another besides: no reason to lose what it has.
        Assert.Empty(life.Move("a", 1, "", 0, grace, Now, out _, preempted: true).Events);
        life = Apply(life, life.Move("a", 1, "", 0, 0, Now, out _));
        Assert.Equal(new Goal.Stop("a", 1, 0), life.Goal);
        Assert.Empty(life.Move("a", 1, "", 0, 0, Now, out _).Events);
        // It had just been saved.
        Assert.Equal(new Goal.Stop("a", 1, 0), Say(life, HostVmState.Suspended, 1).Goal);
        life = Say(life, HostVmState.Ended, 1, "stop_requested");
        Assert.True(life is { Goal: Goal.Launch { Host: "b", Epoch: 2 }, Record.Saved: null });
    }

    [Theory]
    [InlineData(HostVmState.Ended, "stop_requested", false)]
    [InlineData(HostVmState.Failed, "snapshot_unreachable", true)]
    [InlineData(HostVmState.Removed, "", false)]
    public void Should_begin_anew_when_the_deadline_is_over_before_it_was_fetched(HostVmState end, string code, bool neverRan)
    {
        var life = Running();
        life = Apply(life, life.Move("a", 1, "b", 2, 0, Now, out _, address: "h:1"));
        var saved = new VmReport { VmId = Id, Epoch = 1, State = HostVmState.Suspended, Driver = "kvm", Snapshot = new SnapshotDigest { MemoryBytes = 1 } };
        life = Apply(life, life.Report("a", saved, Now, out _));
        Assert.True(life is { Goal: Goal.Launch { Host: "b" }, Record.Saved.Host: "a" });
        Assert.Empty(life.Move("a", 1, "", 0, 0, Now, out _, preempted: true).Events);
        life = Apply(life, life.Move("a", 1, "", 0, 0, Now, out _));
        // Never a second copy: first nothing of it may be left where it was about to go on.
        Assert.True(life is { Goal: Goal.Stop { Host: "b", Epoch: 2, GraceMs: 0 }, Record.Saved: null });
        Assert.Contains("Host a is drained, and its deadline was over before b had fetched", life.Record!.Reason.Message, StringComparison.Ordinal);
        Assert.Empty(life.Move("a", 1, "", 0, 0, Now, out _).Events);
        var over = new VmReport { VmId = Id, Epoch = 2, State = end, Driver = "kvm", NeverRan = neverRan, Reason = code.Length == 0 ? null : new Reason { Code = code, Message = "why" } };
        life = Apply(life, life.Report("b", over, Now, out _));
        Assert.True(life is { Goal: Goal.FindPlace { Epoch: 3 }, Record: { Saved: null, Move: null } });
    }

    [Fact]
    public void Should_refuse_what_makes_no_sense()
    {
        Assert.Contains("qemu", Running(driver: "qemu").Suspend(Now).Problem!.Message, StringComparison.Ordinal);
        var networked = Running();
        networked.Record!.Spec.Network = NetworkRules.Tenant;
        Assert.Contains("network", networked.Suspend(Now).Problem!.Message, StringComparison.Ordinal);
        Assert.Equal("wrong_state", Running().Resume(Now).Problem?.Code);
        Assert.Equal("wrong_state", Suspending().Resume(Now).Problem?.Code);
        var created = Apply(VmLife.None, VmLife.None.Create(Id, new VmSpec { Name = "one" }, 0, Now));
        Assert.Equal("wrong_state", created.Suspend(Now).Problem?.Code);
        Assert.Equal("not_found", VmLife.None.Suspend(Now).Problem?.Code);
        Assert.Equal("not_found", VmLife.None.Resume(Now).Problem?.Code);
    }
}
