using System.Text;
using Fleet.Scheduler.Cell;
using Fleet.Scheduler.Sessions;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Google.Protobuf;
using Xunit;

namespace Fleet.Scheduler.Tests.Sessions;

/// <summary>Streams into guests on their way through the control plane.</summary>
public sealed class GuestStreamTests(SharedCell shared) : IClassFixture<SharedCell>
{
    private TestCell Cell => shared.Cell;

    private async Task<(FakeAgent Agent, string Id)> RunningAsync()
    {
        var agent = await shared.JoinAsync();
        var id = await Cell.CreateAsync(SharedCell.On(agent));
        await Cell.WaitAsync(id, VmState.Running);
        return (agent, id);
    }

    private static async Task<GuestFrame> ExpectAsync(FakeAgent agent, FrameType type, string? id = null)
    {
        bool Fits(SchedulerMessage message) => message.GuestFrame?.Type == (uint)type && (id is null || message.GuestFrame.VmId == id);
        await Eventually.TrueAsync(() => agent.Received.Any(Fits));
        return agent.Received.Last(Fits).GuestFrame;
    }

    private static void Say(FakeAgent agent, ulong stream, FrameType type, byte[]? payload = null) =>
        agent.Send(new HostMessage { GuestFrame = new GuestFrame { StreamId = stream, Type = (uint)type, Payload = ByteString.CopyFrom(payload ?? []) } });

    [Fact]
    public async Task Should_carry_a_stream_both_ways_to_its_end()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        await using var guest = await Cell.Cell.OpenGuestAsync(id, "{}"u8.ToArray(), CancellationToken.None);
        await using var frames = guest.ReadAsync(CancellationToken.None).GetAsyncEnumerator();
        var open = await ExpectAsync(agent, FrameType.Open);
        Assert.Equal((id, "{}"), (open.VmId, open.Payload.ToStringUtf8()));

        Say(agent, open.StreamId, FrameType.Started);
        Assert.True(await frames.MoveNextAsync());
        Assert.Equal(FrameType.Started, frames.Current.Type);
        guest.Send(FrameType.Input, "typed"u8.ToArray());
        Assert.Equal("typed", (await ExpectAsync(agent, FrameType.Input)).Payload.ToStringUtf8());
        Say(agent, open.StreamId, FrameType.Output, [1, 2]);
        Say(agent, open.StreamId, FrameType.Exit, Frame.Number(9));
        Assert.True(await frames.MoveNextAsync());
        Assert.Equal(new byte[] { 1, 2 }, frames.Current.Payload.ToArray());
        Assert.True(await frames.MoveNextAsync());
        Assert.Equal((FrameType.Exit, 9), (frames.Current.Type, frames.Current.Payload.Span[0]));
        Assert.False(await frames.MoveNextAsync());
        Assert.True(agent.IsOpen);
    }

    [Fact]
    public async Task Should_close_on_the_host_what_its_client_leaves()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        var guest = await Cell.Cell.OpenGuestAsync(id, "{}"u8.ToArray(), CancellationToken.None);
        var open = await ExpectAsync(agent, FrameType.Open);
        await guest.DisposeAsync();
        Assert.Equal(open.StreamId, (await ExpectAsync(agent, FrameType.Close)).StreamId);
    }

    [Fact]
    public async Task Should_cut_an_agent_that_breaks_the_rules()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        await using var guest = await Cell.Cell.OpenGuestAsync(id, "{}"u8.ToArray(), CancellationToken.None);
        var open = await ExpectAsync(agent, FrameType.Open);
        Say(agent, open.StreamId, FrameType.Started);
        for (var sent = 0; sent <= StreamLedger.OutputWindow; sent += Frame.MaxPayload)
            Say(agent, open.StreamId, FrameType.Output, new byte[Frame.MaxPayload]);
        await agent.EndedAsync();
        Assert.Equal("invalid_message", agent.Refusal?.Code);
        FrameType last = default;
        await foreach (var (type, _) in guest.ReadAsync(CancellationToken.None))
            last = type;
        Assert.Equal(FrameType.Refused, last);
    }

    [Fact]
    public async Task Should_leave_room_for_others_than_one_tenant()
    {
        await using var agent = await shared.JoinAsync();
        var ids = new List<string>();
        foreach (var tenant in new[] { "acme", "acme", "other" })
        {
            var spec = SharedCell.On(agent);
            spec.Tenant = tenant;
            ids.Add(await Cell.CreateAsync(spec));
            await Cell.WaitAsync(ids[^1], VmState.Running);
        }
        var open = new List<IGuestStream>();
        for (var i = 0; i < SessionGuests.MostOfTenant; i++)
            open.Add(await Cell.Cell.OpenGuestAsync(ids[i % 2], "{}"u8.ToArray(), CancellationToken.None));
        await Eventually.TrueAsync(() => agent.Received.Count(message => message.GuestFrame?.Type == (uint)FrameType.Open) == open.Count);

        await using var refused = await Cell.Cell.OpenGuestAsync(ids[0], "{}"u8.ToArray(), CancellationToken.None);
        await using var frames = refused.ReadAsync(CancellationToken.None).GetAsyncEnumerator();
        Assert.True(await frames.MoveNextAsync());
        Assert.StartsWith("unavailable ", Encoding.UTF8.GetString(frames.Current.Payload.Span), StringComparison.Ordinal);
        await using var others = await Cell.Cell.OpenGuestAsync(ids[2], "{}"u8.ToArray(), CancellationToken.None);
        Assert.Equal(ids[2], (await ExpectAsync(agent, FrameType.Open, ids[2])).VmId);
        foreach (var stream in open)
            await stream.DisposeAsync();
    }

    [Fact]
    public async Task Should_say_that_the_host_is_not_there()
    {
        var (agent, id) = await RunningAsync();
        await using var _ = agent;
        await agent.CutAsync();
        await Eventually.TrueAsync(async () => (await Cell.HostAsync(agent.HostId)).State == HostState.Disconnected);
        await using var guest = await Cell.Cell.OpenGuestAsync(id, "{}"u8.ToArray(), CancellationToken.None);
        var words = "";
        await foreach (var (type, payload) in guest.ReadAsync(CancellationToken.None))
        {
            Assert.Equal(FrameType.Refused, type);
            words = Encoding.UTF8.GetString(payload.Span);
        }
        Assert.StartsWith("unavailable ", words, StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_refuse_what_has_no_guest()
    {
        var refused = await Assert.ThrowsAsync<CellException>(() => Cell.Cell.OpenGuestAsync(TestCell.NewVmId(), "{}"u8.ToArray(), CancellationToken.None));
        Assert.Equal("not_found", refused.Code);
    }
}
