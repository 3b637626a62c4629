using Fleet.Chaos.Checking;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Xunit;
using static Fleet.Chaos.Tests.Checking.CheckerTests;

namespace Fleet.Chaos.Tests.Checking;

public sealed class RecoveryTests
{
    [Fact]
    public void Should_count_a_recovery_from_the_hosts_last_sign()
    {
        var story = Two().Lose("a", dead: true).After(1_000).Place("one", "b").After(1_000);
        var verdict = story.Check();
        Assert.Empty(verdict.Violations);
        Assert.InRange(Assert.Single(verdict.Recoveries).TotalSeconds, 23, 23.1);
    }

    [Theory]
    [InlineData(2_900, true)]
    [InlineData(3_100, false)]
    public void Should_allow_the_lease_and_five_seconds(long after, bool inTime)
    {
        var story = Two().Lose("a", dead: false).After(after).Place("one", "b").After(1_000);
        if (inTime)
            FindsNothing(story);
        else
            Finds(Recovery.Late, "one", story);
    }

    [Fact]
    public void Should_find_what_is_never_placed_again()
    {
        Finds(Recovery.Never, "one", Settled(Two().Lose("a", dead: true).After(10_000), "one"));
        // It says that it waits for room, and there is room.
        Finds(Recovery.Never, "one", Two().Lose("a", dead: true).Wait("one").After(10_000));
    }

    [Fact]
    public void Should_find_a_lost_one_that_ends_failed()
    {
        var story = Two().Lose("a", dead: true).Fail("one").After(10_000);
        Assert.Contains(story.Check().Violations, violation => violation is { Rule: Recovery.Never, Subject: "one" });
        // Killed again, on its way on the next host.
        FindsNothing(Two().Lose("a", dead: true).Place("one", "b").After(600).Kill("one").After(10_000));
    }

    [Fact]
    public void Should_find_a_host_that_is_never_given_up()
    {
        Finds(Recovery.Never, "one", Two().Hush("a", 23_600).After(5_000));
        // Given up by nobody, it need not be: it came back, or the database was away.
        FindsNothing(Two().Hush("a", 23_400).After(5_000));
        var away = Two();
        away.Outages.Add(new(Outage.Database, away.Now + 1_000, away.Now + 5_000));
        FindsNothing(away.Hush("a", 23_600).After(5_000));
        // What did not run there then has no claim.
        FindsNothing(Two().Stop("one").After(2_000).Hush("a", 30_000).After(1_000));
        FindsNothing(Two().Kill("one").After(100).Hush("a", 30_000).After(1_000));
    }

    [Theory]
    [InlineData(1_000, true)]
    [InlineData(4_000, false)]
    public void Should_let_nobody_end_a_claim_when_it_is_too_late(long after, bool inTime)
    {
        var story = Two().Lose("a", dead: true).After(after).Delete("one").After(10_000);
        if (inTime)
            FindsNothing(story);
        else
            Finds(Recovery.Never, "one", story);
    }

    [Fact]
    public void Should_not_mind_one_that_has_no_room()
    {
        var story = new Story().Host("a", cpus: 2).Host("b", cpus: 2).Create("one", 2).Create("two", 2).Place("one", "a").Place("two", "b").After(1_000)
            .Lose("a", dead: true).Wait("one").After(60_000);
        var verdict = story.Check();
        Assert.Empty(verdict.Violations);
        Assert.Equal(1, verdict.WaitedForRoom);
        FindsNothing(story.Return("a").Place("one", "a"));
    }

    [Fact]
    public void Should_count_for_the_next_host_what_was_placed_on_one_that_was_struck_before_anybody_knew()
    {
        var story = Two().Lose("a", dead: true);
        story.Hush("b", 3_000);
        story.Store("vm/one", new VmPlaced { Host = "b", Epoch = 2 }).After(4_000).Delete("one").After(10_000);
        Assert.DoesNotContain(story.Check().Violations, violation => violation is { Subject: "one", Rule: Recovery.Never });
        story = Two().Lose("a", dead: true).Store("vm/one", new VmPlaced { Host = "b", Epoch = 2 }).After(4_000).Delete("one").After(10_000);
        Assert.Contains(story.Check().Violations, violation => violation is { Subject: "one", Rule: Recovery.Never });
    }

