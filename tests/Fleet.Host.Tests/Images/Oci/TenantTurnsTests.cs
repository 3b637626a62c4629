using Fleet.Host.Images.Oci;

namespace Fleet.Host.Tests.Images.Oci;

public class TenantTurnsTests
{
    private static readonly TimeSpan Bound = TimeSpan.FromSeconds(20);

    private readonly TenantTurns _turns = new(2);

    [Fact]
    public async Task Each_tenant_has_one_turn_at_a_time_and_they_go_round()
    {
        var acme = Enumerable.Range(0, 3).Select(i => Ask($"acme{i}", "acme")).ToArray();
        var umbrella = Enumerable.Range(0, 3).Select(i => Ask($"umbrella{i}", "umbrella")).ToArray();
        Assert.Equal([true, false, false], acme.Select(turn => turn.IsCompletedSuccessfully));
        Assert.Equal([true, false, false], umbrella.Select(turn => turn.IsCompletedSuccessfully));
        var last = Ask("initech0", "initech");
        Assert.False(last.IsCompleted);

        // Those who had theirs are behind who has had none.
        (await acme[0]).Dispose();
        await last.WaitAsync(Bound);
        Assert.False(acme[1].IsCompleted);
        (await umbrella[0]).Dispose();
        await acme[1].WaitAsync(Bound);
        (await last).Dispose();
        await umbrella[1].WaitAsync(Bound);
        Assert.False(acme[2].IsCompleted);
    }

    [Fact]
    public async Task What_two_want_is_done_in_the_turn_of_who_comes_first()
    {
        var busy = Ask("acme0", "acme");
        var shared = Ask("shared", "acme");
        Assert.False(shared.IsCompleted);
        using var wish = _turns.Want("shared", "umbrella");
        await shared.WaitAsync(Bound);

        // It is umbrella's turn, so that acme's own goes on when its first is over.
        var own = Ask("acme1", "acme");
        var others = Ask("umbrella0", "umbrella");
        (await busy).Dispose();
        await own.WaitAsync(Bound);
        (await shared).Dispose();
        await others.WaitAsync(Bound);
    }

    [Fact]
    public async Task Who_gives_up_is_passed_over_and_one_who_wants_no_more_is_forgotten()
    {
        var first = Ask("a", "acme");
        using var impatient = new CancellationTokenSource();
        var givenUp = Ask("b", "acme", impatient.Token);
        var patient = Ask("c", "acme");
        await impatient.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => givenUp);
        var turn = await first;
        turn.Dispose();
        turn.Dispose();
        await patient.WaitAsync(Bound);

        var wish = _turns.Want("d", "umbrella");
        wish.Dispose();
        var nobodys = _turns.TakeAsync("d", default);
        Assert.False(nobodys.IsCompleted);
        using var again = _turns.Want("d", "umbrella");
        await nobodys.WaitAsync(Bound);
    }

    private Task<IDisposable> Ask(string work, string tenant, CancellationToken cancellation = default)
    {
        _turns.Want(work, tenant);
        return _turns.TakeAsync(work, cancellation);
    }
}
