using Akka.Actor;
using Fleet.Host.Link;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Google.Protobuf;

namespace Fleet.Host.Agent;

/// <summary>The streams of clients: consoles, and those that go on into the guests.</summary>
internal sealed partial class HostAgentActor
{
    private void Open(OpenConsole request)
    {
        if (_session is not { } session)
            return;
        if (!_vms.TryGetValue(request.VmId, out var entry))
        {
            RefuseConsole(session, request.StreamId, "not_found", "This host has no such microVM.");
            return;
        }

        if (_readers.TryOpen(request, _context.State.FolderOf(request.VmId), entry.Console.Task, _context.Clock, session) is not { } opened)
        {
            RefuseConsole(session, request.StreamId, "unavailable", "Too many readers of this console or of this host's consoles; close one and try again.");
            return;
        }

        var done = new ReaderDone(request.StreamId, opened.Reader);
        _ = opened.Run.PipeTo(Self, success: () => done, failure: _ => done);
    }

    private void RefuseConsole(LinkSession session, ulong stream, string code, string message)
    {
        var refusal = new ConsoleChunk { StreamId = stream, End = true, Error = new Reason { Code = code, Message = message } };
        if (!session.TrySend(new HostMessage { Console = refusal }))
            _log.Warning("The stream to the control plane is full; it does not hear that console {Stream} was refused", stream);
    }

    private void Pass(GuestFrame frame)
    {
        if (_session is not { } session)
            return;
        if (_vms.TryGetValue(frame.VmId, out var entry) && !entry.Actor.IsNobody())
        {
            entry.Actor.Tell(new MicroVmActor.ForGuest(frame, session));
            return;
        }

        var refusal = new GuestFrame
        {
            StreamId = frame.StreamId, VmId = frame.VmId, Type = (uint)FrameType.Refused, Payload = ByteString.CopyFromUtf8("not_found This host has no such microVM."),
        };
        if (frame.Type == (uint)FrameType.Open && !session.TrySend(new HostMessage { GuestFrame = refusal }))
            _log.Warning("The stream to the control plane is full; it does not hear that guest stream {Stream} was refused", frame.StreamId);
    }
}
