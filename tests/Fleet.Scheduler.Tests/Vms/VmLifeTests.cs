using CsCheck;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Vms;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;
using Xunit;

namespace Fleet.Scheduler.Tests.Vms;

public sealed partial class VmLifeTests
{
    private static readonly DateTimeOffset Start = new(2026, 11, 23, 12, 0, 0, TimeSpan.Zero);
    private const string Id = "vm-00000000000000000000000001";

    private static Gen<T> Any<T>(params T[] values) => Gen.Int[0, values.Length - 1].Select(at => values[at]);

    // --- what a life is made of, for random walks ---

    private abstract record Step;

    private sealed record Ask(int What, uint Grace) : Step;

    private sealed record Room(string Host, ulong EpochFromNext) : Step;

    private sealed record NoRoom(string Code) : Step;

    private sealed record Said(string Host, long EpochOffset, HostVmState State, ulong Sequence, ulong Limits) : Step;

    private sealed record HostGone(string Host, long EpochOffset) : Step;

    private sealed record HostCheck(string Host, long EpochOffset, bool Present) : Step;

    private sealed record HostLostIt(string Host, long EpochOffset) : Step;

    private sealed record Drained(string Host, string To, uint Grace) : Step;

    private sealed record Reached(bool Connected) : Step;

    private sealed record Limited(ulong Operations) : Step;

    private static readonly Gen<string> Host = Any("a", "b");

    private static readonly Gen<HostVmState> HostState = Any(
        HostVmState.Launching, HostVmState.Running, HostVmState.Ended, HostVmState.Failed, HostVmState.Removed, HostVmState.Suspended);

    private static readonly Gen<Step> AnyStep = Gen.Frequency(
        (6, Gen.Select(Gen.Int[0, 6], Gen.UInt[0, 3], (what, grace) => (Step)new Ask(what, grace * 1000))),
        (4, Gen.Select(Host, Gen.ULong[0, 1], (host, offset) => (Step)new Room(host, offset))),
        (1, Any("no_capacity", "no_hosts").Select(code => (Step)new NoRoom(code))),
        (6, Gen.Select(Host, Gen.Long[-1, 1], HostState, Gen.ULong[1, 9], Gen.ULong[0, 3], (host, epoch, state, sequence, limits) => (Step)new Said(host, epoch, state, sequence, limits))),
        (1, Gen.Select(Host, Gen.Long[-1, 1], (host, epoch) => (Step)new HostGone(host, epoch))),
        (1, Gen.Select(Host, Gen.Long[-1, 1], Gen.Bool, (host, epoch, present) => (Step)new HostCheck(host, epoch, present))),
        (1, Gen.Select(Host, Gen.Long[-1, 1], (host, epoch) => (Step)new HostLostIt(host, epoch))),
        (2, Gen.Select(Host, Any("", "a", "b"), Gen.UInt[0, 2], (host, to, grace) => (Step)new Drained(host, host == to ? "" : to, grace))),
        (2, Gen.ULong[0, 2].Select(operations => (Step)new Limited(operations))),
        (1, Gen.Bool.Select(connected => (Step)new Reached(connected))));

    private static Decision Decide(VmLife life, Step step, DateTimeOffset now)
    {
        var epoch = life.Record?.Epoch ?? 0;
        return step switch
        {
            Ask { What: 0 } ask => life.Create(Id, new VmSpec { Name = "one", Driver = "auto", Restart = RestartOf(ask.Grace) }, 0, now),
            Ask { What: 1 } ask => life.Stop(ask.Grace, now),
            Ask { What: 2 } => life.Start(now),
            Ask { What: 3 } => life.Restart(now),
            Ask { What: 4 } => life.Suspend(now),
            Ask { What: 5 } => life.Resume(now),
            Ask => life.Delete(now),
            Room room => life.Placed(room.Host, epoch + 1 - room.EpochFromNext, now, out _),
            NoRoom none => life.Unplaced(new Reason { Code = none.Code }, isLasting: true, now),
            Said said => life.Report(said.Host, ReportOf(At(epoch, said.EpochOffset), said.State, said.Sequence, said.Limits), now, out _),
            HostGone gone => life.Gone(gone.Host, At(epoch, gone.EpochOffset), now),
            HostCheck check => life.Check(check.Host, At(epoch, check.EpochOffset), check.Present, now, out _),
            HostLostIt lost => life.Lost(lost.Host, At(epoch, lost.EpochOffset), now),
            Drained drained => life.Move(drained.Host, epoch, drained.To, drained.To.Length == 0 ? 0 : epoch + 1, drained.Grace, now, out _, drained is { To: "", Grace: 1 }, address: drained.Grace == 2 ? "10.0.0.1:7072" : ""),
            Limited limited => life.Limit("entropy", Limit(limited.Operations), now),
            Reached reached => life.Reach(reached.Connected, now),
            _ => throw new InvalidOperationException(),
        };
    }

