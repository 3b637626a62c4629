using CsCheck;
using Fleet.Chaos.Checking;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Chaos.Tests.Checking;

public sealed class CheckerTests
{
    /// <summary>Two hosts; one microVM runs on each.</summary>
    internal static Story Two() => new Story().Host("a").Host("b").Create("one").Create("two").Place("one", "a").Place("two", "b").After(5_000);

    internal static void Finds(string rule, string subject, Story story)
    {
        var found = story.Check().Violations;
        Assert.Contains(found, violation => violation.Rule == rule && violation.Subject == subject);
        Assert.All(found, violation => Assert.True(violation.Rule == rule, violation.ToString()));
    }

    internal static void FindsNothing(Story story) => Assert.Empty(story.Check().Violations);

    [Fact]
    public void Should_find_nothing_in_an_ordinary_life()
    {
        FindsNothing(Two().Stop("one").Delete("one").Delete("two"));
    }

    // --- two copies ---

    [Theory]
    [InlineData(true)]
    [InlineData(false)]
    public void Should_find_a_second_copy(bool dead)
    {
        var story = Two().Lose("a", dead).Place("one", "b").After(1_000);
        FindsNothing(story);
        // The first went on for a moment longer than it should.
        var first = story.Runs.FindIndex(run => run.Vm == "one");
        var second = story.Runs.Single(run => run is { Vm: "one", Epoch: 2 });
        story.Runs[first] = story.Runs[first] with { SureToMs = second.FromMs + 1, PossibleToMs = second.FromMs + 1 };
        Finds(Copies.Rule, "one", story);
    }

    [Fact]
    public void Should_find_a_second_copy_under_the_same_epoch()
    {
        var story = Two();
        story.Runs.Add(story.Runs[0] with { Launch = "one.1.2" });
        Finds(Copies.Rule, "one", story);
    }

    [Fact]
    public void Should_find_a_copy_inside_of_a_longer_one()
    {
        var story = Two().After(10_000);
        var run = story.Runs[0];
        story.Runs.Add(run with { Launch = "one.1.2", FromMs = run.FromMs + 100, SureToMs = run.FromMs + 200, PossibleToMs = run.FromMs + 200 });
        story.Runs.Add(run with { Launch = "one.1.3", FromMs = run.FromMs + 300, SureToMs = run.FromMs + 400, PossibleToMs = run.FromMs + 400 });
        Assert.Equal(2, story.Check().Violations.Count(violation => violation.Rule == Copies.Rule));
    }

    [Fact]
    public void Should_let_a_relaxed_one_run_twice()
    {
        var story = new Story().Host("a").Host("b").Create("one", strict: false).Place("one", "a").After(3_000);
        story.Runs.Add(story.Runs[0] with { Launch = "one.1.2" });
        FindsNothing(story);
    }

    /// <summary>"one" was lost with its host and runs on "b"; what its first VMM wrote is the test's to say.</summary>
    private static Story Again(string[] lines, params Strike[] strikes)
    {
        var story = new Story().Host("a").Host("b").Create("one").Place("one", "a").After(3_000).Lose("a", dead: false).Place("one", "b").After(60_000);
        story.Runs.RemoveAt(0);
        story.Runs.AddRange(RunLog.Parse("one.1.1", string.Concat(lines)));
        story.Strikes.AddRange(strikes);
        return story;
    }

    /// <summary>In <see cref="Again"/> the first copy began at about 1,000,013 ms, its host fell silent 3 s later and the second began at 1,025,020 ms.</summary>
    private static string[] Log(params (long Ms, string What)[] lines) =>
        [.. lines.Select(line => $$"""{"boot_ms":{{1_000_000 + line.Ms}},"vm":"one","epoch":1,"policy":"strict","host":"a","event":"{{line.What}}"}""" + "\n")];

