using CsCheck;
using Fleet.Host.Agent;
using Fleet.Host.Drivers;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Host.Tests.Agent;

public sealed class MicroVmLifeTests
{
    private static readonly TimeSpan Boot = TimeSpan.FromSeconds(120);

    [Fact]
    public void Should_say_of_a_failed_launch_that_nothing_ever_ran_and_of_no_other_end()
    {
        var failed = MicroVmLife.New(Boot);
        failed.Begin();
        var report = Assert.IsType<MicroVmEffect.Report>(Assert.Single(failed.LaunchFailed("image_unavailable", "no")));
        Assert.True(report is { NeverRan: true, State: HostVmState.Failed });
        var again = MicroVmLife.Found(Boot, new VmReport { State = HostVmState.Failed, NeverRan = true, Reason = report.Reason });
        Assert.True(again.Now().NeverRan);

        var adopted = MicroVmLife.Found(Boot, new VmReport { State = HostVmState.Launching });
        adopted.Begin();
        Assert.False(Assert.IsType<MicroVmEffect.Report>(Assert.Single(adopted.LaunchFailed("host_rebooted", "gone"))).NeverRan);
        var ran = MicroVmLife.New(Boot);
        ran.Begin();
        ran.Launched();
        Assert.False(Assert.IsType<MicroVmEffect.Report>(Assert.Single(ran.VmmEnded(new VmmEnd(false, null, new Reason { Code = "vmm_failed" })))).NeverRan);
    }

    [Fact]
    public void Should_say_that_it_launches_before_it_does() =>
        Assert.Equal(
            [new MicroVmEffect.Report(HostVmState.Launching, null, null), new MicroVmEffect.StartVmm()], MicroVmLife.New(Boot).Begin());

    [Fact]
    public void Should_report_the_status_of_a_command()
    {
        var life = Begun();
        Assert.Equal(HostVmState.Running, Report(life.Launched()).State);
        var ended = Report(life.VmmEnded(new VmmEnd(true, new GuestExit { Status = 7 }, Because("command_exited"))));
        Assert.Equal((HostVmState.Ended, 7, "command_exited"), (ended.State, ended.Exit!.Status, ended.Reason!.Code));
    }

    [Fact]
    public void Should_watch_the_boot_and_fail_a_guest_that_is_late()
    {
        var life = Begun();
        Assert.Contains(new MicroVmEffect.WatchBoot(Boot), life.Launched());
        Assert.Equal([new MicroVmEffect.StopVmm(TimeSpan.Zero)], life.BootTimedOut());
        Assert.Equal("boot_timeout", Report(life.VmmEnded(new VmmEnd(true, null, Because("stop_requested")))).Reason!.Code);
    }

    [Fact]
    public void Should_not_end_a_guest_whose_word_crossed_its_time_out()
    {
        var life = Begun();
        life.Launched();
        life.GuestReady();
        Assert.Empty(life.BootTimedOut());
    }

    [Fact]
    public void Should_never_give_up_a_boot_without_limit() =>
        Assert.DoesNotContain(MicroVmLife.New(TimeSpan.Zero).Launched(), effect => effect is MicroVmEffect.WatchBoot);

    [Fact]
    public void Should_end_a_launch_that_is_stopped_before_it_runs()
    {
        var life = Begun();
        Assert.Equal([new MicroVmEffect.CancelLaunch()], life.Stop(TimeSpan.FromSeconds(10)));
        var report = Report(life.LaunchFailed("launch_failed", "cancelled"));
        Assert.Equal((HostVmState.Ended, "stop_requested"), (report.State, report.Reason!.Code));
    }

    [Fact]
    public void Should_stop_a_vmm_that_came_up_although_it_was_cancelled()
    {
        var life = Begun();
        life.Remove(TimeSpan.Zero);
        Assert.Contains(new MicroVmEffect.StopVmm(TimeSpan.Zero), life.Launched());
        Assert.Contains(new MicroVmEffect.Delete(), life.VmmEnded(new VmmEnd(false, null, Because("vmm_killed"))));
        Assert.Equal(HostVmState.Removed, Report(life.Deleted()).State);
    }

    [Fact]
    public void Should_not_blame_the_vmm_for_a_stop_that_was_asked_for()
    {
        var life = Begun();
        life.Launched();
        life.Stop(TimeSpan.Zero);
        var report = Report(life.VmmEnded(new VmmEnd(false, null, Because("vmm_killed"))));
        Assert.Equal((HostVmState.Ended, "stop_requested"), (report.State, report.Reason!.Code));
    }

    [Fact]
    public void Should_take_over_before_it_stops()
    {
        var life = Found(HostVmState.Running);
        Assert.Equal([new MicroVmEffect.AdoptVmm()], life.Begin());
        Assert.Empty(life.Stop(TimeSpan.FromSeconds(7)));
        Assert.Contains(new MicroVmEffect.StopVmm(TimeSpan.FromSeconds(7)), life.Launched());
    }

    [Fact]
    public void Should_keep_an_earlier_agents_promise_but_not_run_a_guest_twice()
    {
        var promised = Found(HostVmState.Launching);
        promised.Begin();
        Assert.Equal([new MicroVmEffect.StartVmm()], promised.NothingToAdopt());

        var ran = Found(HostVmState.Running);
        ran.Begin();
        var report = Report(ran.NothingToAdopt());
        Assert.Equal((HostVmState.Failed, "vmm_killed"), (report.State, report.Reason!.Code));
    }

    [Fact]
    public void Should_try_to_delete_again_when_asked_again()
    {
        var life = Found(HostVmState.Ended);
        life.Begin();
        Assert.Equal([new MicroVmEffect.Delete()], life.Remove(TimeSpan.Zero));
        Assert.Empty(life.Remove(TimeSpan.Zero));
        life.DeleteFailed();
        Assert.Equal([new MicroVmEffect.Delete()], life.Remove(TimeSpan.Zero));
    }

