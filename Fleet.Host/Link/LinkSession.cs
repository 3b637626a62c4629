using System.Runtime.CompilerServices;
using System.Threading.Channels;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Link;

/// <summary>
/// One open stream to the control plane, as its users see it: two bounded ways out, and when it is over. Reports and
/// heartbeats go before consoles, so that guests that write without end don't keep the host from being heard.
/// </summary>
internal sealed class LinkSession
{
    /// <summary>A report has some 200 bytes; more than fit wait in the agent, which keeps only the newest of each microVM.</summary>
    private const int FirstCapacity = 1024;

    /// <summary>At 64 KiB a chunk it bounds the link's memory to 4 MiB.</summary>
    private const int ConsoleCapacity = 64;

    private readonly Channel<HostMessage> _first = Channel.CreateBounded<HostMessage>(new BoundedChannelOptions(FirstCapacity) { SingleReader = true });
    private readonly Channel<HostMessage> _consoles = Channel.CreateBounded<HostMessage>(new BoundedChannelOptions(ConsoleCapacity) { SingleReader = true });

    // Full means that the reader will look once more anyway.
    private readonly Channel<bool> _wake = Channel.CreateBounded<bool>(new BoundedChannelOptions(1) { FullMode = BoundedChannelFullMode.DropWrite, SingleReader = true });
    private readonly CancellationTokenSource _stream;

    /// <param name="stream">Cancelled when the stream is over; cancelling it ends the stream.</param>
    public LinkSession(CancellationTokenSource stream)
    {
        _stream = stream;
        Ended = stream.Token;
    }

    public CancellationToken Ended { get; }

    /// <summary>For everything but consoles. False when there is no room now, or no stream any more.</summary>
    public bool TrySend(HostMessage message)
    {
        if (!_first.Writer.TryWrite(message))
            return false;
        _wake.Writer.TryWrite(true);
        return true;
    }

    /// <summary>Completes when <see cref="TrySend"/> may succeed again; false when the stream is over.</summary>
    public async Task<bool> WaitForRoomAsync()
    {
        try
        {
            return await _first.Writer.WaitToWriteAsync(Ended).ConfigureAwait(false);
        }
        catch (OperationCanceledException)
        {
            return false;
        }
    }

    /// <summary>Waits for room. Throws <see cref="ChannelClosedException"/> or <see cref="OperationCanceledException"/> when the stream is over.</summary>
    public async ValueTask SendConsoleAsync(HostMessage message, CancellationToken cancellation)
    {
        await _consoles.Writer.WriteAsync(message, cancellation).ConfigureAwait(false);
        _wake.Writer.TryWrite(true);
    }

    /// <summary>Nothing more will be sent; what is there still goes out.</summary>
    public void Complete()
    {
        _first.Writer.TryComplete();
        _consoles.Writer.TryComplete();
        _wake.Writer.TryComplete();
    }

    /// <summary>Ends the stream at once; the agent dials again.</summary>
    public void Break()
    {
        try
        {
            _stream.Cancel();
        }
        catch (ObjectDisposedException)
        {
            // It was over already.
            return;
        }
    }

    /// <summary>Messages in the order in which they are to be sent; ends after <see cref="Complete"/>.</summary>
    public async IAsyncEnumerable<HostMessage> ReadAllAsync([EnumeratorCancellation] CancellationToken cancellation)
    {
        do
        {
            _wake.Reader.TryRead(out _);
            while (true)
            {
                if (!_first.Reader.TryRead(out var message) && !_consoles.Reader.TryRead(out message))
                    break;
                yield return message;
            }
        }
        while (await _wake.Reader.WaitToReadAsync(cancellation).ConfigureAwait(false));

        while (_first.Reader.TryRead(out var last))
            yield return last;
    }
}
