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
    public void Should_report_the_status_of_a_command()
    {
        var life = new MicroVmLife(Boot);
        Assert.Equal(HostVmState.Running, Report(life.Launched()).State);
        var ended = Report(life.VmmEnded(new VmmEnd(true, new GuestExit { Status = 7 }, Because("command_exited"))));
        Assert.Equal((HostVmState.Ended, 7, "command_exited"), (ended.State, ended.Exit!.Status, ended.Reason!.Code));
    }

    [Fact]
    public void Should_watch_the_boot_and_fail_a_guest_that_is_late()
    {
        var life = new MicroVmLife(Boot);
        Assert.Contains(new MicroVmEffect.WatchBoot(Boot), life.Launched());
        Assert.Equal([new MicroVmEffect.StopVmm(TimeSpan.Zero)], life.BootTimedOut());
        Assert.Equal("boot_timeout", Report(life.VmmEnded(new VmmEnd(true, null, Because("stop_requested")))).Reason!.Code);
    }

    [Fact]
    public void Should_never_give_up_a_boot_without_limit() =>
        Assert.DoesNotContain(new MicroVmLife(TimeSpan.Zero).Launched(), effect => effect is MicroVmEffect.WatchBoot);

    [Fact]
    public void Should_end_a_launch_that_is_stopped_before_it_runs()
    {
        var life = new MicroVmLife(Boot);
        Assert.Equal([new MicroVmEffect.CancelLaunch()], life.Stop(TimeSpan.FromSeconds(10)));
        var report = Report(life.LaunchFailed("launch_failed", "cancelled"));
        Assert.Equal((HostVmState.Ended, "stop_requested"), (report.State, report.Reason!.Code));
    }

    [Fact]
    public void Should_stop_a_vmm_that_came_up_although_it_was_cancelled()
    {
        var life = new MicroVmLife(Boot);
        life.Remove();
        Assert.Contains(new MicroVmEffect.StopVmm(TimeSpan.Zero), life.Launched());
        Assert.Contains(new MicroVmEffect.Delete(), life.VmmEnded(new VmmEnd(false, null, Because("vmm_killed"))));
        Assert.Equal(HostVmState.Removed, Report(life.Deleted()).State);
    }

    [Fact]
    public void Should_not_blame_the_vmm_for_a_stop_that_was_asked_for()
    {
        var life = new MicroVmLife(Boot);
        life.Launched();
        life.Stop(TimeSpan.Zero);
        var report = Report(life.VmmEnded(new VmmEnd(false, null, Because("vmm_killed"))));
        Assert.Equal((HostVmState.Ended, "stop_requested"), (report.State, report.Reason!.Code));
    }

    /// <summary>Any order of commands and events, repeats included, as a faithful shell would feed them.</summary>
    [Fact]
    public void Should_hold_its_invariants_in_any_order() =>
        Gen.Int[0, 6].Array[0, 40].Sample(steps =>
        {
            var life = new MicroVmLife(Boot);
            bool vmm = false, launchOpen = true, filesThere = true, removeAsked = false;
            var deletes = 0;
            foreach (var step in steps)
            {
                var before = life.State;
                IReadOnlyList<MicroVmEffect> effects = step switch
                {
                    0 when launchOpen => Launched(),
                    1 when launchOpen => Failed(),
                    2 when vmm => Gone(),
                    3 => life.Stop(TimeSpan.FromSeconds(1)),
                    4 => Removed(),
                    5 when vmm => life.BootTimedOut(),
                    6 when deletes > 0 && filesThere => Deleted(),
                    _ => [],
                };
                foreach (var effect in effects)
                {
                    switch (effect)
                    {
                        case MicroVmEffect.StopVmm:
                            Assert.True(vmm, "stops a VMM that is not there");
                            break;
                        case MicroVmEffect.CancelLaunch:
                            Assert.True(launchOpen, "cancels a launch that is over");
                            break;
                        case MicroVmEffect.Delete:
                            Assert.True(removeAsked && !vmm && !launchOpen, "deletes under a VMM, or unasked");
                            deletes++;
                            break;
                        case MicroVmEffect.Report report:
                            Assert.True(report.State is not HostVmState.Failed || report.Reason is not null, "fails without a reason");
                            Assert.True(report.State != HostVmState.Removed || !filesThere, "says removed while files are there");
                            break;
                    }
                }

                Assert.True(deletes <= 1);
                Assert.True(life.State >= before, $"went back from {before} to {life.State}");
                Assert.Equal(vmm || launchOpen, life.HasVmm);

                IReadOnlyList<MicroVmEffect> Launched()
                {
                    (launchOpen, vmm) = (false, true);
                    return life.Launched();
                }

                IReadOnlyList<MicroVmEffect> Failed()
                {
                    launchOpen = false;
                    return life.LaunchFailed("vmm_failed", "no");
                }

                IReadOnlyList<MicroVmEffect> Gone()
                {
                    vmm = false;
                    return life.VmmEnded(new VmmEnd(false, null, Because("vmm_killed")));
                }

                IReadOnlyList<MicroVmEffect> Removed()
                {
                    removeAsked = true;
                    return life.Remove();
                }

                IReadOnlyList<MicroVmEffect> Deleted()
                {
                    filesThere = false;
                    return life.Deleted();
                }
            }
        });

    private static MicroVmEffect.Report Report(IReadOnlyList<MicroVmEffect> effects) => Assert.Single(effects.OfType<MicroVmEffect.Report>());

    private static Reason Because(string code) => new() { Code = code, Message = code };
}
