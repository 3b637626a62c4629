using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Hosts;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>Hosts on which launches fail: their microVMs go elsewhere, and they get no more until one runs.</summary>
public sealed class QuarantineTests : IAsyncLifetime
{
    private static readonly Reason Broken = new() { Code = "image_unavailable", Message = "no space left on device" };
    private static readonly QuarantineTerms Terms = new(3, TimeSpan.FromMinutes(10), TimeSpan.FromMilliseconds(700), TimeSpan.FromSeconds(30));

    private TestCell _cell = null!;

    public async Task InitializeAsync() => _cell = await TestCell.StartAsync(options => options with { Quarantine = Terms });

    public async Task DisposeAsync() => await _cell.DisposeAsync();

    [Fact]
    public async Task Should_place_elsewhere_what_a_broken_host_can_not_launch_and_leave_that_host_alone()
    {
        // Smaller and of the same proportions, and so the better fit for everything, whatever mix the fleet carries by then.
        await using var broken = await JoinAsync("broken", cpus: 2, memoryMib: 512);
        broken.LaunchFault = Broken;
        await using var good = await JoinAsync("good", cpus: 4096, memoryMib: 1 << 20);
        for (var i = 0; i < 3; i++)
        {
            var id = await _cell.CreateAsync();
            Assert.True(await _cell.WaitAsync(id, VmState.Running) is { Host: "good", Epoch: 2, FailedHosts.Count: 0 });
        }

        await Eventually.TrueAsync(async () => (await _cell.HostAsync("broken")).Quarantine is not null);
        var quarantine = (await _cell.HostAsync("broken")).Quarantine;
        Assert.Equal("launches_failed", quarantine.Reason.Code);
        Assert.Contains("3 different microVMs failed here in a row; the last by image_unavailable: no space left on device", quarantine.Reason.Message, StringComparison.Ordinal);
        await Eventually.TrueAsync(() => broken.VmCount == 0);

        // A trial fails, and the pause doubles; another works.
        await Eventually.TrueAsync(async () =>
        {
            await _cell.WaitAsync(await _cell.CreateAsync(), VmState.Running);
            return (await _cell.HostAsync("broken")).Quarantine.FailedTrials > 0;
        });
        var launches = broken.Received.Count(message => message.Launch is not null);
        Assert.Equal(4, launches);
        broken.LaunchFault = null;
        await Eventually.TrueAsync(async () =>
        {
            await _cell.WaitAsync(await _cell.CreateAsync(TestCell.Spec(memoryMib: 32)), VmState.Running);
            return (await _cell.HostAsync("broken")).Quarantine is null;
        });
        Assert.Equal(1, broken.VmCount);
    }

    [Fact]
    public async Task Should_fail_with_the_launchs_own_reason_when_no_other_host_is_left()
    {
        await using var broken = await JoinAsync("only");
        broken.LaunchFault = Broken;
        var id = await _cell.CreateAsync();
        var failed = await _cell.WaitAsync(id, VmState.Failed);
        Assert.Equal(("image_unavailable", "It could not be launched on only, and no other host takes it: no space left on device"), (failed.Reason.Code, failed.Reason.Message));

        // What is wrong with the microVM is no reason to look for another host.
        broken.LaunchFault = new Reason { Code = "kernel_missing", Message = "no" };
        Assert.Equal("no", (await _cell.WaitAsync(await _cell.CreateAsync(), VmState.Failed)).Reason.Message);
    }

    /// <summary>A spec that no host can launch says nothing about the hosts.</summary>
    [Fact]
    public async Task Should_not_quarantine_hosts_for_what_fails_everywhere()
    {
        await using var one = await JoinAsync("one");
        await using var two = await JoinAsync("two");
        await using var three = await JoinAsync("three");
        await using var four = await JoinAsync("four");
        FakeAgent[] all = [one, two, three, four];
        foreach (var agent in all)
            agent.LaunchFault = Broken;
        for (var i = 0; i < 6; i++)
        {
            var id = await _cell.CreateAsync();
            Assert.Equal((ulong)3, (await _cell.WaitAsync(id, VmState.Failed)).Epoch);
        }

        foreach (var agent in all)
            await Eventually.TrueAsync(async () => (await _cell.HostAsync(agent.HostId)).Quarantine is null);
    }

    [Fact]
    public async Task Should_end_when_the_operator_says_so_and_last_over_a_restart_of_the_cell()
    {
        await _cell.CrashAndRestartAsync(change: options => options with { Quarantine = Terms with { FirstPause = TimeSpan.FromHours(1) } });
        await using var broken = await JoinAsync("broken");
        broken.LaunchFault = Broken;
        for (var i = 0; i < 3; i++)
            await _cell.WaitAsync(await _cell.CreateAsync(), VmState.Failed);
        await Eventually.TrueAsync(async () => (await _cell.HostAsync("broken")).Quarantine is not null);
        broken.LaunchFault = null;
        await broken.CutAsync();
        await _cell.CrashAndRestartAsync();
        await broken.ConnectAsync(_cell.System.HostLink);
        var waits = await _cell.WaitAsync(await _cell.CreateAsync(), VmState.Unplaced);
        Assert.Equal("no_hosts", waits.Reason.Code);
        Assert.Contains("quarantined", waits.Reason.Message, StringComparison.Ordinal);
        Assert.Null((await _cell.Cell.CordonHostAsync("broken", false, CancellationToken.None)).Host!.Quarantine);
        await _cell.WaitAsync(waits.Id, VmState.Running);
    }

    private async Task<FakeAgent> JoinAsync(string name, uint cpus = 8, ulong memoryMib = 16_384)
    {
        var agent = new FakeAgent(name) { Fenced = true, Inventory = FakeAgent.Simulated(cpus, memoryMib) };
        await agent.ConnectAsync(_cell.System.HostLink);
        return agent;
    }
}
