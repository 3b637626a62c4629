using Akka.Actor;
using Akka.TestKit.Xunit2;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Serilog.Core;
using Xunit;

namespace Fleet.Scheduler.Tests.Cell;

/// <summary>What a caller sees when a question is lost on its way to an actor, as it is while a shard moves.</summary>
public sealed class CellClientTests : TestKit
{
    private static readonly string Id = TestCell.NewVmId();

    [Fact]
    public async Task Should_ask_again_what_was_lost_on_its_way()
    {
        var vms = CreateTestProbe();
        var asked = Client(vms, TimeSpan.FromMinutes(5)).GetVmAsync(Id, CancellationToken.None);
        await vms.ExpectMsgAsync<ReadVm>();
        await vms.ExpectMsgAsync<ReadVm>();
        vms.Reply(new VmReply { Vm = new VmRecord { Id = Id } });
        Assert.Equal(Id, (await asked.WaitAsync(Eventually.Bound)).Vm?.Id);
    }

    [Fact]
    public async Task Should_ask_how_it_is_when_a_wait_was_lost()
    {
        var vms = CreateTestProbe();
        var client = Client(vms, TimeSpan.FromMinutes(5));
        var waiting = client.WaitVmAsync(Id, new HashSet<VmState> { VmState.Running }, TimeSpan.FromMilliseconds(100), CancellationToken.None);
        await vms.ExpectMsgAsync<AwaitVm>();
        await vms.ExpectMsgAsync<ReadVm>(Eventually.Bound);
        vms.Reply(new VmReply { Vm = new VmRecord { Id = Id, State = VmState.Running } });
        Assert.True(await waiting.WaitAsync(Eventually.Bound) is { Problem: null, Vm.State: VmState.Running });

        waiting = client.WaitVmAsync(Id, new HashSet<VmState> { VmState.Running }, TimeSpan.FromMinutes(5), CancellationToken.None);
        // However long it is, a silence is noticed soon.
        Assert.InRange((await vms.FishForMessageAsync<AwaitVm>(_ => true, Eventually.Bound)).TimeoutMs, 1u, 5000u);
        await vms.ExpectMsgAsync<ReadVm>(Eventually.Bound);
        vms.Reply(new VmReply { Vm = new VmRecord { Id = Id, State = VmState.Starting } });
        await vms.FishForMessageAsync<AwaitVm>(_ => true, Eventually.Bound);
        vms.Reply(new VmReply { Vm = new VmRecord { Id = Id, State = VmState.Running } });
        Assert.True(await waiting.WaitAsync(Eventually.Bound) is { Problem: null, Vm.State: VmState.Running });
    }

    [Fact]
    public async Task Should_take_the_answer_to_a_question_that_was_only_slow()
    {
        var vms = CreateTestProbe();
        var asked = Client(vms, TimeSpan.FromMinutes(5)).GetVmAsync(Id, CancellationToken.None);
        await vms.ExpectMsgAsync<ReadVm>();
        var first = vms.LastSender;
        await vms.ExpectMsgAsync<ReadVm>();
        first.Tell(new VmReply { Vm = new VmRecord { Id = Id } });
        Assert.Equal(Id, (await asked.WaitAsync(Eventually.Bound)).Vm?.Id);
    }

    [Fact]
    public async Task Should_end_with_a_code_when_nobody_answers()
    {
        var vms = CreateTestProbe();
        var answer = await Client(vms, TimeSpan.FromSeconds(1)).StopVmAsync(Id, TimeSpan.Zero, CancellationToken.None).WaitAsync(Eventually.Bound);
        Assert.Equal("unavailable", answer.Problem?.Code);
        // Once, and then only questions: a stop that came late could end what was started meanwhile.
        await vms.ExpectMsgAsync<RequestStop>();
        Assert.All(vms.ReceiveWhile<object>(TimeSpan.FromMilliseconds(100), message => message), message => Assert.IsType<ReadVm>(message));
    }

    [Fact]
    public async Task Should_tell_a_command_again_that_was_certainly_lost()
    {
        var vms = CreateTestProbe();
        var stopped = Client(vms, TimeSpan.FromMinutes(5)).StopVmAsync(Id, TimeSpan.Zero, CancellationToken.None);
        await vms.ExpectMsgAsync<RequestStop>();
        await vms.ExpectMsgAsync<ReadVm>();
        // It answers what was asked later, so that it never gets the other.
        vms.Reply(new VmReply { Vm = new VmRecord { Id = Id } });
        await vms.ExpectMsgAsync<RequestStop>();
        vms.Reply(new VmReply { Vm = new VmRecord { Id = Id, State = VmState.Stopping } });
        Assert.Equal(VmState.Stopping, (await stopped.WaitAsync(Eventually.Bound)).Vm?.State);
    }

    [Fact]
    public async Task Should_end_when_its_caller_goes()
    {
        using var gone = new CancellationTokenSource();
        var vms = CreateTestProbe();
        var asked = Client(vms, TimeSpan.FromMinutes(5)).GetVmAsync(Id, gone.Token);
        await vms.ExpectMsgAsync<ReadVm>();
        await gone.CancelAsync();
        await Assert.ThrowsAnyAsync<OperationCanceledException>(() => asked.WaitAsync(Eventually.Bound));
    }

    private CellClient Client(IActorRef vms, TimeSpan patience) =>
        new(Sys, vms, Nobody.Instance, Nobody.Instance, Nobody.Instance, new CellOptions { DataDirectory = Path.GetTempPath(), AskTimeout = patience, Log = Logger.None });
}