    private static string RestartOf(uint grace) => grace switch { 0 => "never", 1000 => "on_failure", _ => "always" };

    private static ulong At(ulong epoch, long offset) => (ulong)Math.Max(0, (long)epoch + offset);

    private static RateLimit? Limit(ulong operations) =>
        operations == 0 ? null : new RateLimit { Ops = new TokenBucket { Size = operations, RefillTimeMs = 1000 } };

    private static VmReport ReportOf(ulong epoch, HostVmState state, ulong sequence = 1, ulong limits = 0) => new()
    {
        LimitsRevision = limits,
        SuspendFailed = sequence == 9 ? new SuspendFailure { Attempt = 1, Reason = new Reason { Code = "snapshot_failed" } } : null,
        NeverRan = sequence >= 8,
        Snapshot = sequence >= 6 ? new SnapshotDigest { StateBytes = 1 } : null,
        VmId = Id,
        Epoch = epoch,
        State = state,
        Sequence = sequence,
        Driver = "kvm",
        VmmPid = 4711,
    };

    private static VmLife Apply(VmLife life, Decision decision) => decision.Events.Aggregate(life, (state, stored) => state.Apply(stored));

    private static VmLife Created() => Apply(VmLife.None, VmLife.None.Create(Id, new VmSpec { Name = "one", Cpus = 1, Driver = "auto" }, 0, Start));

    private static VmLife PlacedOn(string host) => Apply(Created(), Created().Placed(host, 1, Start, out _));

    private static VmLife Say(VmLife life, HostVmState state, string host = "a") =>
        Apply(life, life.Report(host, ReportOf(life.Record!.Epoch, state), Start, out _));

    [Fact]
    public void A_microVM_says_that_it_waits_for_its_image_and_once()
    {
        var report = ReportOf(1, HostVmState.Launching);
        report.Reason = new Reason { Code = "pulling_image", Message = "The host pulls nginx." };
        var life = Apply(PlacedOn("a"), PlacedOn("a").Report("a", report, Start, out _));
        Assert.Equal((VmState.Starting, "pulling_image"), (life.Record!.State, life.Record.Reason.Code));
        Assert.True(life.Report("a", report, Start, out _).Events.IsEmpty);
        var running = Say(life, HostVmState.Running);
        Assert.Null(running.Record!.Reason);
        Assert.True(running.Report("a", report, Start, out _).Events.IsEmpty);
    }

    private static VmLife RunningOn(string host) => Say(PlacedOn(host), HostVmState.Running, host);

    [Fact]
    public void Should_know_the_addresses_of_what_runs_and_of_nothing_else()
    {
        var spec = new VmSpec { Name = "one", Driver = "auto", Network = "tenant" };
        foreach (var (wanted, known) in new[] { (spec, true), (new VmSpec { Name = "one", Driver = "auto" }, false) })
        {
            var life = Apply(VmLife.None, VmLife.None.Create(Id, wanted, 0, Start));
            life = Apply(life, life.Placed("a", 1, Start, out _));
            var report = ReportOf(1, HostVmState.Running);
            report.Addresses = new NetworkAddresses { Ipv4 = "10.144.0.2", Ipv6 = "fd00::2" };
            life = Apply(life, life.Report("a", report, Start, out _));
            Assert.Equal(known ? "10.144.0.2" : null, life.Record!.Addresses?.Ipv4);
            Assert.Null(Say(life, HostVmState.Ended).Record!.Addresses);
        }
    }