    [Fact]
    public void Should_try_to_stop_again_when_asked_again()
    {
        var life = Begun();
        life.Launched();
        life.Remove(TimeSpan.Zero);
        Assert.Equal([new MicroVmEffect.StopVmm(TimeSpan.Zero)], life.Remove(TimeSpan.Zero));
    }

    /// <summary>
    /// Any order of commands and events, repeats included, as a faithful shell would feed them; then everything that is under
    /// way comes to its end.
    /// </summary>
    [Fact]
    public void Should_hold_its_invariants_in_any_order() =>
        Gen.Select(Gen.Int[0, 4].Select(state => (HostVmState)state), Gen.Int[0, 9].Array[0, 40])
            .Sample((found, steps) =>
            {
                var shell = new Shell(found == HostVmState.Unspecified ? MicroVmLife.New(Boot) : Found(found), found);
                shell.Begin();
                foreach (var step in steps)
                    shell.Take(step);
                shell.Finish();
            });

    private static MicroVmLife Begun()
    {
        var life = MicroVmLife.New(Boot);
        life.Begin();
        return life;
    }

    private static MicroVmLife Found(HostVmState state) =>
        MicroVmLife.Found(Boot, new VmReport { VmId = "vm", Epoch = 1, Sequence = 1, State = state, Reason = Because("before") });

    private static MicroVmEffect.Report Report(IReadOnlyList<MicroVmEffect> effects) => Assert.Single(effects.OfType<MicroVmEffect.Report>());

    private static Reason Because(string code) => new() { Code = code, Message = code };

    /// <summary>A world of one microVM that does what the life asks for and objects to what must not be.</summary>
    private sealed class Shell(MicroVmLife life, HostVmState found)
    {
        private bool _launching;
        private bool _adopting;

        // A VMM of an earlier agent may run from the start.
        private bool _vmm;
        private bool _hidden = found is HostVmState.Running or HostVmState.Launching;
        private bool _deleting;
        private bool _files = true;
        private bool _removeAsked;
        private int _unanswered;

        public void Begin() => Do(life.Begin);

        public void Take(int step)
        {
            switch (step)
            {
                case 0 when _launching:
                    (_launching, _vmm) = (false, true);
                    Do(life.Launched);
                    break;
                case 1 when _launching:
                    _launching = false;
                    Do(() => life.LaunchFailed("vmm_failed", "no"));
                    break;
                case 2 when _vmm:
                    _vmm = false;
                    Do(() => life.VmmEnded(new VmmEnd(false, null, Because("vmm_killed"))));
                    break;
                case 3:
                    _unanswered++;
                    Do(() => life.Stop(TimeSpan.FromSeconds(1)));
                    break;
                case 4:
                    _unanswered++;
                    _removeAsked = true;
                    Do(() => life.Remove(TimeSpan.Zero));
                    break;
                case 5 when _vmm:
                    Do(life.BootTimedOut);
                    break;
                case 6 when _deleting:
                    (_deleting, _files) = (false, false);
                    Do(life.Deleted);
                    break;
                case 7 when _deleting:
                    _deleting = false;
                    life.DeleteFailed();
                    break;
                case 8 when _adopting:
                    (_adopting, _hidden, _vmm) = (false, false, true);
                    Do(life.Launched);
                    break;
                case 9 when _adopting:
                    (_adopting, _hidden) = (false, false);
                    Do(life.NothingToAdopt);
                    break;
            }
        }

        public void Finish()
        {
            foreach (var step in (int[])[8, 0, 2, 6])
                Take(step);
            if (_removeAsked && _files)
            {
                // A deletion that had failed is tried again when asked again.
                Take(4);
                Take(6);
            }

            Assert.Equal(0, _unanswered);
            Assert.False(_vmm || _launching || _adopting || _hidden, "something runs on unseen");
            Assert.Equal(_removeAsked, !_files);
            Assert.Equal(_removeAsked, life.State == HostVmState.Removed);
        }

        private void Do(Func<IReadOnlyList<MicroVmEffect>> happen)
        {
            var before = life.State;
            foreach (var effect in happen())
            {
                switch (effect)
                {
                    case MicroVmEffect.StartVmm:
                        Assert.False(_launching || _adopting || _vmm || _hidden, "starts a second VMM");
                        Assert.NotEqual(HostVmState.Running, found);
                        _launching = true;
                        break;
                    case MicroVmEffect.AdoptVmm:
                        Assert.False(_launching || _adopting || _vmm, "takes over a second VMM");
                        _adopting = true;
                        break;
                    case MicroVmEffect.StopVmm:
                        Assert.True(_vmm, "stops a VMM that is not there");
                        break;
                    case MicroVmEffect.CancelLaunch:
                        Assert.True(_launching, "cancels a launch that is over");
                        break;
                    case MicroVmEffect.Delete:
                        Assert.True(_removeAsked, "deletes unasked");
                        Assert.False(_deleting || _vmm || _launching || _hidden, "deletes twice, or under a VMM");
                        _deleting = true;
                        break;
                    case MicroVmEffect.Report report:
                        _unanswered = 0;
                        Assert.True(report.State is not (HostVmState.Failed or HostVmState.Ended) || report.Reason is not null, "is over without a reason");
                        Assert.True(report.State != HostVmState.Removed || !_files, "says removed while files are there");
                        Assert.False(report.State > HostVmState.Running && (_vmm || _launching || _hidden), "is over with a VMM");
                        break;
                }
            }

            Assert.True(life.State >= before, $"went back from {before} to {life.State}");
            Assert.Equal(_vmm || _launching || _adopting, life.HasVmm);
        }
    }
}
