using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Sessions;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Shared.Contracts;
using Google.Protobuf;
using Xunit;

namespace Fleet.Scheduler.Tests.Sessions;

public sealed class HostSessionTests(SharedCell shared) : IClassFixture<SharedCell>
{
    private TestCell Cell => shared.Cell;

    [Fact]
    public async Task Should_tell_the_agent_how_often_to_beat_and_answer_its_beats()
    {
        await using var agent = await shared.JoinAsync();
        Assert.Equal(200U, agent.Received.Single(message => message.Welcome is not null).Welcome.HeartbeatMs);
        await Eventually.TrueAsync(() => agent.Received.Any(message => message.Heartbeat?.Sequence == 1));
    }

    [Fact]
    public async Task Should_let_the_newest_stream_win()
    {
        await using var agent = await shared.JoinAsync();
        await using var newer = new FakeAgent(agent.HostId);
        await newer.ConnectAsync(Cell.System.HostLink);
        await agent.EndedAsync();
        Assert.Equal("replaced", agent.Refusal?.Code);
        Assert.Equal(HostState.Connected, (await Cell.HostAsync(agent.HostId)).State);
        Assert.True(newer.IsOpen);
    }

    [Fact]
    public async Task Should_cut_an_agent_that_falls_silent()
    {
        await using var agent = await shared.JoinAsync();
        agent.Beats = false;
        await agent.EndedAsync();
        Assert.Equal("silent", agent.Refusal?.Code);
        await Eventually.TrueAsync(async () => (await Cell.HostAsync(agent.HostId)).State == HostState.Disconnected);
    }

    [Fact]
    public async Task Should_cut_an_agent_that_never_says_hello()
    {
        await using var agent = SharedCell.NewAgent();
        agent.Open(Cell.System.HostLink);
        await agent.EndedAsync();
        Assert.Equal("no_hello", agent.Refusal?.Code);
    }

    public static TheoryData<HostMessage> Wrong => new()
    {
        new HostMessage(),
        new HostMessage { Hello = new Hello { HostId = "UPPER", Inventory = FakeAgent.Simulated(1, 1) } },
        new HostMessage { Hello = new Hello { HostId = "no-inventory" } },
        new HostMessage { Heartbeat = new Heartbeat() },
        new HostMessage { Report = new VmReport { VmId = "vm-00000000000000000000000001", Epoch = 1, State = HostVmState.Running } },
    };

    [Theory]
    [MemberData(nameof(Wrong))]
    public async Task Should_refuse_a_wrong_first_message(HostMessage message)
    {
        await using var agent = SharedCell.NewAgent();
        agent.Open(Cell.System.HostLink);
        agent.Send(message);
        await agent.EndedAsync();
        Assert.Equal("invalid_message", agent.Refusal?.Code);
    }

    [Fact]
    public async Task Should_cut_an_agent_that_says_hello_twice()
    {
        await using var agent = await shared.JoinAsync();
        agent.Send(new HostMessage { Hello = agent.Hello() });
        await agent.EndedAsync();
        Assert.Equal("invalid_message", agent.Refusal?.Code);
    }

    [Fact]
    public async Task Should_know_a_goodbye_from_a_cut()
    {
        await using var agent = await shared.JoinAsync();
        agent.Send(new HostMessage { Goodbye = new Goodbye { Reason = "upgrade" } });
        await agent.EndedAsync();
        Assert.Null(agent.Refusal);
        await Eventually.TrueAsync(async () => (await Cell.HostAsync(agent.HostId)).State == HostState.Disconnected);
    }

    // --- consoles ---

    private async Task<(FakeAgent Agent, string Id)> RunningAsync()
    {
        var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        return (agent, id);
    }

    private static void Chunk(FakeAgent agent, ulong stream, ulong offset, byte[] data, bool end = false) =>
        agent.Send(new HostMessage { Console = new ConsoleChunk { StreamId = stream, Offset = offset, Data = ByteString.CopyFrom(data), End = end } });

    private static async Task<OpenConsole> OpenedAsync(FakeAgent agent)
    {
        await Eventually.TrueAsync(() => agent.Received.Any(message => message.OpenConsole is not null));
        return agent.Received.Last(message => message.OpenConsole is not null).OpenConsole;
    }