    [Fact]
    public void Should_blame_no_host_for_what_it_has_given_away()
    {
        var report = ReportOf(1, HostVmState.Failed);
        (report.NeverRan, report.Reason) = (true, new Reason { Code = "port_taken", Message = "why" });
        foreach (var code in (string[])["port_taken", "image_no_space", "registry_unavailable"])
        {
            report.Reason.Code = code;
            Assert.Equal((true, false), (LaunchFaults.MayWorkElsewhere(report), LaunchFaults.IsHosts(report)));
        }
        report.Reason.Code = "network_unavailable";
        Assert.Equal((true, true), (LaunchFaults.MayWorkElsewhere(report), LaunchFaults.IsHosts(report)));
    }

    [Theory]
    [InlineData("image_unavailable", true, "", VmState.Pending)]
    [InlineData("launch_failed", true, "", VmState.Pending)]
    [InlineData("launch_failed", false, "", VmState.Failed)]
    [InlineData("port_taken", true, "", VmState.Pending)]
    [InlineData("addresses_exhausted", true, "", VmState.Pending)]
    [InlineData("network_unavailable", true, "", VmState.Pending)]
    [InlineData("image_no_space", true, "", VmState.Pending)]
    [InlineData("registry_unavailable", true, "", VmState.Pending)]
    [InlineData("image_refused", true, "", VmState.Failed)]
    [InlineData("image_not_found", true, "", VmState.Failed)]
    [InlineData("kernel_missing", true, "", VmState.Failed)]
    [InlineData("image_unavailable", true, "a", VmState.Failed)]
    public void Should_go_elsewhere_when_only_its_host_was_at_fault(string code, bool neverRan, string host, VmState expected)
    {
        var life = Apply(VmLife.None, VmLife.None.Create(Id, new VmSpec { Name = "one", Driver = "auto", Host = host }, 0, Start));
        for (ulong epoch = 1; epoch <= 3; epoch++)
        {
            var at = $"{(char)('a' + epoch - 1)}";
            life = Apply(life, life.Placed(at, epoch, Start, out _));
            var report = ReportOf(epoch, HostVmState.Failed);
            (report.NeverRan, report.Reason) = (neverRan, new Reason { Code = code, Message = "why" });
            life = Apply(life, life.Report(at, report, Start, out _));
            Assert.Equal(epoch < 3 ? expected : VmState.Failed, life.Record!.State);
            Assert.Equal("why", life.Record.Reason.Message);
            if (expected == VmState.Failed)
                return;
        }

        // Bounded, and forgotten when it is started again.
        Assert.Equal(["a", "b"], life.Record!.FailedHosts);
        Assert.Empty(Apply(life, life.Start(Start)).Record!.FailedHosts);
    }

