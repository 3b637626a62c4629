using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Google.Protobuf;

namespace Fleet.Scheduler.Sessions;

/// <summary>
/// The streams into the guests of one agent's host. Each has a ledger: an agent that says what may not come is cut off, and a client
/// that does loses its stream.
/// </summary>
internal sealed class SessionGuests(IActorContext context, Action<SchedulerMessage> send)
{
    /// <summary>Of one host at once. What is under way to them fits into what may wait for a slow agent.</summary>
    public const int MostStreams = 64;

    /// <summary>Of these, into microVMs of one tenant: none keeps the others out.</summary>
    public const int MostOfTenant = MostStreams / 2;

    private readonly Dictionary<ulong, Stream> _streams = [];
    private ulong _lastStream;

    private sealed record Stream(IActorRef Client, string VmId, string Tenant)
    {
        public StreamLedger Ledger { get; } = new();
    }

    public void Open(GuestOpen open, IActorRef client)
    {
        if (_streams.Count >= MostStreams)
        {
            Refuse(client, $"{MostStreams} commands are being run in guests of this host; try again later.");
            return;
        }
        if (_streams.Values.Count(stream => stream.Tenant == open.Tenant) >= MostOfTenant)
        {
            Refuse(client, $"{MostOfTenant} commands are being run in guests of this host that are of the same tenant; end some, or try again later.");
            return;
        }
        var stream = new Stream(client, open.VmId, open.Tenant);
        if (stream.Ledger.ToGuest(FrameType.Open, open.Request.Span) is { } unfit)
        {
            Refuse(client, unfit);
            return;
        }
        var id = ++_lastStream;
        _streams.Add(id, stream);
        context.Watch(client);
        SendFrame(id, stream, FrameType.Open, open.Request);
    }

    /// <summary>What is wrong with the frame; null: nothing. Frames of a stream that was just closed are dropped.</summary>
    public string? FromHost(GuestFrame frame)
    {
        if (!_streams.TryGetValue(frame.StreamId, out var stream))
            return frame.StreamId == 0 || frame.StreamId > _lastStream ? $"Guest stream {frame.StreamId} was never opened." : null;
        if (frame.Type > byte.MaxValue || stream.Ledger.FromGuest((FrameType)frame.Type, frame.Payload.Span) is not null)
            return $"Guest stream {frame.StreamId} broke the channel's rules.";
        stream.Client.Tell(new GuestFromHost { Frame = frame });
        if (stream.Ledger.Ended)
            Forget(frame.StreamId);
        return null;
    }

    public void ToHost(GuestFrame frame, IActorRef client)
    {
        if (!_streams.TryGetValue(frame.StreamId, out var stream) || !stream.Client.Equals(client))
            return;
        if (frame.Type > byte.MaxValue || stream.Ledger.ToGuest((FrameType)frame.Type, frame.Payload.Span) is not null)
        {
            // The API looks at what clients send; this is a mistake of ours.
            Refuse(client, "The stream broke the channel's rules.");
            Close(frame.StreamId, stream);
            return;
        }
        SendFrame(frame.StreamId, stream, (FrameType)frame.Type, frame.Payload);
        if (stream.Ledger.Ended)
            Forget(frame.StreamId);
    }

    public void ClientGone(IActorRef client)
    {
        foreach (var (id, stream) in _streams.Where(stream => stream.Value.Client.Equals(client)).ToList())
            Close(id, stream);
    }

    /// <summary>The agent is gone: every client hears it.</summary>
    public void EndAll(string message)
    {
        foreach (var stream in _streams.Values)
            Refuse(stream.Client, message);
        _streams.Clear();
    }

    private static void Refuse(IActorRef client, string message) =>
        client.Tell(new GuestRefused { Problem = new Problem { Code = "unavailable", Message = message } });

    private void Close(ulong id, Stream stream)
    {
        Forget(id);
        SendFrame(id, stream, FrameType.Close, ByteString.Empty);
    }

    private void Forget(ulong id)
    {
        if (_streams.Remove(id, out var stream))
            context.Unwatch(stream.Client);
    }

    private void SendFrame(ulong id, Stream stream, FrameType type, ByteString payload) => send(new SchedulerMessage
    {
        GuestFrame = new GuestFrame { StreamId = id, VmId = stream.VmId, Type = (uint)type, Payload = payload },
    });
}
