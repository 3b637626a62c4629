using System.Buffers.Binary;
using System.Diagnostics;
using System.Net.WebSockets;
using System.Text;
using System.Text.Json.Nodes;
using System.Threading.Channels;
using Fleet.Cli.Api;
using Fleet.Shared.GuestChannel;

namespace Fleet.Cli.Vms;

/// <summary>A command in a guest as the command line sees it: frames over a WebSocket (docs/api.md, "Commands in a guest").</summary>
internal sealed class ExecStream : IAsyncDisposable
{
    private readonly ClientWebSocket _socket;
    private readonly StreamLedger _ledger = new();
    private readonly Channel<(FrameType Type, ReadOnlyMemory<byte> Payload)> _out = Channel.CreateBounded<(FrameType, ReadOnlyMemory<byte>)>(1024);
    private readonly SemaphoreSlim _credit = new(0);
    // The last signal that went out, and when the first of those did that nothing from the guest has followed yet.
    private (byte Number, long Since)? _unheard;

    /// <summary>Signals that come together are one: whoever forwards an interrupt to a program that the terminal has told already sends it twice.</summary>
    private static readonly TimeSpan Together = TimeSpan.FromSeconds(1);

    /// <summary>Input leaves room for its end and for a signal, so that one that backs up holds neither back.</summary>
    private const int KeptOfInput = (2 * StreamLedger.Overhead) + 1;

    private ExecStream(ClientWebSocket socket) => _socket = socket;

    /// <summary>Asks for the command.</summary>
    /// <exception cref="ApiException">It was refused.</exception>
    public static async Task<ExecStream> OpenAsync(ApiClient api, string vm, JsonObject request, CancellationToken cancellation)
    {
        var socket = await api.OpenSocketAsync(VmCommands.PathOf(vm) + "/exec", cancellation);
        var stream = new ExecStream(socket);
        stream._ledger.ToGuest(FrameType.Open, "{}"u8);
        await socket.SendAsync(Encoding.UTF8.GetBytes(request.ToJsonString()), WebSocketMessageType.Text, endOfMessage: true, cancellation);
        return stream;
    }

    /// <summary>
    /// Carries input and output until the command has ended; its status. Output that nobody takes holds the command back.
    /// </summary>
    /// <param name="input">Null: it has none, and hears so.</param>
    /// <param name="output">Standard output.</param>
    /// <param name="errors">Standard error.</param>
    /// <param name="cancellation">Gives the command up, which ends it.</param>
    /// <exception cref="ApiException">It could not be started, or the way to it broke.</exception>
    public async Task<int> RunAsync(Stream? input, Stream output, Stream errors, CancellationToken cancellation)
    {
        using var over = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        var sending = SendAllAsync(over.Token);
        var typing = Task.CompletedTask;
        var buffer = new byte[Frame.MaxPayload + 1];
        try
        {
            while (true)
            {
                var length = await ReceiveAsync(buffer, cancellation);
                var (type, payload) = ((FrameType)buffer[0], buffer.AsMemory(1, length - 1));
                lock (_ledger)
                {
                    if (_ledger.FromGuest(type, payload.Span) is { } wrong)
                        throw new ApiException(ApiException.Unreachable, $"What came is no stream of a command: {wrong}");
                    _unheard = null;
                }
                switch (type)
                {
                    case FrameType.Started:
                        // A read of a terminal can't be called off: it is not waited for, it ends with us.
                        typing = Task.Run(() => TypeAsync(input, over.Token), CancellationToken.None);
                        break;
                    case FrameType.Output or FrameType.Errors:
                        var target = type == FrameType.Output ? output : errors;
                        await target.WriteAsync(payload, cancellation);
                        await target.FlushAsync(cancellation);
                        Send(FrameType.Credit, Frame.Number((uint)StreamLedger.Cost(type, payload.Length)));
                        break;
                    case FrameType.Credit:
                        _credit.Release();
                        break;
                    case FrameType.Exit:
                        return BinaryPrimitives.ReadInt32LittleEndian(payload.Span);
                    case FrameType.Refused:
                        var words = Encoding.UTF8.GetString(payload.Span).Split(' ', 2);
                        throw new ApiException(words[0], words.Length > 1 ? words[1] : words[0]);
                }
            }
        }
        finally
        {
            await over.CancelAsync();
            _out.Writer.TryComplete();
            await sending.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            if (typing.IsFaulted)
                await typing;
        }
    }