    [Fact]
    public void Should_keep_its_invariants_on_every_walk()
    {
        AnyStep.Array[0, 40].Sample(
            steps =>
            {
                var life = VmLife.None;
                var now = Start;
                foreach (var step in steps)
                {
                    now += TimeSpan.FromSeconds(1);
                    var before = life;
                    var decision = Decide(life, step, now);
                    life = Apply(life, decision);
                    if (before.Record is { } old && life.Record is { } record)
                    {
                        Assert.True(record.Epoch >= old.Epoch, "an epoch never falls");
                        Assert.True(record.Epoch <= old.Epoch + 1, "an epoch rises by one");
                        Assert.True(old.State != VmState.Deleted || record.Equals(old), "deleted is for ever");
                        Assert.True(old.State != VmState.Deleting || record.State is VmState.Deleting or VmState.Deleted, "deleting leads to deleted only");
                        Assert.Equal(old.Version + (ulong)decision.Events.Length, record.Version);
                        Assert.True(decision.Problem is null || decision.Events.IsEmpty, "a refusal changes nothing");
                        if (record.State is VmState.Starting or VmState.Running or VmState.Stopping)
                            Assert.True(record.Host.Length > 0 && record.Epoch > 0, "what runs is placed");
                        Assert.True(record.Move is null || record is { State: VmState.Stopping, StopWanted: false }, "what moves stops, and nobody asked for its end");
                        Assert.True(record.LimitsInForce <= record.LimitsRevision, "no limits are in force that were never wanted");
                        Assert.True(record.LimitsRevision >= old.LimitsRevision, "a revision never falls");
                        Assert.True(
                            life.Goal is Goal.Retune == (record.State == VmState.Running && record.LimitsInForce != record.LimitsRevision),
                            "limits are pursued while they are not in force");
                        if (record.State is VmState.Pending or VmState.Unplaced)
                            Assert.True(record.Host.Length == 0 || record.Saved is not null, "what waits for a host has none, or is saved there");
                        Assert.Equal(record.State == VmState.Suspended || (record.Saved is not null && record.State is VmState.Pending or VmState.Unplaced or VmState.Starting), record.Saved is not null);
                        if (record.Saved is { } saved)
                            Assert.True(saved.Address.Length > 0 ? record.State == VmState.Starting && saved.Epoch < record.Epoch
                                : record.Host == saved.Host && saved.Epoch <= record.Epoch && life.Wanted.Host == saved.Host, $"what is saved goes where it is to be fetched, or nowhere: {step} made {record} of {old}");
                    }
                }
            },
            iter: 3000);
    }

    [Fact]
    public void Should_change_nothing_when_the_same_step_comes_twice()
    {
        AnyStep.Array[0, 25].Select(AnyStep).Sample(
            (steps, last) =>
            {
                var life = steps.Aggregate(VmLife.None, (state, step) => Apply(state, Decide(state, step, Start)));
                // A start after a stop is two wishes, not one that came twice.
                if (last is Ask { What: 2 } or Room)
                    return;
                var once = Apply(life, Decide(life, last, Start));
                var epochChanged = once.Record?.Epoch != life.Record?.Epoch;
                if (epochChanged)
                    return;
                var again = Decide(once, last, Start);
                Assert.Empty(again.Events);
            },
            iter: 3000);
    }

    [Fact]
    public void Should_ignore_reports_of_other_hosts_and_epochs()
    {
        Gen.Select(AnyStep.Array[0, 25], Host, Gen.Long[-2, 2], HostState).Sample(
            (steps, host, offset, state) =>
            {
                var life = steps.Aggregate(VmLife.None, (sum, step) => Apply(sum, Decide(sum, step, Start)));
                var epoch = At(life.Record?.Epoch ?? 0, offset);
                if (life.Record is { } record && record.Host == host && record.Epoch == epoch)
                    return;
                if (life.Record?.Saved is { } saved && saved.Host == host && saved.Epoch == epoch)
                    return;
                var decision = life.Report(host, ReportOf(epoch, state), Start, out var stale);
                Assert.True(stale);
                Assert.Empty(decision.Events);
            },
            iter: 3000);
    }

    [Fact]
    public void Should_come_to_the_same_end_in_whatever_order_and_number_reports_arrive()
    {
        HostVmState[] facts = [HostVmState.Launching, HostVmState.Running, HostVmState.Ended];
        Any(facts).Array[0, 12].Select(Gen.Shuffle(facts)).Sample((noise, order) =>
        {
            var life = PlacedOn("a");
            foreach (var fact in order.Concat(noise))
                life = Say(life, fact);
            Assert.Equal(VmState.Stopped, life.Record!.State);
        });
    }

    [Fact]
    public void Should_give_the_same_record_when_replayed()
    {
        AnyStep.Array[0, 40].Sample(steps =>
        {
            var life = VmLife.None;
            var journal = new List<byte[]>();
            var replayed = VmLife.None;
            foreach (var step in steps)
            {
                foreach (var stored in Decide(life, step, Start).Events)
                {
                    life = life.Apply(stored);
                    replayed = replayed.Apply(stored.Descriptor.Parser.ParseFrom(Google.Protobuf.MessageExtensions.ToByteArray(stored)));
                }
            }
            Assert.Equal(life.Record, replayed.Record);
            Assert.Equal(life.Goal, replayed.Goal);
        });
    }

