using System.Runtime.CompilerServices;
using System.Threading.Channels;
using Akka.Actor;
using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Sessions;

/// <summary>
/// Receives one console, or log, for one reader. What is under way is bounded by the credit that the reader gives back as it reads, so
/// a slow reader slows the agent and costs no memory here.
/// </summary>
internal sealed class ConsoleReaderActor(
    IActorRef hosts, ConsoleRequest request, ChannelWriter<ConsoleChunk> chunks, TaskCompletionSource<ulong> opened) : UntypedActor
{
    private IActorRef _session = ActorRefs.Nobody;
    private ulong _streamId;

    protected override void PreStart() => hosts.Tell(request);

    protected override void OnReceive(object message)
    {
        switch (message)
        {
            case ConsoleData data:
                OnChunk(data.Chunk);
                break;
            case ConsoleRefused refused:
                End(new CellException(refused.Problem.Code, refused.Problem.Message));
                break;
            case Terminated:
                End(new CellException("unavailable", "The connection to the host broke off."));
                break;
            case ConsoleRead read when _streamId != 0:
                _session.Tell(new ConsoleGrant { StreamId = _streamId, Bytes = read.Bytes });
                break;
            case ConsoleClosed:
                if (_streamId != 0)
                    _session.Tell(new ConsoleDone { StreamId = _streamId });
                chunks.TryComplete();
                Context.Stop(Self);
                break;
            default:
                Unhandled(message);
                break;
        }
    }

    private void OnChunk(ConsoleChunk chunk)
    {
        if (chunk.Error is { Code.Length: > 0 } error)
        {
            // Before it is opened, if that is what was refused: whoever waits for that is answered with the refusal.
            End(new CellException(error.Code == "not_found" ? "not_found" : "unavailable", error.Message));
            return;
        }
        if (_streamId == 0)
        {
            _streamId = chunk.StreamId;
            _session = Sender;
            if (request.Log is not null && !chunk.Log)
            {
                _session.Tell(new ConsoleDone { StreamId = _streamId });
                End(new CellException("unavailable", "The agent of the microVM's host is older than logs; upgrade it."));
                return;
            }
            Context.Watch(_session);
            opened.TrySetResult(chunk.Offset);
        }
        if (chunk.Data.Length > 0 && !chunks.TryWrite(chunk))
        {
            End(new CellException("unavailable", "The host sent more than was asked for."));
            return;
        }
        if (chunk.End)
            End(null);
    }

    private void End(CellException? problem)
    {
        if (problem is null)
            opened.TrySetResult(request.Offset);
        else
            opened.TrySetException(problem);
        chunks.TryComplete(problem);
        // Stays until the reader closes it, or its data would have nobody to give credit to.
        if (problem is not null)
            Context.Stop(Self);
    }
}

/// <summary>The reader took this many bytes.</summary>
internal sealed record ConsoleRead(uint Bytes) : INoSerializationVerificationNeeded;

/// <summary>The reader wants no more.</summary>
internal sealed class ConsoleClosed : INoSerializationVerificationNeeded
{
    public static readonly ConsoleClosed Instance = new();
}

/// <inheritdoc cref="IConsoleStream"/>
internal sealed class ConsoleStream : IConsoleStream
{
    /// <summary>Bytes under way to one reader: keeps a fast guest flowing over a link of 10 ms, and is what one reader costs.</summary>
    public const uint Credit = 256 * 1024;

    /// <summary>Chunks under way: an agent that sends its credit byte by byte is cut off before it costs more than its bytes.</summary>
    private const int MostChunks = 4096;

    private readonly IActorRef _reader;
    private readonly ChannelReader<ConsoleChunk> _chunks;

    private ConsoleStream(IActorRef reader, ChannelReader<ConsoleChunk> chunks, ulong offset)
    {
        _reader = reader;
        _chunks = chunks;
        Offset = offset;
    }

    public ulong Offset { get; }

    /// <summary>Opens the console and waits until the agent has said where it begins.</summary>
    public static async Task<IConsoleStream> OpenAsync(
        ActorSystem system, IActorRef hosts, ConsoleRequest request, TimeSpan patience, CancellationToken cancellation)
    {
        request.Credit = Credit;
        var chunks = Channel.CreateBounded<ConsoleChunk>(new BoundedChannelOptions(MostChunks) { SingleReader = true, SingleWriter = true });
        var opened = new TaskCompletionSource<ulong>(TaskCreationOptions.RunContinuationsAsynchronously);
        var reader = system.ActorOf(ActorProps.Of(() => new ConsoleReaderActor(hosts, request, chunks.Writer, opened)));
        try
        {
            var offset = await opened.Task.WaitAsync(patience, cancellation).ConfigureAwait(false);
            return new ConsoleStream(reader, chunks.Reader, offset);
        }
        catch (Exception fault)
        {
            reader.Tell(ConsoleClosed.Instance);
            if (fault is TimeoutException)
                throw new CellException("unavailable", $"The host did not open the console within {patience.TotalSeconds:0} s.", fault);
            throw;
        }
    }

    public async IAsyncEnumerable<ReadOnlyMemory<byte>> ReadAsync([EnumeratorCancellation] CancellationToken cancellation)
    {
        await foreach (var chunk in _chunks.ReadAllAsync(cancellation).ConfigureAwait(false))
        {
            yield return chunk.Data.Memory;
            _reader.Tell(new ConsoleRead((uint)chunk.Data.Length));
        }
    }

    public ValueTask DisposeAsync()
    {
        _reader.Tell(ConsoleClosed.Instance);
        return ValueTask.CompletedTask;
    }
}
