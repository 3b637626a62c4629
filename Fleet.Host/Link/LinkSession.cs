using System.Threading.Channels;
using Fleet.Shared.Contracts;

namespace Fleet.Host.Link;

/// <summary>One open stream to the control plane, as its users see it: a bounded way out, and when it is over.</summary>
internal sealed class LinkSession(CancellationToken ended)
{
    /// <summary>
    /// Messages on their way out. Reports are repeated anyway and consoles wait for room, so this need only cover a
    /// round trip; at 64 KiB a chunk it bounds the link's memory to 8 MiB.
    /// </summary>
    private const int Capacity = 128;

    private readonly Channel<HostMessage> _out = Channel.CreateBounded<HostMessage>(new BoundedChannelOptions(Capacity) { SingleReader = true });

    /// <summary>Cancelled when the stream is over.</summary>
    public CancellationToken Ended { get; } = ended;

    public ChannelReader<HostMessage> Outgoing => _out.Reader;

    /// <summary>False when there is no room now.</summary>
    public bool TrySend(HostMessage message) => _out.Writer.TryWrite(message);

    /// <summary>Waits for room, at most as long as the stream lives.</summary>
    public ValueTask SendAsync(HostMessage message, CancellationToken cancellation) => _out.Writer.WriteAsync(message, cancellation);

    /// <summary>Nothing more will be sent.</summary>
    public void Complete() => _out.Writer.TryComplete();
}