    [Fact]
    public void Should_stop_without_a_host_when_it_was_never_placed()
    {
        var created = Created();
        var stopped = Apply(created, created.Stop(10_000, Start));
        Assert.Equal((VmState.Stopped, "stop_requested", ""), (stopped.Record!.State, stopped.Record.Reason.Code, stopped.Record.Host));
        Assert.IsType<Goal.Rest>(stopped.Goal);
    }

    [Fact]
    public void Should_let_a_second_stop_shorten_the_grace_but_never_lengthen_it()
    {
        var running = RunningOn("a");
        var stopping = Apply(running, running.Stop(10_000, Start));
        Assert.Empty(stopping.Stop(20_000, Start).Events);
        var shorter = Apply(stopping, stopping.Stop(0, Start));
        Assert.Equal(new Goal.Stop("a", 1, 0), shorter.Goal);
    }

    [Fact]
    public void Should_delete_only_when_its_host_has_nothing_left()
    {
        var running = RunningOn("a");
        var deleting = Apply(running, running.Delete(Start));
        Assert.Equal(new Goal.Remove("a", 1), deleting.Goal);
        deleting = Say(deleting, HostVmState.Ended);
        Assert.Equal(VmState.Deleting, deleting.Record!.State);
        Assert.Equal(VmState.Deleted, Say(deleting, HostVmState.Removed).Record!.State);
    }

    [Fact]
    public void Should_be_placed_anew_under_the_next_epoch_after_a_start()
    {
        var stopped = Say(RunningOn("a"), HostVmState.Ended);
        var pending = Apply(stopped, stopped.Start(Start));
        Assert.Equal(new Goal.FindPlace(2), pending.Goal);
        Assert.True(pending.Report("a", ReportOf(1, HostVmState.Running), Start, out var stale).Events.IsEmpty && stale);
    }

    [Theory]
    [InlineData("", HostVmState.Failed, null, false)]
    [InlineData("never", HostVmState.Failed, null, false)]
    [InlineData("on_failure", HostVmState.Failed, null, true)]
    [InlineData("on_failure", HostVmState.Ended, 1, true)]
    [InlineData("on_failure", HostVmState.Ended, 0, false)]
    [InlineData("on_failure", HostVmState.Ended, null, false)]
    [InlineData("always", HostVmState.Ended, 0, true)]
    [InlineData("always", HostVmState.Failed, null, true)]
    public void Should_run_again_as_its_policy_says(string policy, HostVmState end, int? status, bool again)
    {
        var life = Ended(Restarting(policy), end, status, Start);
        Assert.Equal(again ? new Goal.Restart(Start + TimeSpan.FromSeconds(1)) : new Goal.Rest(), life.Goal);
        Assert.True(life.Restart(Start + TimeSpan.FromSeconds(0.9)).Events.IsEmpty);
        var next = Apply(life, life.Restart(Start + TimeSpan.FromSeconds(1)));
        Assert.Equal(again ? new Goal.FindPlace(2) : new Goal.Rest(), next.Goal);
        Assert.Equal(again ? 1u : 0, next.Record!.Restarts);
    }

    [Fact]
    public void Should_pause_longer_with_each_restart_and_anew_after_a_long_run()
    {
        var life = Restarting("always");
        var now = Start;
        foreach (var seconds in new[] { 1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300 })
        {
            life = Ended(life, HostVmState.Ended, 0, now);
            Assert.Equal(new Goal.Restart(now + TimeSpan.FromSeconds(seconds)), life.Goal);
            now += TimeSpan.FromSeconds(seconds);
            life = Apply(life, life.Restart(now));
            life = Apply(life, life.Placed("a", life.Record!.Epoch + 1, now, out _));
            life = Apply(life, life.Report("a", ReportOf(life.Record!.Epoch, HostVmState.Running), now, out _));
        }
        now += RestartRules.LongRun;
        life = Ended(life, HostVmState.Ended, 0, now);
        Assert.Equal(new Goal.Restart(now + TimeSpan.FromSeconds(1)), life.Goal);
    }

