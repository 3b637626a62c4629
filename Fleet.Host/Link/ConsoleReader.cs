using System.Threading.Channels;
using Fleet.Host.Consoles;
using Fleet.Host.Logs;
using Fleet.Shared.Contracts;
using Google.Protobuf;

namespace Fleet.Host.Link;

/// <summary>One reader of a console or a log on its way to the control plane: sends as much as it has credit for, in order.</summary>
/// <param name="request">What is wanted.</param>
/// <param name="directory">Of the microVM.</param>
/// <param name="ended">Completes when nothing more is written there.</param>
/// <param name="clock">For its pauses.</param>
/// <param name="session">Takes what it sends.</param>
internal sealed class ConsoleReader(OpenConsole request, string directory, Task ended, TimeProvider clock, LinkSession session)
{
    /// <summary>A reader can't be owed more than this; more credit is a mistake of the other side.</summary>
    private const long MostCredit = 16 << 20;

    private readonly CancellationTokenSource _closed = CancellationTokenSource.CreateLinkedTokenSource(session.Ended);
    private readonly Lock _gate = new();
    private TaskCompletionSource _granted = new(TaskCreationOptions.RunContinuationsAsynchronously);
    private bool _over;
    private long _credit = Math.Min(request.Credit, MostCredit);

    public string VmId => request.VmId;

    /// <summary>The control plane has passed on that many bytes.</summary>
    public void Grant(uint bytes)
    {
        lock (_gate)
        {
            _credit = Math.Min(_credit + bytes, MostCredit);
            _granted.TrySetResult();
        }
    }

    /// <summary>Ends <see cref="RunAsync"/>; nothing more is sent.</summary>
    public void Close()
    {
        lock (_gate)
        {
            if (!_over)
                _closed.Cancel();
        }
    }

    /// <summary>Until the console's end, <see cref="Close"/>, or the end of the stream. Never faults.</summary>
    public async Task RunAsync()
    {
        var cancellation = _closed.Token;
        try
        {
            var (at, source) = Open(cancellation);
            // At once and without bytes: the reader learns where its first byte will stand before there is one.
            await session.SendConsoleAsync(Chunk(at, default, end: false), cancellation).ConfigureAwait(false);
            await foreach (var bytes in source.ConfigureAwait(false))
            {
                var data = bytes.Data;
                at = bytes.Offset;
                while (!data.IsEmpty)
                {
                    var count = await TakeAsync(data.Length, cancellation).ConfigureAwait(false);
                    await session.SendConsoleAsync(Chunk(at, data[..count], end: false), cancellation).ConfigureAwait(false);
                    data = data[count..];
                    at += (ulong)count;
                }
            }

            await session.SendConsoleAsync(Chunk(at, default, end: true), cancellation).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            // Closed, or the stream is over: nobody listens.
        }
        catch (ChannelClosedException)
        {
            // The stream ended while we sent.
        }
        catch (Exception failed) when (failed is not OutOfMemoryException)
        {
            var message = Chunk(0, default, end: true);
            message.Console.Error = new Reason { Code = "unavailable", Message = $"What the microVM wrote can't be read: {failed.Message}" };
            session.TrySend(message);
        }
        finally
        {
            lock (_gate)
                _over = true;
            _closed.Dispose();
        }
    }

    private (ulong At, IAsyncEnumerable<ConsoleBytes> Source) Open(CancellationToken cancellation)
    {
        if (request.Log is { } wish)
            return (0, new LogReader(directory, clock).ReadAsync(wish, request.Follow, ended, cancellation));
        var console = new ConsoleLog(directory, clock);
        var extent = console.Extent();
        var at = request.FromEnd ? extent.End : Math.Clamp(request.Offset, extent.Start, extent.End);
        return (at, console.ReadAsync(at, request.Follow, ended, cancellation));
    }

    private async ValueTask<int> TakeAsync(int wanted, CancellationToken cancellation)
    {
        while (true)
        {
            Task granted;
            lock (_gate)
            {
                if (_credit > 0)
                {
                    var taken = (int)Math.Min(_credit, wanted);
                    _credit -= taken;
                    return taken;
                }

                if (_granted.Task.IsCompleted)
                    _granted = new TaskCompletionSource(TaskCreationOptions.RunContinuationsAsynchronously);
                granted = _granted.Task;
            }

            await granted.WaitAsync(cancellation).ConfigureAwait(false);
        }
    }

    private HostMessage Chunk(ulong offset, ReadOnlyMemory<byte> data, bool end) => new()
    {
        Console = new ConsoleChunk { StreamId = request.StreamId, Offset = offset, Data = ByteString.CopyFrom(data.Span), End = end, Log = request.Log is not null },
    };
}