    [Fact]
    public void Should_not_go_by_wall_clocks_where_it_never_ran()
    {
        // Placed on a host that was just hung, and given up by a node whose clock was moved back by an hour.
        Story Of(long late)
        {
            var story = Two().After(4_000_000).Create("three");
            var struck = story.Now;
            story.Store("vm/three", new VmPlaced { Host = "a", Epoch = 1 }).Hush("a", 22_500).Store("vm/three", new VmLost { Epoch = 1 });
            story.Journal[^1] = story.Journal[^1] with { AtMs = struck - 3_600_000 };
            return story.After(late).Store("vm/three", new VmPlaced { Host = "b", Epoch = 2 }).Store("vm/three", new VmRunning { Epoch = 2 });
        }

        Assert.DoesNotContain(Of(1_000).Check().Violations, violation => violation is { Subject: "three", Rule: Recovery.Late or Recovery.Never });
        Assert.Contains(Of(9_000).Check().Violations, violation => violation is { Subject: "three", Rule: Recovery.Late });
    }

    [Fact]
    public void Should_count_one_that_was_to_be_resumed_on_a_lost_host_from_when_that_was_asked()
    {
        static Story Resumed(long ms)
        {
            var story = Two().Suspend("one").After(100_000);
            story.Requests.Add(new(Verb.Resume, "", "one", story.Now, story.Now + 3, 202));
            story.Store("vm/one", new VmResumeRequested()).Lose("a", dead: true).Store("vm/one", new VmLost { Epoch = 1, Reason = new Reason { Code = "host_lost" } });
            return story.After(3_000 + ms).Place("one", "b").After(1_000);
        }

        FindsNothing(Resumed(-500));
        Finds(Recovery.Late, "one", Resumed(500));
    }

    [Fact]
    public void Should_not_want_back_what_was_suspended_before_its_host_was_given_up()
    {
        FindsNothing(Two().Suspend("one").After(5_000).Lose("a", dead: true).Say("one", VmState.Failed, "host_lost").Store("vm/one", new VmFailed { Epoch = 1, Reason = new Reason { Code = "host_lost" } }).After(60_000));
    }

    // --- what puts a recovery off ---

    /// <summary>"one" is lost 5 s from now and placed again so long after lease and 5 s; three nodes, of which x carries the microVM's actor, y the host's, z none of them.</summary>
    private static Story Late(long ms, Action<Story, long>? struck = null)
    {
        var story = Two().OfSeveral();
        story.See("vm/one", "x", story.Now).See("host/a", "y", story.Now).See("host/b", "z", story.Now);
        var lost = story.Now;
        struck?.Invoke(story, lost);
        return story.Lose("a", dead: true).After(3_000 + ms).Place("one", "b").After(1_000);
    }

    private static void Judged(int unexcused, int excused, int late, Story story)
    {
        var verdict = story.Check();
        Assert.Equal((unexcused, excused, late), (verdict.Unexcused, verdict.Excused, verdict.LateExcused));
    }

    [Fact]
    public void Should_excuse_nothing_where_nothing_was_struck()
    {
        FindsNothing(Late(-500));
        Judged(1, 0, 0, Late(-500));
        Finds(Recovery.Late, "one", Late(500));
    }

    [Theory]
    [InlineData("x", true)]
    [InlineData("y", true)]
    [InlineData("z", true)]
    [InlineData("w", false)]
    public void Should_excuse_what_befell_the_nodes_of_its_actors_and_of_no_other(string node, bool bears)
    {
        void Strike(Story story, long lost) => story.Outages.Add(new(node, lost + 4_000, lost + 30_000));
        // 15 s from the fault, however long it lasts.
        if (bears)
            FindsNothing(Late(14_500, Strike));
        else
            Finds(Recovery.Late, "one", Late(500, Strike));
        Finds(Recovery.Late, "one", Late(15_500, Strike));
        Judged(bears ? 0 : 1, bears ? 1 : 0, bears ? 1 : 0, Late(500, Strike));
        Judged(bears ? 0 : 1, bears ? 1 : 0, 0, Late(-500, Strike));
    }

    [Fact]
    public void Should_excuse_of_a_fault_before_only_what_is_left_of_it()
    {
        static void Strike(Story story, long lost)
        {
            story.See("vm/one", "x", lost - 12_000);
            story.Outages.Add(new("x", lost - 10_000, lost + 30_000));
        }

        FindsNothing(Late(4_500, Strike));
        Finds(Recovery.Late, "one", Late(5_500, Strike));
        static void Long(Story story, long lost) => story.Outages.Add(new("x", lost - 16_000, lost + 30_000));
        Finds(Recovery.Late, "one", Late(500, Long));
    }

    [Fact]
    public void Should_add_for_each_fault_its_own_time_and_not_begin_anew()
    {
        static void Twice(Story story, long lost)
        {
            story.Outages.Add(new("x", lost + 2_000, lost + 6_000));
            story.Outages.Add(new("y", lost + 11_000, lost + 15_000));
        }

        FindsNothing(Late(29_500, Twice));
        Finds(Recovery.Late, "one", Late(30_500, Twice));
        // What begins when it should long have been there excuses nothing.
        Finds(Recovery.Late, "one", Late(500, (story, lost) => story.Outages.Add(new("x", lost + 25_001, lost + 30_000))));
    }