    [Fact]
    public void Should_not_run_again_what_somebody_stopped_before_during_or_after_its_end()
    {
        var running = Restarting("always");
        var stopped = Ended(Apply(running, running.Stop(0, Start)), HostVmState.Failed, null, Start);
        Assert.Equal(new Goal.Rest(), stopped.Goal);
        var waiting = Ended(running, HostVmState.Ended, 3, Start);
        var given = Apply(waiting, waiting.Stop(0, Start));
        Assert.Equal((VmState.Stopped, "stop_requested", 3), (given.Record!.State, given.Record.Reason.Code, given.Record.Exit.Status));
        Assert.Equal(new Goal.Rest(), given.Goal);
        Assert.True(given.Stop(0, Start).Events.IsEmpty);
        var created = Apply(VmLife.None, VmLife.None.Create(Id, new VmSpec { Name = "one", Restart = "always" }, 0, Start));
        Assert.Equal(new Goal.Rest(), Apply(created, created.Stop(0, Start)).Goal);

        // By hand it runs, and its policy counts from there.
        var started = Apply(given, given.Start(Start));
        Assert.Equal((new Goal.FindPlace(2), 0u), (started.Goal, started.Record!.Restarts));
        Assert.Equal(VmState.Deleting, Apply(waiting, waiting.Delete(Start)).Record!.State);
    }

    [Fact]
    public void Should_say_why_it_leaves_its_host_also_when_the_host_that_it_goes_to_is_lost()
    {
        var life = RunningOn("a");
        life = Apply(life, life.Move("a", 1, "b", 2, 5, Start, out var wanted, pressed: true));
        Assert.True(wanted);
        Assert.Equal("Host a is short of CPU or memory: it stops there and goes to b.", life.Record!.Reason.Message);
        life = Apply(life, life.Lost("b", 2, Start));
        Assert.Equal(("host_pressure", "Host a is short of CPU or memory: it stops there, and goes to a host that has room."), (life.Record!.Reason.Code, life.Record.Reason.Message));
        // Its host is drained meanwhile, and the deadline is over.
        life = Apply(life, life.Move("a", 1, "", 0, 0, Start, out _));
        Assert.Equal("host_drains", life.Record!.Reason.Code);
    }

    private static VmLife Restarting(string policy)
    {
        var life = Apply(VmLife.None, VmLife.None.Create(Id, new VmSpec { Name = "one", Cpus = 1, Driver = "auto", Restart = policy }, 0, Start));
        life = Apply(life, life.Placed("a", 1, Start, out _));
        return Say(life, HostVmState.Running);
    }

    private static VmLife Ended(VmLife life, HostVmState end, int? status, DateTimeOffset at)
    {
        var report = ReportOf(life.Record!.Epoch, end);
        report.Reason = new Reason { Code = "guest_shutdown", Message = "over" };
        report.Exit = status is { } code ? new GuestExit { Status = code } : null;
        return Apply(life, life.Report("a", report, at, out _));
    }

    [Fact]
    public void Should_be_placed_anew_under_the_next_epoch_when_its_host_is_lost()
    {
        foreach (var life in new[] { PlacedOn("a"), RunningOn("a") })
        {
            var lost = Apply(life, life.Lost("a", 1, Start));
            Assert.Equal((VmState.Pending, "", "host_lost"), (lost.Record!.State, lost.Record.Host, lost.Record.Reason.Code));
            Assert.Equal(new Goal.FindPlace(2), lost.Goal);
            Assert.True(lost.Report("a", ReportOf(1, HostVmState.Running), Start, out var stale).Events.IsEmpty && stale);
            Assert.True(lost.Lost("a", 1, Start).Events.IsEmpty);
            Assert.True(life.Lost("b", 1, Start).Events.IsEmpty);
            Assert.True(life.Lost("a", 2, Start).Events.IsEmpty);
        }
    }