    [Fact]
    public async Task Should_carry_a_console_within_its_credit()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        var opening = Cell.Cell.OpenConsoleAsync(id, offset: 10, follow: true, CancellationToken.None);
        var open = await OpenedAsync(agent);
        Assert.Equal((id, 10UL, true, ConsoleStream.Credit), (open.VmId, open.Offset, open.Follow, open.Credit));
        Chunk(agent, open.StreamId, 12, [1, 2, 3]);
        Chunk(agent, open.StreamId, 15, [4], end: true);
        await using var console = await opening;
        Assert.Equal(12UL, console.Offset);
        var read = new List<byte>();
        await foreach (var part in console.ReadAsync(CancellationToken.None))
            read.AddRange(part.ToArray());
        Assert.Equal(new byte[] { 1, 2, 3, 4 }, read);
    }

    [Fact]
    public async Task Should_answer_with_the_agents_refusal_of_a_console()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        var opening = Cell.Cell.OpenConsoleAsync(id, null, follow: true, CancellationToken.None);
        var open = await OpenedAsync(agent);
        agent.Send(new HostMessage { Console = new ConsoleChunk { StreamId = open.StreamId, End = true, Error = new Reason { Code = "not_found", Message = "This host has no such microVM." } } });
        var refused = await Assert.ThrowsAsync<CellException>(() => opening);
        Assert.Equal(("not_found", "This host has no such microVM."), (refused.Code, refused.Message));
    }

    /// <summary>Launches and stops of others go by the same stream: a writer whose host reads slowly must not fill it.</summary>
    [Fact]
    public async Task Should_take_only_so_much_input_as_the_agent_takes()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        agent.Swallow = message => message.ConsoleInput is not null;
        for (var i = 0; i < InputWindow.MostOfOne; i++)
            await Cell.Cell.WriteConsoleAsync(id, new byte[] { 1 }, CancellationToken.None);
        var busy = await Assert.ThrowsAsync<CellException>(() => Cell.Cell.WriteConsoleAsync(id, new byte[] { 1 }, CancellationToken.None));
        Assert.Equal("console_busy", busy.Code);

        agent.Send(new HostMessage { InputTaken = new ConsoleInputTaken { VmId = id, Messages = 1 } });
        await Eventually.TrueAsync(async () => await Record.ExceptionAsync(() => Cell.Cell.WriteConsoleAsync(id, new byte[] { 1 }, CancellationToken.None)) is null);
        await Eventually.TrueAsync(() => agent.Received.Count(message => message.ConsoleInput is not null) == InputWindow.MostOfOne + 1);
    }

    [Fact]
    public async Task Should_give_credit_back_as_the_reader_reads()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        var opening = Cell.Cell.OpenConsoleAsync(id, null, follow: true, CancellationToken.None);
        var open = await OpenedAsync(agent);
        Chunk(agent, open.StreamId, 0, new byte[1000]);
        await using var console = await opening;
        await using var reading = console.ReadAsync(CancellationToken.None).GetAsyncEnumerator();
        Assert.True(await reading.MoveNextAsync());
        Assert.DoesNotContain(agent.Received, message => message.ConsoleCredit is not null);
        var next = reading.MoveNextAsync().AsTask();
        await Eventually.TrueAsync(() => agent.Received.Any(message => message.ConsoleCredit?.Bytes == 1000));
        await console.DisposeAsync();
        await Eventually.TrueAsync(() => agent.Received.Any(message => message.CloseConsole?.StreamId == open.StreamId));
        Assert.False(await next);
    }

    [Fact]
    public async Task Should_cut_an_agent_that_sends_more_than_its_credit()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        var opening = Cell.Cell.OpenConsoleAsync(id, null, follow: true, CancellationToken.None);
        var open = await OpenedAsync(agent);
        for (var sent = 0; sent <= open.Credit; sent += HostMessageRules.MostConsoleBytes)
            Chunk(agent, open.StreamId, (ulong)sent, new byte[HostMessageRules.MostConsoleBytes]);
        await agent.EndedAsync();
        Assert.Equal("invalid_message", agent.Refusal?.Code);
        await using var console = await opening;
        await Assert.ThrowsAsync<CellException>(async () =>
        {
            await foreach (var part in console.ReadAsync(CancellationToken.None))
                Assert.NotEqual(0, part.Length);
        });
    }

    [Fact]
    public async Task Should_carry_input_and_say_when_there_is_nobody_to_take_it()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        await Cell.Cell.WriteConsoleAsync(id, "ls\n"u8.ToArray(), CancellationToken.None);
        await Eventually.TrueAsync(() => agent.Received.Any(message => message.ConsoleInput?.Data.ToStringUtf8() == "ls\n"));
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => (await Cell.HostAsync(agent.HostId)).State == HostState.Disconnected);
        var gone = await Assert.ThrowsAsync<CellException>(() => Cell.Cell.WriteConsoleAsync(id, new byte[1], CancellationToken.None));
        Assert.Equal("unavailable", gone.Code);
        gone = await Assert.ThrowsAsync<CellException>(() => Cell.Cell.OpenConsoleAsync(id, null, follow: true, CancellationToken.None));
        Assert.Equal("unavailable", gone.Code);
        gone = await Assert.ThrowsAsync<CellException>(() => Cell.Cell.OpenConsoleAsync(TestCell.NewVmId(), null, follow: true, CancellationToken.None));
        Assert.Equal("not_found", gone.Code);
    }

    [Fact]
    public async Task Should_end_the_readers_of_a_host_whose_stream_breaks()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        var opening = Cell.Cell.OpenConsoleAsync(id, null, follow: true, CancellationToken.None);
        var open = await OpenedAsync(agent);
        Chunk(agent, open.StreamId, 0, [1]);
        await using var console = await opening;
        await agent.CutAsync();
        await Assert.ThrowsAsync<CellException>(async () =>
        {
            await foreach (var part in console.ReadAsync(CancellationToken.None))
                Assert.Equal(1, part.Length);
        });
    }
}