    [Fact]
    public void Should_add_for_all_that_nobody_knows_no_more_than_for_one()
    {
        static void Unknown(Story story, long lost)
        {
            for (var fault = 1; fault < 20; fault++)
                story.Outages.Add(new("w", lost + (fault * 2_000), lost + (fault * 2_000) + 1_000));
        }

        static Story Blind(long ms) => Late(ms, static (story, lost) =>
        {
            story.Sightings.Clear();
            Unknown(story, lost);
        });
        FindsNothing(Blind(14_500));
        Finds(Recovery.Late, "one", Blind(15_500));
        // What was seen too long ago is not known either; and what is known of only one of its actors may be the other's.
        FindsNothing(Late(14_500, static (story, lost) => story.After(20_000).Outages.Add(new("w", story.Now + 2_000, story.Now + 3_000))));
        FindsNothing(Late(14_500, static (story, lost) =>
        {
            story.Sightings.RemoveAll(seen => seen.Region == "host");
            story.Outages.Add(new("w", lost + 2_000, lost + 3_000));
        }));
    }

    [Fact]
    public void Should_go_by_where_an_actor_was_when_the_node_was_struck()
    {
        static Story Moved(long struck, long ms) => Late(ms, (story, lost) =>
        {
            story.See("vm/one", "w", lost + 3_000);
            story.Outages.Add(new("w", lost + struck, lost + 20_000));
        });
        Finds(Recovery.Late, "one", Moved(2_000, 500));
        FindsNothing(Moved(4_000, 500));
    }

    [Fact]
    public void Should_excuse_the_time_in_which_the_database_was_away_and_ten_seconds()
    {
        static void Away(Story story, long lost) => story.Outages.Add(new(Outage.Database, lost + 4_000, lost + 7_000));
        FindsNothing(Late(12_500, Away));
        Finds(Recovery.Late, "one", Late(13_500, Away));
        // Away when it was lost.
        static void Before(Story story, long lost) => story.Outages.Add(new(Outage.Database, lost - 4_000, lost + 3_000));
        FindsNothing(Late(12_500, Before));
        Finds(Recovery.Late, "one", Late(13_500, Before));
    }

    [Fact]
    public void Should_excuse_a_node_that_alone_does_not_reach_the_database_until_it_leaves_or_reaches_it_again()
    {
        static Action<Story, long> Cut(long forMs) => (story, lost) => story.Outages.Add(new("x", lost + 4_000, lost + 4_000 + forMs) { FromDatabase = true });
        FindsNothing(Late(29_500, Cut(60_000)));
        Finds(Recovery.Late, "one", Late(30_500, Cut(60_000)));
        FindsNothing(Late(12_500, Cut(3_000)));
        Finds(Recovery.Late, "one", Late(13_500, Cut(3_000)));
    }

    [Fact]
    public void Should_excuse_a_new_count_by_the_hosts_actor_where_a_fault_had_it_recovered()
    {
        static Story Recounted(long ms, string host, string struck, long atMs) => Late(ms, (story, lost) =>
        {
            story.Outages.Add(new(struck, lost + 4_000, lost + 6_000));
            story.Recounts.Add(new(host, lost + atMs));
        });
        // It may take a lease and 5 s from then on.
        FindsNothing(Recounted(17_500, "a", "y", 18_000));
        Finds(Recovery.Late, "one", Recounted(18_500, "a", "y", 18_000));
        // Another host's; after the fault was over; for a node that has nothing to do with it; by itself.
        Finds(Recovery.Late, "one", Recounted(15_500, "b", "y", 18_000));
        Finds(Recovery.Late, "one", Recounted(15_500, "a", "y", 19_500));
        Finds(Recovery.Late, "one", Recounted(500, "a", "w", 18_000));
        Finds(Recovery.Late, "one", Late(500, (story, lost) => story.Recounts.Add(new("a", lost + 18_000))));
    }

    [Fact]
    public void Should_count_the_whole_time_in_which_the_only_node_was_away()
    {
        FindsNothing(Two().Lose("a", dead: true).Outage(30_000).After(12_500).Place("one", "b").After(1_000));
        Finds(Recovery.Late, "one", Two().Lose("a", dead: true).Outage(30_000).After(13_500).Place("one", "b").After(1_000));
    }

    /// <summary>The API says that it is at rest, for tests of other rules.</summary>
    private static Story Settled(Story story, string vm)
    {
        story.Final.Add(new(vm, VmState.Unplaced, "no_capacity", null, 1));
        return story;
    }
}
