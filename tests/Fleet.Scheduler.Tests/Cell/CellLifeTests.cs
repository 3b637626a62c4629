using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

public sealed class CellLifeTests
{
    [Fact]
    public async Task Should_take_a_microVM_from_create_to_delete()
    {
        await using var cell = await TestCell.StartAsync();
        await using var agent = new FakeAgent("rack1-7");
        await agent.ConnectAsync(cell.System.HostLink);

        var id = await cell.CreateAsync(TestCell.Spec(cpus: 2, memoryMib: 256));
        var running = await cell.WaitAsync(id, VmState.Running);
        Assert.Equal(("rack1-7", 1UL, "simulated", 4711), (running.Host, running.Epoch, running.Driver, running.VmmPid));
        var host = await cell.HostAsync("rack1-7");
        Assert.Equal((2U, 256UL, 1U), (host.ReservedCpus, host.ReservedMemoryMib, host.Vms));

        agent.Report(id, HostVmState.Ended, new Reason { Code = "command_exited", Message = "7" }, new GuestExit { Status = 7 });
        var stopped = await cell.WaitAsync(id, VmState.Stopped);
        Assert.Equal((7, "command_exited", 0), (stopped.Exit.Status, stopped.Reason.Code, stopped.VmmPid));
        Assert.Equal(0U, (await cell.HostAsync("rack1-7")).Vms);

        Assert.Null((await cell.Cell.StartVmAsync(id, CancellationToken.None)).Problem);
        var again = await cell.WaitAsync(id, VmState.Running);
        Assert.Equal(2UL, again.Epoch);

        Assert.Null((await cell.Cell.DeleteVmAsync(id, CancellationToken.None)).Problem);
        await cell.WaitAsync(id, VmState.Deleted);
        Assert.Equal("not_found", (await cell.Cell.GetVmAsync(id, CancellationToken.None)).Problem?.Code);
        await Eventually.TrueAsync(() => agent.VmCount == 0);
        host = await cell.HostAsync("rack1-7");
        Assert.Equal((0U, 0UL, 0U), (host.ReservedCpus, host.ReservedMemoryMib, host.Vms));
    }
}
