using System.Text;
using System.Threading.Channels;
using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Fleet.Shared.Vms;
using Google.Protobuf;

namespace Fleet.Scheduler.Sessions;

/// <inheritdoc cref="IGuestStream"/>
internal sealed class GuestStream : IGuestStream
{
    // What the two windows let be under way, the credits of both and the first and last frame.
    private const int MostFrames = 2 * (StreamLedger.OutputWindow + StreamLedger.InputWindow) / StreamLedger.Overhead;

    private readonly IActorRef _client;
    private readonly ChannelReader<(FrameType Type, ReadOnlyMemory<byte> Payload)> _frames;

    public GuestStream(ActorSystem system, IActorRef hosts, GuestOpen open)
    {
        var frames = Channel.CreateBounded<(FrameType, ReadOnlyMemory<byte>)>(new BoundedChannelOptions(MostFrames) { SingleReader = true, SingleWriter = true });
        _frames = frames.Reader;
        _client = system.ActorOf(ActorProps.Of(() => new GuestClientActor(hosts, open, frames.Writer)));
    }

    public void Send(FrameType type, ReadOnlyMemory<byte> payload) => _client.Tell(new GuestClientActor.Outgoing(type, payload));

    public IAsyncEnumerable<(FrameType Type, ReadOnlyMemory<byte> Payload)> ReadAsync(CancellationToken cancellation) => _frames.ReadAllAsync(cancellation);

    public ValueTask DisposeAsync()
    {
        _client.Tell(new GuestClientActor.Outgoing(FrameType.Close, default));
        return ValueTask.CompletedTask;
    }
}

/// <summary>One client's end of a stream into a guest: speaks with the host's session, wherever that is.</summary>
internal sealed class GuestClientActor(IActorRef hosts, GuestOpen open, ChannelWriter<(FrameType, ReadOnlyMemory<byte>)> frames) : UntypedActor
{
    private IActorRef _session = ActorRefs.Nobody;
    private ulong _streamId;

    /// <summary>A frame for the guest.</summary>
    public sealed record Outgoing(FrameType Type, ReadOnlyMemory<byte> Payload) : INoSerializationVerificationNeeded;

    protected override void PreStart() => hosts.Tell(open);

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case GuestFromHost { Frame: { } frame }:
                if (_streamId == 0)
                {
                    _streamId = frame.StreamId;
                    _session = Sender;
                    Context.Watch(_session);
                }
                if (!frames.TryWrite(((FrameType)frame.Type, frame.Payload.Memory)))
                    Refuse("unavailable", "More came from the guest than was asked for.");
                else if ((FrameType)frame.Type is FrameType.Exit or FrameType.Refused)
                    frames.TryComplete();
                break;
            case GuestRefused refused:
                Refuse(refused.Problem.Code, refused.Problem.Message);
                break;
            case Terminated:
                Refuse("unavailable", "The connection to the host broke off.");
                break;
            case Outgoing { Type: FrameType.Close }:
                // Before the first frame nobody knows the stream's number: the session sees that this actor is gone.
                Context.Stop(Self);
                break;
            case Outgoing frame when _streamId != 0:
                _session.Tell(new GuestToHost { Frame = new GuestFrame { StreamId = _streamId, VmId = open.VmId, Type = (uint)frame.Type, Payload = UnsafeByteOperations.UnsafeWrap(frame.Payload) } });
                break;
            default:
                Unhandled(message);
                break;
        }
    }

    private void Refuse(string code, string message)
    {
        frames.TryWrite((FrameType.Refused, Encoding.UTF8.GetBytes($"{code} {ReasonText.Shorten(message)}")));
        frames.TryComplete();
    }
}