    /// <summary>The host's own end of it, without a VMM that could have run on.</summary>
    [Fact]
    public void Should_be_placed_anew_when_its_host_ended_it_for_want_of_a_lease()
    {
        var report = ReportOf(1, HostVmState.Failed);
        report.Reason = new Reason { Code = "lease_over", Message = "over" };
        var running = RunningOn("a");
        var lost = Apply(running, running.Report("a", report, Start, out _));
        Assert.Equal((VmState.Pending, "lease_over"), (lost.Record!.State, lost.Record.Reason.Code));
        var stopping = Apply(running, running.Stop(0, Start));
        Assert.Equal(VmState.Failed, Apply(stopping, stopping.Report("a", report, Start, out _)).Record!.State);
    }

    [Theory]
    [InlineData(HostVmState.Running, false, VmState.Failed, "vmm_killed")]
    [InlineData(HostVmState.Launching, true, VmState.Starting, null)]
    public void Should_not_run_again_silently_what_its_host_lost(HostVmState said, bool keeps, VmState then, string? reason)
    {
        var life = Say(PlacedOn("a"), said);
        var after = Apply(life, life.Check("a", 1, present: false, Start, out var keep));
        Assert.Equal((keeps, then, reason), (keep, after.Record!.State, after.Record.Reason?.Code));
    }

    [Fact]
    public void Should_say_that_it_waits_for_its_host_and_when_it_no_longer_does()
    {
        var running = RunningOn("a");
        var deleting = Apply(running, running.Delete(Start));
        var waiting = Apply(deleting, deleting.Reach(connected: false, Start));
        Assert.Equal("host_disconnected", waiting.Record!.Reason.Code);
        Assert.Empty(waiting.Reach(connected: false, Start).Events);
        Assert.Null(Apply(waiting, waiting.Reach(connected: true, Start)).Record!.Reason);
    }

    [Fact]
    public void One_that_is_not_to_wait_fails_where_it_would_and_waits_once_it_has_had_a_place()
    {
        var why = new Reason { Code = "no_capacity", Message = "1 free" };
        var created = Apply(VmLife.None, VmLife.None.Create(Id, new VmSpec { Name = "one", Cpus = 1, Driver = "auto", Restart = RestartPolicy.Always, RefuseWaiting = true }, 0, Start));
        Assert.Equal(VmState.Unplaced, Apply(created, created.Unplaced(why, isLasting: false, Start, isUndecided: true)).Record!.State);
        var failed = Apply(created, created.Unplaced(why, isLasting: false, Start));
        Assert.True(failed.Record is { State: VmState.Failed, Reason.Code: "no_capacity", Epoch: 0 });
        // Its policy would have it wait after all.
        Assert.Null(RestartRules.RestartAt(failed.Record!));
        var again = Apply(failed, failed.Start(Start));
        Assert.Equal(VmState.Failed, Apply(again, again.Unplaced(why, isLasting: false, Start)).Record!.State);
        var placed = Apply(again, again.Placed("a", 1, Start, out _));
        var lost = Apply(placed, placed.Lost("a", 1, Start));
        Assert.Equal(VmState.Unplaced, Apply(lost, lost.Unplaced(why, isLasting: false, Start)).Record!.State);
    }

    [Fact]
    public void Should_write_a_changed_number_of_the_same_reason_only_now_and_then()
    {
        var created = Created();
        var unplaced = Apply(created, created.Unplaced(new Reason { Code = "no_capacity", Message = "1 free" }, isLasting: false, Start));
        var other = new Reason { Code = "no_capacity", Message = "2 free" };
        Assert.Empty(unplaced.Unplaced(other, isLasting: false, Start + TimeSpan.FromSeconds(1)).Events);
        Assert.Single(unplaced.Unplaced(other, isLasting: false, Start + VmLife.UnplacedRefresh).Events);
        Assert.Single(unplaced.Unplaced(new Reason { Code = "no_hosts" }, isLasting: false, Start).Events);
    }

