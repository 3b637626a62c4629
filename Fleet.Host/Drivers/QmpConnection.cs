using System.Collections.Concurrent;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Fleet.Host.Drivers;

/// <summary>
/// QEMU's machine protocol over a connected socket: one JSON object per line, answers by id, events in between.
/// QEMU runs a hostile guest, so lines and waiting are bounded.
/// </summary>
internal sealed class QmpConnection : IAsyncDisposable
{
    private const int MaxLine = 4 << 20;
    private static readonly TimeSpan AnswerTimeout = TimeSpan.FromSeconds(10);

    private readonly NetworkStream _stream;
    private readonly TimeProvider _clock;
    private readonly Action<string, JsonObject> _event;
    private readonly ConcurrentDictionary<long, TaskCompletionSource<JsonNode?>> _pending = new();
    private readonly SemaphoreSlim _writing = new(1, 1);
    private readonly CancellationTokenSource _closing = new();
    private Task _reading = Task.CompletedTask;
    private long _lastId;

    private QmpConnection(Socket socket, TimeProvider clock, Action<string, JsonObject> onEvent)
    {
        _stream = new NetworkStream(socket, ownsSocket: true);
        _clock = clock;
        _event = onEvent;
    }

    /// <summary>Completes when the connection is lost or closed; never faults.</summary>
    public Task Lost => _reading;

    /// <summary>Takes the socket over, reads the greeting and leaves negotiation mode.</summary>
    /// <param name="onEvent">Called from the reading task with an event's name and data.</param>
    public static async Task<QmpConnection> OpenAsync(
        Socket socket, TimeProvider clock, Action<string, JsonObject> onEvent, CancellationToken cancellation)
    {
        var connection = new QmpConnection(socket, clock, onEvent);
        try
        {
            connection._reading = connection.ReadAsync();
            await connection.ExecuteAsync("qmp_capabilities", null, cancellation).ConfigureAwait(false);
            return connection;
        }
        catch
        {
            await connection.DisposeAsync().ConfigureAwait(false);
            throw;
        }
    }

    /// <summary>Carries out one command and returns its <c>return</c>.</summary>
    /// <exception cref="VmmRefusedException">QEMU answered with an error.</exception>
    /// <exception cref="IOException">The connection is lost.</exception>
    /// <exception cref="TimeoutException">No answer within 10 s.</exception>
    public async Task<JsonNode?> ExecuteAsync(string command, JsonObject? arguments, CancellationToken cancellation)
    {
        long id = Interlocked.Increment(ref _lastId);
        var answer = new TaskCompletionSource<JsonNode?>(TaskCreationOptions.RunContinuationsAsynchronously);
        _pending[id] = answer;
        try
        {
            if (_reading.IsCompleted && _lastId > 1) throw new IOException("QEMU closed its QMP connection");
            var request = new JsonObject { ["execute"] = command, ["id"] = id };
            if (arguments is not null) request["arguments"] = arguments;
            await _writing.WaitAsync(cancellation).ConfigureAwait(false);
            try
            {
                await _stream.WriteAsync(Encoding.UTF8.GetBytes(request.ToJsonString() + "\n"), cancellation).ConfigureAwait(false);
            }
            finally
            {
                _writing.Release();
            }
            return await answer.Task.WaitAsync(AnswerTimeout, _clock, cancellation).ConfigureAwait(false);
        }
        catch (ObjectDisposedException e)
        {
            throw new IOException("The QMP connection is closed", e);
        }
        finally
        {
            _pending.TryRemove(id, out _);
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _closing.CancelAsync().ConfigureAwait(false);
        await _reading.ConfigureAwait(false);
        await _stream.DisposeAsync().ConfigureAwait(false);
    }

    private async Task ReadAsync()
    {
        var buffer = new byte[64 * 1024];
        int filled = 0;
        Exception why = new IOException("QEMU closed its QMP connection");
        try
        {
            while (true)
            {
                if (filled == buffer.Length)
                {
                    if (buffer.Length >= MaxLine) throw new IOException("QEMU sent a QMP line above 4 MiB");
                    Array.Resize(ref buffer, buffer.Length * 2);
                }
                int read = await _stream.ReadAsync(buffer.AsMemory(filled), _closing.Token).ConfigureAwait(false);
                if (read == 0) return;
                filled += read;
                int start = 0;
                for (int end; (end = Array.IndexOf(buffer, (byte)'\n', start, filled - start)) >= 0; start = end + 1)
                {
                    Dispatch(buffer.AsSpan(start, end - start));
                }
                filled -= start;
                buffer.AsSpan(start, filled).CopyTo(buffer);
            }
        }
        catch (Exception e) when (e is IOException or JsonException or OperationCanceledException or ObjectDisposedException)
        {
            why = e is IOException ? e : new IOException("The QMP connection broke: " + e.Message, e);
        }
        finally
        {
            foreach (var waiting in _pending.Values) waiting.TrySetException(why);
        }
    }

    private void Dispatch(ReadOnlySpan<byte> line)
    {
        if (JsonNode.Parse(line) is not JsonObject message) return;
        if (message["event"] is JsonValue name)
        {
            _event(name.GetValue<string>(), message["data"] as JsonObject ?? []);
        }
        else if (message["id"] is JsonValue id && _pending.TryGetValue(id.GetValue<long>(), out var answer))
        {
            if (message["error"] is JsonObject error) answer.TrySetException(new VmmRefusedException($"QEMU: {error["desc"]}"));
            else answer.TrySetResult(message["return"]);
        }
    }
}