    /// <summary>Sends a frame if it may be sent now; from any thread.</summary>
    public bool Send(FrameType type, ReadOnlyMemory<byte> payload)
    {
        lock (_ledger)
            return _ledger.ToGuest(type, payload.Span) is null && _out.Writer.TryWrite((type, payload));
    }

    /// <summary>
    /// Sends the command a signal. False: there is nobody to take it, because the command has not begun, or nothing has come from the guest since one that was
    /// sent a second ago or earlier: it answers each with a credit.
    /// </summary>
    public bool TrySignal(byte number)
    {
        lock (_ledger)
        {
            if (_unheard is { } last)
            {
                if (Stopwatch.GetElapsedTime(last.Since) >= Together)
                    return false;
                if (last.Number == number)
                    return true;
            }
            if (!Send(FrameType.Signal, new[] { number }))
                return false;
            _unheard = (number, _unheard?.Since ?? Stopwatch.GetTimestamp());
            return true;
        }
    }

    public void Resize((ushort Rows, ushort Columns) size)
    {
        var payload = new byte[4];
        BinaryPrimitives.WriteUInt16LittleEndian(payload, size.Rows);
        BinaryPrimitives.WriteUInt16LittleEndian(payload.AsSpan(2), size.Columns);
        Send(FrameType.Resize, payload);
    }

    public async ValueTask DisposeAsync()
    {
        using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(2));
        try
        {
            if (_socket.State is WebSocketState.Open or WebSocketState.CloseReceived)
                await _socket.CloseOutputAsync(WebSocketCloseStatus.NormalClosure, "", patience.Token);
        }
        catch (Exception gone) when (gone is WebSocketException or OperationCanceledException)
        {
            _socket.Abort();
        }
        _socket.Dispose();
    }

    private async Task TypeAsync(Stream? input, CancellationToken cancellation)
    {
        var buffer = new byte[Frame.MaxPayload];
        try
        {
            while (input is not null)
            {
                var room = await RoomAsync(cancellation);
                var count = await input.ReadAsync(buffer.AsMemory(0, room), cancellation);
                if (count == 0)
                    break;
                // Signals and sizes may have taken the room meanwhile.
                while (!Send(FrameType.Input, buffer.AsMemory(0, count).ToArray()))
                    await _credit.WaitAsync(cancellation);
            }
            while (!Send(FrameType.InputEnd, default))
                await _credit.WaitAsync(cancellation);
        }
        catch (OperationCanceledException)
        {
            // The command has ended; nobody reads input any more.
        }
    }

    private async Task<int> RoomAsync(CancellationToken cancellation)
    {
        while (true)
        {
            lock (_ledger)
            {
                if (StreamLedger.Room(_ledger.InputLeft - KeptOfInput) is > 0 and var room)
                    return room;
            }
            await _credit.WaitAsync(cancellation);
        }
    }

    private async Task SendAllAsync(CancellationToken cancellation)
    {
        var message = new byte[Frame.MaxPayload + 1];
        await foreach (var (type, payload) in _out.Reader.ReadAllAsync(cancellation))
        {
            message[0] = (byte)type;
            payload.CopyTo(message.AsMemory(1));
            await _socket.SendAsync(message.AsMemory(0, payload.Length + 1), WebSocketMessageType.Binary, endOfMessage: true, CancellationToken.None);
        }
    }

    private async Task<int> ReceiveAsync(Memory<byte> buffer, CancellationToken cancellation)
    {
        try
        {
            var length = 0;
            while (length < buffer.Length)
            {
                var received = await _socket.ReceiveAsync(buffer[length..], cancellation);
                if (received.MessageType != WebSocketMessageType.Binary)
                    break;
                length += received.Count;
                if (received.EndOfMessage && length > 0)
                    return length;
            }
        }
        catch (WebSocketException broken)
        {
            throw new ApiException(ApiException.Unreachable, $"The connection to the API broke off: {broken.Message.TrimEnd('.')}. The command was ended.") { IsCut = true };
        }
        throw new ApiException(ApiException.Unreachable, "The API ended the stream before the command had ended. The command was ended.") { IsCut = true };
    }
}