    [Theory]
    [InlineData(28_000)]
    [InlineData(55_000)]
    public void Should_find_a_guest_whose_vcpus_stop_late_though_its_vmm_is_silent_meanwhile(long stands)
    {
        // No line comes once the lease has lapsed, until every vCPU is out of the guest.
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (22_800, "alive"), (stands, "stand"))));
        FindsNothing(Again(Log((14, "run"), (22_800, "alive"), (23_000, "stand"))));
    }

    [Fact]
    public void Should_find_a_guest_of_which_nobody_knows_that_it_ended()
    {
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive"))));
        FindsNothing(Again(Log((14, "run"), (3_000, "alive")), new Strike(StrikeKind.PowerOff, "a", 1_003_100, 1_003_100)));
        FindsNothing(Again(Log((14, "run"), (3_000, "alive")), new Strike(StrikeKind.KillVmm, "a", 1_003_100, 1_003_100) { Vm = "one", Epoch = 1 }));
        // Another host, another microVM, another launch, only the agent; and long before it said that it lives.
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive")), new Strike(StrikeKind.PowerOff, "b", 1_003_100, 1_003_100)));
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive")), new Strike(StrikeKind.KillVmm, "a", 1_003_100, 1_003_100) { Vm = "two", Epoch = 1 }));
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive")), new Strike(StrikeKind.KillVmm, "a", 1_003_100, 1_003_100) { Vm = "one", Epoch = 2 }));
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive")), new Strike(StrikeKind.AgentEnd, "a", 1_003_100, 1_003_100)));
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive")), new Strike(StrikeKind.PowerOff, "a", 1_002_000, 1_002_000)));
        // Killed too late.
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive")), new Strike(StrikeKind.PowerOff, "a", 1_026_000, 1_026_000)));
    }

    [Fact]
    public void Should_know_that_a_stopped_machine_runs_nothing()
    {
        var hang = new Strike(StrikeKind.Hang, "a", 1_003_100, 1_040_000);
        var verdict = Again(Log((14, "run"), (3_000, "alive"), (40_020, "stand")), hang).Check();
        Assert.Empty(verdict.Violations);
        Assert.Equal("one", Assert.Single(verdict.Possible).Subject);
        // It went on too soon, on another host, for too long, or said that it lives.
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive"), (40_020, "stand")), hang with { ToMs = 1_030_000 }));
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive"), (40_020, "stand")), hang with { Host = "b" }));
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive"), (41_100, "stand")), hang));
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive"), (40_020, "alive"), (40_030, "stand")), hang));
    }

    [Fact]
    public void Should_know_that_a_stopped_vmm_runs_nothing()
    {
        var hang = new Strike(StrikeKind.HangVmm, "a", 1_003_100, 1_040_000) { Vm = "one", Epoch = 1 };
        Assert.Empty(Again(Log((14, "run"), (3_000, "alive"), (40_020, "stand")), hang).Check().Violations);
        // Another's, another launch's, and one that runs on when it goes on.
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive"), (40_020, "stand")), hang with { Vm = "two" }));
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive"), (40_020, "stand")), hang with { Epoch = 2 }));
        Finds(Copies.Rule, "one", Again(Log((14, "run"), (3_000, "alive"), (41_100, "stand")), hang));
    }

    [Fact]
    public void Should_find_a_copy_that_begins_while_one_is_silent()
    {
        var story = Two().Lose("a", dead: true).Place("one", "b").After(1_000);
        var first = story.Runs.FindIndex(run => run.Vm == "one");
        var second = story.Runs.Single(run => run is { Vm: "one", Epoch: 2 });
        story.Runs[first] = story.Runs[first] with { SureToMs = second.FromMs - 100, PossibleToMs = second.FromMs + 400 };
        Finds(Copies.Rule, "one", story);
    }

    // --- what was acknowledged ---

    [Fact]
    public void Should_find_an_acknowledged_create_that_nobody_knows()
    {
        Finds(Promises.Lost, "ghost", Two().Ask(Verb.Create, "ghost", 201, "key-ghost"));
    }

    [Fact]
    public void Should_not_mind_a_create_that_was_not_acknowledged()
    {
        FindsNothing(Two().Ask(Verb.Create, null, 503, "key-ghost").Ask(Verb.Create, null, 0, "key-ghost"));
    }

    [Fact]
    public void Should_find_what_is_in_the_journal_and_not_in_the_api()
    {
        var history = Two().Tell();
        history = history with { Final = [.. history.Final.Where(vm => vm.Id != "one")] };
        Assert.Equal((Promises.Lost, "one"), Only(history));
    }

    [Fact]
    public void Should_find_one_key_that_made_two()
    {
        Finds(Promises.MadeTwice, "key-one", Two().Ask(Verb.Create, "two", 201, "key-one"));
        // Nobody heard of the second, and it is there.
        Finds(Promises.MadeTwice, "key-one", Two().Store("vm/three", new VmCreated { Id = "three", Spec = new VmSpec { Name = "key-one" } }));
    }

    [Theory]
    [InlineData(VmState.Pending)]
    [InlineData(VmState.Starting)]
    [InlineData(VmState.Stopping)]
    public void Should_find_what_never_comes_to_rest(VmState state)
    {
        var story = Two();
        story.Final.Add(new("one", state, "host_disconnected", "a", 1));
        Finds(Promises.Stuck, "one", story);
    }

    [Fact]
    public void Should_want_a_reason_of_what_waits()
    {
        FindsNothing(Two().Create("three").Wait("three"));
        var story = Two().Create("three").Wait("three");
        story.Final.Add(new("three", VmState.Unplaced, null, null, 0));
        Finds(Promises.NoReason, "three", story);
    }

    [Fact]
    public void Should_find_what_is_said_to_run_and_does_not()
    {
        Finds(Promises.NotRunning, "one", Two().EndRun("one", stood: false).After(6_000));
        var story = Two();
        story.Runs.RemoveAt(0);
        Finds(Promises.NotRunning, "one", story);
    }

    [Fact]
    public void Should_find_what_ended_though_nobody_asked()
    {
        var story = Two().EndRun("one", stood: true);
        story.Final.Add(new("one", VmState.Failed, "launch_failed", "a", 1));
        Finds(Promises.EndedUnasked, "one", story);
        var deleted = Two().Delete("one");
        deleted.Requests.RemoveAll(request => request.Verb == Verb.Delete);
        Finds(Promises.EndedUnasked, "one", deleted);
    }

    [Fact]
    public void Should_find_what_failed_by_itself_whatever_was_asked_afterwards()
    {
        Finds(Promises.EndedUnasked, "one", Two().EndRun("one", stood: true).Fail("one").Delete("one"));
        // Only once its end was asked for, or its VMM struck under that epoch.
        Finds(Promises.EndedUnasked, "one", Two().EndRun("one", stood: true).Fail("one").Ask(Verb.Stop, "one", 202));
        FindsNothing(Two().Ask(Verb.Stop, "one", 202).Store("vm/one", new VmStopRequested()).EndRun("one", stood: true).Fail("one"));
        FindsNothing(Two().Kill("one").Delete("one"));
        Finds(Promises.EndedUnasked, "one", Two().Lose("a", dead: true).Place("one", "b").After(600).EndRun("one", stood: true).Fail("one").Delete("one"));
    }

    [Fact]
    public void Should_find_an_end_that_the_control_plane_wanted_by_itself()
    {
        Finds(Promises.EndedUnasked, "one", Two().EndRun("one", stood: true).Store("vm/one", new VmEnded { Epoch = 1, Reason = new Reason { Code = "guest_shutdown" } }).Delete("one"));
        var stopped = Two().Stop("one").Delete("one");
        stopped.Requests.RemoveAll(request => request.Verb == Verb.Stop);
        Finds(Promises.EndedUnasked, "one", stopped);
        // Deleted without a word.
        var story = Two().Delete("one");
        story.Journal.RemoveAll(stored => stored.Event is VmDeleteRequested);
        Assert.Contains(story.Check().Violations, violation => violation is { Rule: Promises.EndedUnasked, Subject: "one" });
        // Never placed, and stopped at once.
        FindsNothing(Two().Create("three").Wait("three").Ask(Verb.Stop, "three", 202).Store("vm/three", new VmEnded { Reason = new Reason { Code = "stop_requested" } }).Delete("three"));
    }

    [Fact]
    public void Should_find_what_was_suspended_or_resumed_though_nobody_asked()
    {
        FindsNothing(Two().Suspend("one").After(5_000).Resume("one", "a").After(1_000));
        FindsNothing(Two().Suspend("one").After(5_000));
        FindsNothing(Two().Suspend("one").Ask(Verb.Resume, "two", 409).Ask(Verb.Suspend, "one", 409).Stop("one"));
        var story = Two().Suspend("one").After(1_000);
        story.Requests.RemoveAll(request => request.Verb == Verb.Suspend);
        Assert.Contains(story.Check().Violations, violation => violation is { Rule: Promises.EndedUnasked, Subject: "one" });
        story = Two().Suspend("one").Resume("one", "a").After(1_000);
        story.Requests.RemoveAll(request => request.Verb == Verb.Resume);
        Finds(Promises.EndedUnasked, "one", story);
    }

    [Fact]
    public void Should_let_a_suspended_one_fail_only_with_its_host()
    {
        static Story Fails(Story story) => story.Store("vm/one", new VmFailed { Epoch = 1, Reason = new Reason { Code = "host_lost" } }).Say("one", VmState.Failed, "host_lost").After(30_000);
        FindsNothing(Fails(Two().Suspend("one").Lose("a", dead: true)));
        Finds(Promises.EndedUnasked, "one", Fails(Two().Suspend("one").After(23_000)));
        Assert.Contains(Fails(Two().Lose("a", dead: false)).Check().Violations, violation => violation is { Rule: Promises.EndedUnasked, Subject: "one" });
    }

    [Fact]
    public void Should_not_mind_what_was_killed_on_purpose()
    {
        FindsNothing(Two().Kill("one"));
    }

    [Fact]
    public void Should_find_a_stop_and_a_delete_that_were_forgotten()
    {
        Finds(Promises.StopForgotten, "one", Two().Ask(Verb.Stop, "one", 202));
        Finds(Promises.DeleteForgotten, "one", Two().Ask(Verb.Delete, "one", 202));
        FindsNothing(Two().Ask(Verb.Delete, "one", 503).Ask(Verb.Stop, "two", 0));
        var story = Two().Delete("one");
        story.Final.Add(new("one", VmState.Running, null, "a", 1));
        Finds(Promises.DeleteForgotten, "one", story);
    }

    // --- the journal ---

    [Fact]
    public void Should_find_a_journal_that_two_wrote()
    {
        var story = Two();
        var twice = story.Journal.FindIndex(stored => stored.Event is VmRunning);
        story.Journal[twice] = story.Journal[twice] with { SequenceNumber = story.Journal[twice].SequenceNumber - 1 };
        Finds(Order.Torn, "one", story);
    }

    [Fact]
    public void Should_find_an_epoch_that_is_used_again()
    {
        var story = Two()
            .Store("host/b", new HostReserved { VmId = "one", Epoch = 1, Cpus = 1, MemoryMib = 32 })
            .Store("vm/one", new VmPlaced { Host = "b", Epoch = 1 });
        Assert.Contains(story.Check().Violations, violation => violation is { Rule: Order.EpochReused, Subject: "one" });
    }

    [Fact]
    public void Should_find_what_ran_or_was_placed_without_leave()
    {
        var story = Two();
        story.Runs.Add(new("one", 7, "one.7.1", "b", true, 1, 2, 2));
        Finds(Order.RanUnplaced, "one", story);
        story = Two();
        story.Journal.RemoveAll(stored => stored.Event is HostReserved { VmId: "two" });
        Assert.Contains(story.Check().Violations, violation => violation is { Rule: Order.PlacedWithoutRoom, Subject: "two" });
    }

    // --- room ---

    [Fact]
    public void Should_find_a_promise_beyond_the_caps()
    {
        var story = new Story().Host("a", cpus: 2).Create("one", 2).Create("two", 1).Place("one", "a").Place("two", "a");
        Assert.Equal([Room.BeyondCaps, Room.RanBeyondCaps], story.Check().Violations.Select(violation => violation.Rule));
    }

    [Fact]
    public void Should_find_more_running_than_there_is_room_for_whatever_was_promised()
    {
        var story = new Story().Host("a", cpus: 2).Create("one", 2).Create("two", 2).Place("one", "a").After(1_000).Stop("one").Place("two", "a").After(1_000);
        FindsNothing(story);
        var first = story.Runs.FindIndex(run => run.Vm == "one");
        story.Runs[first] = story.Runs[first] with { SureToMs = story.Now, PossibleToMs = story.Now };
        Finds(Room.RanBeyondCaps, "a", story);
    }

    /// <summary>Room of one that gives way is another's at once, but it may be used only when it is empty.</summary>
    [Fact]
    public void Should_count_room_once_in_which_one_gives_way_to_another()
    {
        string[] about = [Room.BeyondCaps, Room.RanBeyondCaps, Room.NoReservation];
        static Story GivesWay() => new Story().Host("a", cpus: 2).Create("one", 2).Create("two", 2).Place("one", "a").After(1_000)
            .Store("host/a", new HostPreempted { VmId = "one", Epoch = 1, Cpus = 2, MemoryMib = 32, ForVmId = "two", ForEpoch = 1 })
            .Store("vm/one", new VmMoveBegan { Preempted = true });
        IEnumerable<string> Rules(Story story) => story.Check().Violations.Select(violation => violation.Rule).Intersect(about);
        Assert.Empty(Rules(GivesWay().EndRun("one", stood: true).Place("two", "a").After(1_000)));
        Assert.Equal([Room.RanBeyondCaps], Rules(GivesWay().Place("two", "a").After(1_000)));
    }

    [Fact]
    public void Should_know_which_hosts_take_nothing()
    {
        Assert.True(Takes());
        Assert.False(Takes(new HostCordoned()));
        Assert.True(Takes(new HostCordoned(), new HostUncordoned()));
        Assert.False(Takes(new HostDrainBegan(), new HostDrainDone()));
        Assert.True(Takes(new HostDrainBegan(), new HostUncordoned()));
        Assert.False(Takes(new HostQuarantined()));
        Assert.True(Takes(new HostQuarantined(), new HostQuarantineLifted()));

        static bool Takes(params object[] events)
        {
            var ledger = new Ledger();
            foreach (var stored in events.Prepend(new HostConnected()))
                ledger.Take(stored);
            return ledger.Takes(new VmSpec { Cpus = 1, MemoryMib = 32 }, new HostCaps(1, 32));
        }
    }

    [Fact]
    public void Should_find_room_that_is_held_for_nobody_and_a_microvm_without_room()
    {
        Finds(Room.ReservedForNobody, "b", Two().Store("host/b", new HostReserved { VmId = "one", Epoch = 2, Cpus = 1, MemoryMib = 32 }));
        Finds(Room.NoReservation, "one", Two().Store("host/a", new HostReleased { VmId = "one", Epoch = 1, WasReserved = true, Cpus = 1, MemoryMib = 32 }));
    }

    [Fact]
    public void Should_follow_a_move_like_a_placement()
    {
        var began = new VmMoveBegan { Host = "b", Epoch = 2 };
        static Story Room(Story story) => story.Store("host/b", new HostReserved { VmId = "one", Epoch = 2, Cpus = 1, MemoryMib = 32 });
        static Story Moved(Story story, ulong epoch)
        {
            story.EndRun("one", stood: true).Store("vm/one", new VmMoved { Host = "b", Epoch = epoch }).Store("host/a", new HostReleased { VmId = "one", Epoch = 1, WasReserved = true, Cpus = 1, MemoryMib = 32 });
            story.Runs.Add(new("one", epoch, "one.2.1", "b", true, story.Now, long.MaxValue, long.MaxValue));
            story.Store("vm/one", new VmRunning { Epoch = epoch }).After(1_000).Final.Add(new("one", VmState.Running, null, "b", epoch));
            return story;
        }

        FindsNothing(Moved(Room(Two().Store("vm/one", began)), 2));
        Assert.Contains(Moved(Two().Store("vm/one", began), 2).Check().Violations, violation => violation is { Rule: Order.PlacedWithoutRoom, Subject: "one" });
        Assert.Contains(Moved(Room(Two().Store("vm/one", began)), 1).Check().Violations, violation => violation is { Rule: Order.EpochReused, Subject: "one" });
    }

    [Fact]
    public void Should_find_what_is_left_of_one_that_was_deleted()
    {
        FindsNothing(Two().Stop("one"));
        var story = Two().Stop("one").Delete("one");
        story.Journal.RemoveAll(stored => stored.Event is HostReleased { VmId: "one" });
        Finds(Room.ReservedForNobody, "a", story);
    }

    // --- answers ---

    [Theory]
    [InlineData(nameof(Verb.Read), 404)]
    [InlineData(nameof(Verb.Stop), 404)]
    [InlineData(nameof(Verb.Read), 500)]
    [InlineData(nameof(Verb.Delete), 500)]
    [InlineData(nameof(Verb.Create), 409)]
    [InlineData(nameof(Verb.Create), 422)]
    [InlineData(nameof(Verb.Create), 404)]
    [InlineData(nameof(Verb.Read), 401)]
    public void Should_find_an_answer_that_must_not_be(string name, int status)
    {
        var verb = Enum.Parse<Verb>(name);
        Finds(Answers.Rule, "one", Two().Ask(verb, "one", status, verb == Verb.Create ? "key-one" : ""));
    }

    [Fact]
    public void Should_let_the_api_put_off_and_forget_what_was_deleted()
    {
        FindsNothing(Two().Ask(Verb.Read, "one", 503).Ask(Verb.Create, null, 503, "key-x").Ask(Verb.Stop, "two", 0).Delete("one").Ask(Verb.Read, "one", 404).Ask(Verb.Stop, "one", 409));
    }

    // --- how it ends ---

    [Fact]
    public void Should_find_a_fleet_that_does_not_come_to_rest()
    {
        Assert.Equal((Ends.NotAtRest, "fleet"), Only(Two().Tell() with { Unrest = "not every host is connected" }));
    }

    [Theory]
    [InlineData("scheduler-1", true, true, "x\nSBR took decision DownReachable and is downing [a, b] including myself", true)]
    [InlineData("scheduler-1", true, true, "fleet: The database postgres on db can't be used: Failed to connect", true)]
    [InlineData("scheduler-1", true, true, "fleet: The port is taken", false)]
    [InlineData("scheduler-1", true, true, "This node stood still for 4.5 s and", true)]
    [InlineData("scheduler-2", true, true, "This node stood still for 4.5 s and", false)]
    [InlineData("scheduler-1", true, false, "This node stood still for 4.5 s and", false)]
    [InlineData("scheduler-1", true, true, "Unhandled exception.", false)]
    [InlineData("scheduler-3", true, true, "may not go on: The database is reached by akka://x, and", true)]
    [InlineData("scheduler-1", true, true, "may not go on: The database is reached by akka://x, and", false)]
    [InlineData("host-1", false, true, "including myself", false)]
    public void Should_find_what_ended_by_itself_and_know_how_a_node_may(string process, bool scheduler, bool several, string log, bool known)
    {
        var history = Two().Tell() with
        {
            OfSeveral = several, Crashes = [new(process, scheduler, 1_010_000, log)], Stalls = [new("scheduler-1", 1_002_000, 1_009_000)],
            Outages = [new("scheduler-3", 990_000, 1_009_000) { FromDatabase = true }, new("scheduler-1", 990_000, 1_009_000)],
        };
        if (known)
            Assert.Empty(Checker.Check(history).Violations);
        else
            Assert.Equal((Ends.Crashed, process), Only(history));
        if (log.StartsWith("This", StringComparison.Ordinal))
            Assert.Equal((Ends.Crashed, process), Only(history with { Stalls = [] }));
        if (process == "scheduler-3")
            Assert.Equal((Ends.Crashed, process), Only(history with { Outages = [new("scheduler-3", 990_000, 1_004_000) { FromDatabase = true }] }));
    }

    // --- everything at once ---

    private static readonly Gen<(int What, int Vm, int Host)[]> Steps = Gen.Select(Gen.Int[0, 9], Gen.Int[0, 5], Gen.Int[0, 2]).Array[0, 80];

    [Fact]
    public void Should_find_nothing_in_any_history_without_fault() => Steps.Sample(steps => FindsNothing(Play(steps)), iter: 300);

    [Fact]
    public void Should_find_a_second_copy_in_any_history() => Gen.Select(Steps, Gen.Int[0, 1_000]).Sample(
        (steps, which) =>
        {
            var story = Play(steps);
            var pairs = story.Runs.GroupBy(run => run.Vm).Where(runs => runs.Count() > 1).Select(runs => runs.OrderBy(run => run.FromMs).ToArray()).ToArray();
            if (pairs.Length == 0)
                return;
            var runs = pairs[which % pairs.Length];
            var at = which % (runs.Length - 1);
            story.Runs[story.Runs.IndexOf(runs[at])] = runs[at] with { SureToMs = runs[at + 1].FromMs + 1, PossibleToMs = runs[at + 1].FromMs + 1 };
            Assert.Contains(story.Check().Violations, violation => violation.Rule == Copies.Rule && violation.Subject == runs[at].Vm);
        },
        iter: 300);

    [Fact]
    public void Should_notice_any_event_that_is_missing() => Gen.Select(Steps, Gen.Int[0, 10_000]).Sample(
        (steps, which) =>
        {
            var story = Play(steps);
            story.Journal.RemoveAt(which % story.Journal.Count);
            // Of the last event of somebody nothing else may speak; of every other at least the numbers do.
            var missing = story.Journal.GroupBy(stored => stored.PersistenceId).Any(events => events.Max(stored => stored.SequenceNumber) > events.Count());
            Assert.True(!missing || story.Check().Violations.Any(violation => violation.Rule == Order.Torn));
        },
        iter: 300);

    /// <summary>A walk through what may happen; a step that makes no sense is left out.</summary>
    private static Story Play((int What, int Vm, int Host)[] steps)
    {
        var story = new Story().Host("a").Host("b", cpus: 2).Host("c", cpus: 3);
        var created = 0;
        var silent = new HashSet<string>();
        foreach (var (what, number, at) in steps)
        {
            var host = story.Hosts.ElementAt(at);
            var vm = story.Vms.ElementAtOrDefault(number);
            switch (what)
            {
                case <= 2:
                    var id = $"vm-{created++}";
                    Settle(story.Create(id, (uint)(1 + number % 3)), silent);
                    break;
                case 3 when vm is not null && story.Is(vm, VmState.Running):
                    Settle(story.Stop(vm), silent);
                    break;
                case 4 when vm is not null && story.HostOf(vm) is not { } on || vm is not null && !silent.Contains(story.HostOf(vm)!):
                    Settle(story.Delete(vm), silent);
                    break;
                case 5 or 6 when silent.Add(host):
                    Settle(story.Lose(host, dead: what == 5), silent);
                    break;
                case 7 when silent.Remove(host):
                    Settle(story.Return(host), silent);
                    break;
                case 8 when vm is not null && story.Is(vm, VmState.Running):
                    Settle(story.Kill(vm), silent);
                    break;
                case 9:
                    story.Outage(1_000).After(3_000);
                    break;
            }
        }

        return story.After(1_000);
    }

    /// <summary>What can be placed is placed, the rest waits.</summary>
    private static void Settle(Story story, HashSet<string> silent)
    {
        foreach (var vm in story.Vms.Where(vm => story.Is(vm, VmState.Pending) || story.Is(vm, VmState.Unplaced)).ToList())
        {
            if (story.Hosts.FirstOrDefault(host => !silent.Contains(host) && story.HasRoom(vm, host)) is { } room)
                story.Place(vm, room);
            else if (story.Is(vm, VmState.Pending))
                story.Wait(vm);
        }
    }

    private static (string Rule, string Subject) Only(History history)
    {
        var violation = Assert.Single(Checker.Check(history).Violations);
        return (violation.Rule, violation.Subject);
    }
}