    [Theory]
    [InlineData(VmState.Pending)]
    [InlineData(VmState.Running)]
    [InlineData(VmState.Deleting)]
    public void Should_refuse_to_start_what_has_not_ended(VmState state)
    {
        var life = state switch
        {
            VmState.Pending => Created(),
            VmState.Running => RunningOn("a"),
            _ => Apply(RunningOn("a"), RunningOn("a").Delete(Start)),
        };
        Assert.Equal("wrong_state", life.Start(Start).Problem?.Code);
    }

    [Fact]
    public void Should_pursue_changed_limits_until_the_host_has_seen_them_in_force()
    {
        var life = RunningOn("a");
        life = Apply(life, life.Limit("entropy", Limit(5), Start));
        Assert.Equal(new Goal.Retune("a", 1, 1), life.Goal);
        Assert.Equal(5UL, life.Record!.Spec.RateLimits["entropy"].Ops.Size);
        Assert.Empty(life.Limit("entropy", Limit(5), Start).Events);

        life = Apply(life, life.Limit("entropy", Limit(6), Start));
        life = Apply(life, life.Report("a", ReportOf(1, HostVmState.Running, 2, limits: 1), Start, out _));
        Assert.Equal(new Goal.Retune("a", 1, 2), life.Goal);
        life = Apply(life, life.Report("a", ReportOf(1, HostVmState.Running, 3, limits: 2), Start, out _));
        Assert.Equal(new Goal.Rest(), life.Goal);

        life = Apply(life, life.Limit("entropy", null, Start));
        Assert.Equal(new Goal.Retune("a", 1, 3), life.Goal);
        Assert.Empty(life.Record!.Spec.RateLimits);
    }

    [Fact]
    public void Should_take_limits_along_into_the_next_run()
    {
        var life = Created();
        life = Apply(life, life.Limit("entropy", Limit(5), Start));
        Assert.IsType<Goal.FindPlace>(life.Goal);
        life = Apply(life, life.Placed("a", 1, Start, out _));
        Assert.Equal(new Goal.Launch("a", 1), life.Goal);
        life = Apply(life, life.Report("a", ReportOf(1, HostVmState.Running, 1, limits: 0), Start, out _));
        Assert.IsType<Goal.Retune>(life.Goal);
        life = Apply(life, life.Report("a", ReportOf(1, HostVmState.Running, 2, limits: 1), Start, out _));
        life = Say(life, HostVmState.Ended);
        life = Apply(life, life.Start(Start));
        Assert.Equal((1UL, 0UL), (life.Record!.LimitsRevision, Apply(life, life.Placed("b", 2, Start, out _)).Record!.LimitsInForce));
    }

    [Fact]
    public void Should_refuse_limits_where_nothing_can_keep_them()
    {
        Assert.Equal("not_found", VmLife.None.Limit("entropy", Limit(1), Start).Problem?.Code);
        var deleting = Apply(RunningOn("a"), RunningOn("a").Delete(Start));
        Assert.Equal("wrong_state", deleting.Limit("entropy", Limit(1), Start).Problem?.Code);
        var report = ReportOf(1, HostVmState.Running);
        report.Driver = "qemu";
        var qemu = Apply(PlacedOn("a"), PlacedOn("a").Report("a", report, Start, out _));
        Assert.Equal("wrong_state", qemu.Limit("entropy", Limit(1), Start).Problem?.Code);
        Assert.Null(qemu.Limit("entropy", null, Start).Problem);
    }

    [Fact]
    public void Should_say_while_its_host_is_away_that_limits_wait_for_it()
    {
        var life = RunningOn("a");
        life = Apply(life, life.Limit("entropy", Limit(5), Start));
        life = Apply(life, life.Reach(connected: false, Start));
        Assert.Equal(VmLife.HostDisconnectedCode, life.Record!.Reason.Code);
        life = Apply(life, life.Report("a", ReportOf(1, HostVmState.Running, 2, limits: 1), Start, out _));
        Assert.Null(life.Record!.Reason);
    }
}
