using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Sessions;

/// <summary>The console streams of one agent. Each has a credit; an agent that sends more is cut off.</summary>
internal sealed class SessionConsoles(IActorContext context, Action<SchedulerMessage> send)
{
    /// <summary>Readers of one host at once.</summary>
    public const int MostStreams = 256;

    private readonly Dictionary<ulong, Stream> _streams = [];
    private ulong _lastStream;

    private sealed class Stream(IActorRef reader, uint credit)
    {
        public IActorRef Reader { get; } = reader;

        /// <summary>Bytes that the agent may still send.</summary>
        public long Credit { get; set; } = credit;
    }

    public void Open(ConsoleRequest request, IActorRef reader)
    {
        if (_streams.Count >= MostStreams)
        {
            reader.Tell(new ConsoleRefused
            {
                Problem = new Problem { Code = "unavailable", Message = $"{MostStreams} consoles of this host are being read; try again later." },
            });
            return;
        }
        var id = ++_lastStream;
        _streams.Add(id, new Stream(reader, request.Credit));
        context.Watch(reader);
        send(new SchedulerMessage
        {
            OpenConsole = new OpenConsole
            {
                StreamId = id,
                VmId = request.VmId,
                Offset = request.Offset,
                Follow = request.Follow,
                Credit = request.Credit,
                Log = request.Log,
            },
        });
    }

    /// <summary>What is wrong with the chunk; null: nothing. Chunks of a stream that was just closed are dropped.</summary>
    public string? Chunk(ConsoleChunk chunk)
    {
        if (!_streams.TryGetValue(chunk.StreamId, out var stream))
            return chunk.StreamId == 0 || chunk.StreamId > _lastStream ? $"Console stream {chunk.StreamId} was never opened." : null;
        stream.Credit -= chunk.Data.Length;
        if (stream.Credit < 0)
            return $"Console stream {chunk.StreamId} sent more than its credit.";
        stream.Reader.Tell(new ConsoleData { Chunk = chunk });
        if (chunk.End)
            Forget(chunk.StreamId);
        return null;
    }

    public void Grant(ConsoleGrant grant, IActorRef reader)
    {
        if (!_streams.TryGetValue(grant.StreamId, out var stream) || !stream.Reader.Equals(reader))
            return;
        stream.Credit += grant.Bytes;
        send(new SchedulerMessage { ConsoleCredit = new ConsoleCredit { StreamId = grant.StreamId, Bytes = grant.Bytes } });
    }

    public void Done(ulong streamId, IActorRef reader)
    {
        if (_streams.TryGetValue(streamId, out var stream) && stream.Reader.Equals(reader))
            CloseStream(streamId);
    }

    public void ReaderGone(IActorRef reader)
    {
        foreach (var (id, _) in _streams.Where(stream => stream.Value.Reader.Equals(reader)).ToList())
            CloseStream(id);
    }

    /// <summary>The agent is gone: every reader hears it.</summary>
    public void EndAll(string message)
    {
        foreach (var stream in _streams.Values)
            stream.Reader.Tell(new ConsoleRefused { Problem = new Problem { Code = "unavailable", Message = message } });
        _streams.Clear();
    }

    private void CloseStream(ulong id)
    {
        Forget(id);
        send(new SchedulerMessage { CloseConsole = new CloseConsole { StreamId = id } });
    }

    private void Forget(ulong id)
    {
        if (_streams.Remove(id, out var stream))
            context.Unwatch(stream.Reader);
    }
}
