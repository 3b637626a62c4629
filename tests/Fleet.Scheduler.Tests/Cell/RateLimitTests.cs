using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

public sealed class RateLimitTests(SharedCell shared) : IClassFixture<SharedCell>
{
    private static readonly RateLimit Limit = new() { Bandwidth = new TokenBucket { Size = 65536, RefillTimeMs = 1000 } };

    private TestCell Cell => shared.Cell;

    private Task<VmAnswer> LimitAsync(string id, RateLimit? limit) => Cell.Cell.LimitVmAsync(id, "entropy", limit, CancellationToken.None);

    [Fact]
    public async Task Should_retune_a_running_microVM_until_its_host_follows()
    {
        await using var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        var lost = 2;
        agent.Swallow = message => message.SetLimits is not null && Interlocked.Decrement(ref lost) >= 0;

        var answer = await LimitAsync(id, Limit);

        Assert.Equal((null, 1UL, Limit), (answer.Problem, answer.Vm!.LimitsRevision, answer.Vm.Spec.RateLimits["entropy"]));
        await Eventually.TrueAsync(async () => (await Cell.GetAsync(id)).LimitsInForce == 1);
        Assert.Equal(Limit, agent.Received.Last(message => message.SetLimits is not null).SetLimits.RateLimits["entropy"]);
        Assert.Equal(1, agent.Find(id)!.Starts);
    }

    [Fact]
    public async Task Should_bring_limits_to_a_host_that_was_away()
    {
        await using var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => (await Cell.HostAsync(agent.HostId)).State == HostState.Disconnected);
        await LimitAsync(id, Limit);
        await Eventually.TrueAsync(async () => (await Cell.GetAsync(id)).Reason?.Code == "host_disconnected");
        Assert.Empty((await Cell.Cell.GetLimitersAsync(id, CancellationToken.None)).Limiters);

        await agent.ConnectAsync(Cell.System.HostLink);
        await Eventually.TrueAsync(async () => await Cell.GetAsync(id) is { LimitsInForce: 1, Reason: null, State: VmState.Running });
    }

    [Fact]
    public async Task Should_launch_with_limits_and_tell_what_the_host_measured_of_this_epoch()
    {
        await using var agent = await shared.JoinAsync();
        var spec = SharedCell.On(agent);
        spec.RateLimits.Add("entropy", Limit);
        var id = await Cell.CreateAsync(spec);
        await Cell.WaitAsync(id, VmState.Running);
        Assert.Equal(Limit, agent.Received.First(message => message.Launch is not null).Launch.Spec.RateLimits["entropy"]);

        var figure = new LimiterFigure { VmId = id, Epoch = 1, Name = "entropy", InForce = Limit, ThrottledCount = 3 };
        agent.Send(new HostMessage { Limiters = new LimiterFigures { Limiters = { figure } } });
        await Eventually.TrueAsync(async () => (await Cell.Cell.GetLimitersAsync(id, CancellationToken.None)).Limiters.SequenceEqual([figure]));
        Assert.Equal(agent.HostId, Assert.Single(Cell.System.Figures.All(), host => host.Limiters.Count > 0).HostId);

        figure.Epoch = 7;
        agent.Send(new HostMessage { Limiters = new LimiterFigures { Limiters = { figure } } });
        await Eventually.TrueAsync(async () => (await Cell.Cell.GetLimitersAsync(id, CancellationToken.None)).Limiters.Count == 0);
    }

    [Fact]
    public async Task Should_forget_the_figures_of_a_host_whose_stream_ended()
    {
        await using var agent = await shared.JoinAsync();
        agent.Send(new HostMessage { Limiters = new LimiterFigures { Limiters = { new LimiterFigure { VmId = TestCell.NewVmId(), Epoch = 1, Name = "entropy" } } } });
        await Eventually.TrueAsync(() => Cell.System.Figures.All().Any(host => host.HostId == agent.HostId));
        await agent.CutAsync();
        await Eventually.TrueAsync(() => Cell.System.Figures.All().All(host => host.HostId != agent.HostId));
    }
}
