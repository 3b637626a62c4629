using System.Buffers;
using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Threading.Channels;
using Fleet.Shared.GuestChannel;

namespace Fleet.Host.Guests;

/// <summary>
/// One conversation with fleet-init over a connection: greets it, sends frames in order and hands on what comes. What fleet-init
/// says is a stranger's word: frames are cut to their bounds here, and what they may say is for the streams to check.
/// </summary>
internal sealed class GuestConversation : IAsyncDisposable
{
    /// <summary>
    /// Frames that a guest has not taken, and bytes in them. All streams of a microVM together have fewer under way
    /// (<see cref="StreamLedger"/>); those that were closed meanwhile count on.
    /// </summary>
    private const int MostWaiting = 4096;

    /// <inheritdoc cref="MostWaiting"/>
    public const int MostWaitingBytes = 2 << 20;

    /// <summary>What a guest has sent is taken and answered for at once: as much as its log may have under way.</summary>
    private const int ReadBytes = StreamLedger.OutputWindow;

    private readonly Stream _connection;
    private readonly Channel<(FrameType Type, uint Stream, ReadOnlyMemory<byte> Payload)> _out =
        Channel.CreateBounded<(FrameType, uint, ReadOnlyMemory<byte>)>(new BoundedChannelOptions(MostWaiting) { SingleReader = true });

    private readonly CancellationTokenSource _over = new();
    private readonly FrameReader _reader = new();
    private byte[]? _read;
    private ReadOnlyMemory<byte> _left;
    private ReadOnlyMemory<byte> _payload;
    private Task _running = Task.CompletedTask;
    private uint _lastStream;
    private int _waitingBytes;

    private GuestConversation(Stream connection) => _connection = connection;

    /// <summary>Takes a frame of the guest, whose payload is valid until then; awaited before the next is read, and so holds the guest back. Must not throw.</summary>
    public delegate ValueTask TakeFrame(FrameType type, uint stream, ReadOnlyMemory<byte> payload);

    /// <summary>Completes when no more will come.</summary>
    public Task Ended => _running;

    /// <summary>Greets fleet-init and waits for its answer.</summary>
    /// <param name="connection">Is this object's from now on.</param>
    /// <param name="take">Gets every frame.</param>
    /// <param name="cancellation">Gives up waiting; then the connection is closed.</param>
    /// <param name="taken">Told, between frames, that all that had come is taken. Must not throw.</param>
    /// <exception cref="IOException">The connection broke.</exception>
    public static async Task<GuestConversation> BeginAsync(Stream connection, TakeFrame take, CancellationToken cancellation, Action? taken = null)
    {
        var conversation = new GuestConversation(connection);
        try
        {
            await conversation.GreetAsync(cancellation).ConfigureAwait(false);
            conversation._running = Task.WhenAll(conversation.ReadAsync(take, taken), conversation.WriteAsync());
            return conversation;
        }
        catch
        {
            await conversation.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>A number for a new stream; call it and send its Open from one thread at a time.</summary>
    public uint NextStream() => ++_lastStream;

    /// <summary>Sends a frame behind the others. False when the conversation is over, which it is too when the guest takes nothing.</summary>
    public bool TrySend(FrameType type, uint stream, ReadOnlyMemory<byte> payload)
    {
        if (Interlocked.Add(ref _waitingBytes, payload.Length) <= MostWaitingBytes && _out.Writer.TryWrite((type, stream, payload))) return true;
        End();
        return false;
    }

    public async ValueTask DisposeAsync()
    {
        End();
        // A write that a guest does not take ends with the connection.
        await _connection.DisposeAsync().ConfigureAwait(false);
        await _running.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
    }

    private async Task GreetAsync(CancellationToken cancellation)
    {
        // Whoever spoke before may have died in the middle of a frame: so many zeros end it, whatever it was.
        await _connection.WriteAsync(new byte[Frame.MaxBytes], cancellation).ConfigureAwait(false);
        var nonce = RandomNumberGenerator.GetBytes(8);
        await _connection.WriteAsync(Frame.Greeting(BinaryPrimitives.ReadUInt64LittleEndian(nonce)), cancellation).ConfigureAwait(false);
        while (true)
        {
            // What was meant for somebody before us is passed over.
            var found = await NextAsync(cancellation).ConfigureAwait(false);
            if (found == FrameFound.Frame && _reader.Type == FrameType.Greeting && _reader.Payload[Frame.Magic.Length..].SequenceEqual(nonce)) return;
        }
    }

    private async Task ReadAsync(TakeFrame take, Action? taken)
    {
        try
        {
            while (await NextAsync(_over.Token, taken).ConfigureAwait(false) == FrameFound.Frame && _reader.Type != FrameType.Greeting)
                await take(_reader.Type, _reader.Stream, _payload).ConfigureAwait(false);
        }
        catch (Exception broken) when (broken is IOException or OperationCanceledException or ObjectDisposedException)
        {
            // The guest, the VMM or the agent ends.
        }
        End();
    }

    private async Task WriteAsync()
    {
        var frame = new byte[Frame.MaxBytes];
        try
        {
            await foreach (var (type, stream, payload) in _out.Reader.ReadAllAsync(_over.Token).ConfigureAwait(false))
            {
                var length = Frame.Write(frame, type, stream, payload.Span);
                await _connection.WriteAsync(frame.AsMemory(0, length), _over.Token).ConfigureAwait(false);
                Interlocked.Add(ref _waitingBytes, -payload.Length);
            }
        }
        catch (Exception broken) when (broken is IOException or OperationCanceledException or ObjectDisposedException)
        {
            // As above.
        }
        End();
    }

    private void End()
    {
        _out.Writer.TryComplete();
        _over.Cancel();
    }

    private async ValueTask<FrameFound> NextAsync(CancellationToken cancellation, Action? taken = null)
    {
        while (true)
        {
            if (Cut() is var found && found != FrameFound.Nothing) return found;
            taken?.Invoke();
            // Most guests have nothing to say most of the time: waited for without the memory.
            if (_read is not null) ArrayPool<byte>.Shared.Return(_read);
            _read = null;
            await _connection.ReadAsync(Memory<byte>.Empty, cancellation).ConfigureAwait(false);
            _read = ArrayPool<byte>.Shared.Rent(ReadBytes);
            var length = await _connection.ReadAsync(_read, cancellation).ConfigureAwait(false);
            if (length == 0) throw new IOException("The connection to the guest is closed.");
            _left = _read.AsMemory(0, length);
        }
    }

    private FrameFound Cut()
    {
        if (_reader.TryReadWhole(ref _left, out _payload)) return FrameFound.Frame;
        var left = _left.Span;
        var found = _reader.Read(ref left);
        _left = _left[^left.Length..];
        if (found == FrameFound.Frame) _payload = _reader.Payload.ToArray();
        return found;
    }
}
