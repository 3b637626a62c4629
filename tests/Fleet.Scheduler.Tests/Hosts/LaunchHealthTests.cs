using Fleet.Scheduler.Hosts;
using Xunit;

namespace Fleet.Scheduler.Tests.Hosts;

public sealed class LaunchHealthTests
{
    private static readonly TimeSpan Start = TimeSpan.FromHours(1);

    private readonly LaunchHealth _health = new(QuarantineTerms.Default);

    [Fact]
    public void Should_be_bad_after_failures_of_different_microVMs_in_a_row()
    {
        for (ulong epoch = 1; epoch <= 9; epoch++)
            Fail("a", epoch);
        Fail("b", 1);
        Assert.False(_health.IsBad);
        Launch("works", 1);
        Assert.True(_health.Worked("works", 1));
        Assert.Equal(0, _health.Failures);
        Fail("a", 10);
        Fail("b", 2);
        Assert.False(_health.IsBad);
        Fail("c", 1);
        Assert.True(_health.IsBad);
    }

    [Fact]
    public void Should_count_only_what_was_launched_and_for_a_while()
    {
        _health.Failed("never-launched", 1, Start);
        Assert.False(_health.Worked("never-launched", 1));
        Assert.Equal(0, _health.Failures);
        Fail("a", 1);
        Fail("b", 1, Start + QuarantineTerms.Default.Window);
        Fail("c", 1, Start + QuarantineTerms.Default.Window + TimeSpan.FromSeconds(1));
        Assert.Equal(2, _health.Failures);
    }

    [Fact]
    public void Should_not_count_what_failed_elsewhere_too_and_count_what_then_ran_elsewhere()
    {
        foreach (var vm in (string[])["a", "b", "c"])
            Fail(vm, 1);
        Assert.True(_health.Excuse("a"));
        Assert.False(_health.Excuse("a"));
        Assert.False(_health.IsBad);
        _health.Blame("a", Start);
        Assert.True(_health.IsBad);
    }

    [Fact]
    public void Should_know_how_its_one_trial_went()
    {
        _health.Try("a", 1);
        Launch("a", 1);
        Launch("b", 1);
        Assert.False(_health.Failed("b", 1, Start));
        Assert.NotNull(_health.Trial);
        Assert.True(_health.Failed("a", 1, Start));
        Assert.Null(_health.Trial);
        _health.Try("c", 1);
        Assert.True(_health.Over("c", 1));
        Assert.Null(_health.Trial);
    }

    [Fact]
    public void Should_wait_longer_after_each_failed_trial() =>
        Assert.Equal([1, 2, 4, 8, 16, 30, 30], Enumerable.Range(0, 7).Select(trials => (int)QuarantineTerms.Default.Pause((uint)trials).TotalMinutes));

    private void Launch(string vm, ulong epoch) => _health.Began(vm, epoch);

    private void Fail(string vm, ulong epoch, TimeSpan? at = null)
    {
        Launch(vm, epoch);
        _health.Failed(vm, epoch, at ?? Start);
    }
}
