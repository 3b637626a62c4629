using System.Buffers;
using System.Net.WebSockets;
using System.Text;
using System.Text.Json;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Shared.GuestChannel;
using Fleet.Shared.Vms;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Http.Features;
using Microsoft.AspNetCore.Routing;
using Microsoft.AspNetCore.Server.Kestrel.Core.Features;

namespace Fleet.Scheduler.Api;

/// <summary>
/// Commands in a running microVM, each over a WebSocket: the first message says what is wanted (JSON), every other is a frame of the
/// stream to fleet-init (docs/guest-protocol.md): its type's byte and its payload.
/// </summary>
internal sealed class ExecEndpoint(ApiContext api)
{
    private const int MostArguments = 1024;
    private const int LongestSide = 1000;
    private const int LongestUser = 256;

    /// <summary>For the client's first message.</summary>
    private static readonly TimeSpan RequestPatience = TimeSpan.FromSeconds(10);

    /// <summary>For the guest's first word: longer than an agent waits for it, which is two minutes and more while it boots.</summary>
    private static readonly TimeSpan GuestPatience = TimeSpan.FromSeconds(160);

    private static readonly TimeSpan ClosePatience = TimeSpan.FromSeconds(2);

    public void Map(IEndpointRouteBuilder all) => all.MapGroup("").WithTags("microVMs").MapGet("/v1/vms/{id}/exec", (Delegate)ExecAsync).Describe(
        new("exec", "Runs a command in a microVM, over a WebSocket")
        {
            Audience = Audience.Tenants,
            Status = StatusCodes.Status101SwitchingProtocols,
            Errors = [ErrorCodes.InvalidRequest, ErrorCodes.NotFound, ErrorCodes.WrongState],
        });

    private async Task ExecAsync(HttpContext http)
    {
        _ = new Query(http);
        var id = await api.OwnVmAsync(http);
        using var place = api.Long.Enter(Principal.Of(http));
        using var lifetime = api.Lifetime(http);
        await RequireRunningAsync(id, lifetime.Token);
        if (!http.WebSockets.IsWebSocketRequest)
            throw new RequestRefused(ErrorCodes.InvalidRequest, "Commands run over a WebSocket: ask for the path with Upgrade: websocket.");
        if (http.Features.Get<IHttpMinResponseDataRateFeature>() is { } rate)
            rate.MinDataRate = null;
        using var socket = await http.WebSockets.AcceptWebSocketAsync();
        try
        {
            var request = await ReadRequestAsync(socket, lifetime.Token);
            await using var guest = await api.Gate.CallAsync(c => api.Gate.Cell.OpenGuestAsync(id, request, c), CellGate.Patience, lifetime.Token);
            await CarryAsync(socket, guest, request, lifetime.Token);
        }
        catch (RequestRefused refused)
        {
            await RefuseAsync(socket, refused, lifetime.Token);
        }
        catch (WebSocketException)
        {
            // The client is gone, or speaks something else.
            socket.Abort();
        }
        catch (OperationCanceledException)
        {
            // The client has gone, took too long, or may no longer; or the node stops.
            socket.Abort();
        }
        await CloseAsync(socket);
    }

    // Said before the upgrade, while there is still an answer that every client can read.
    private async Task RequireRunningAsync(string id, CancellationToken cancellation)
    {
        var vm = await api.Gate.VmAsync(c => api.Gate.Cell.GetVmAsync(id, c), cancellation);
        if (vm.State is not (Fleet.Shared.Contracts.VmState.Running or Fleet.Shared.Contracts.VmState.Stopping))
            throw new RequestRefused(ErrorCodes.WrongState, $"The microVM '{id}' is {Vms.VmLife.Name(vm.State)}: nothing can be run in it.");
    }

    private async Task<ReadOnlyMemory<byte>> ReadRequestAsync(WebSocket socket, CancellationToken cancellation)
    {
        using var patience = new CancellationTokenSource(RequestPatience, api.Clock);
        using var either = CancellationTokenSource.CreateLinkedTokenSource(patience.Token, cancellation);
        var buffer = new byte[Frame.MaxPayload];
        var message = await ReceiveAsync(socket, buffer, either.Token);
        if (message is not { Type: WebSocketMessageType.Text, Length: var length })
            throw new RequestRefused(ErrorCodes.InvalidRequest, $"The first message must say what is to be run: JSON in a text message of at most {Frame.MaxPayload} bytes.");
        return ToGuest(StrictJson.Read(buffer.AsMemory(0, length), ApiJson.Wire.ExecBody));
    }

    /// <summary>The request as fleet-init takes it.</summary>
    private static byte[] ToGuest(ExecBody body)
    {
        if (body.Command is not { Count: > 0 and <= MostArguments } command || command.Any(word => word is null || word.Contains('\0')) || command[0].Length == 0)
            throw new RequestRefused(ErrorCodes.InvalidField, $"command must be 1 to {MostArguments} strings without NUL, the first a program.", "command");
        foreach (var (name, value) in body.Env ?? new Dictionary<string, string>())
        {
            if (name.Length == 0 || name.Contains('=') || name.Contains('\0') || value is null || value.Contains('\0'))
                throw new RequestRefused(ErrorCodes.InvalidField, "env must have names without '=' and NUL, and values without NUL.", "env");
        }
        if (body.Workdir is { } folder && (!folder.StartsWith('/') || folder.Contains('\0')))
            throw new RequestRefused(ErrorCodes.InvalidField, "workdir must be a path from the guest's root.", "workdir");
        if (body.User is { } user && (user.Length is 0 or > LongestUser || user.Contains('\0')))
            throw new RequestRefused(ErrorCodes.InvalidField, $"user must have 1 to {LongestUser} letters.", "user");
        foreach (var (field, side) in new[] { ("rows", body.Rows), ("columns", body.Columns) })
        {
            if (side is < 1 or > LongestSide)
                throw new RequestRefused(ErrorCodes.InvalidField, $"{field} must be 1 to {LongestSide}.", field);
        }
        var bytes = new ArrayBufferWriter<byte>();
        using (var json = new Utf8JsonWriter(bytes))
        {
            json.WriteStartObject();
            json.WriteStartArray("argv");
            foreach (var word in command)
                json.WriteStringValue(word);
            json.WriteEndArray();
            json.WriteStartObject("env");
            foreach (var (name, value) in body.Env ?? new Dictionary<string, string>())
                json.WriteString(name, value);
            json.WriteEndObject();
            if (body.Workdir is not null)
                json.WriteString("workdir", body.Workdir);
            if (body.User is not null)
                json.WriteString("user", body.User);
            json.WriteBoolean("tty", body.Tty == true);
            json.WriteNumber("rows", body.Rows ?? 24);
            json.WriteNumber("columns", body.Columns ?? 80);
            json.WriteEndObject();
        }
        return bytes.WrittenCount <= Frame.MaxPayload ? bytes.WrittenSpan.ToArray()
            : throw new RequestRefused(ErrorCodes.PayloadTooLarge, $"The request has more than {Frame.MaxPayload} bytes as JSON.");
    }

    private async Task CarryAsync(WebSocket socket, IGuestStream guest, ReadOnlyMemory<byte> request, CancellationToken cancellation)
    {
        using var clientGone = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        // Cancelling a receive breaks the WebSocket: only when all is said.
        using var receiving = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        var ledger = new StreamLedger();
        ledger.ToGuest(FrameType.Open, request.Span);
        var fromClient = FromClientAsync(socket, guest, ledger, clientGone, receiving.Token);
        try
        {
            try
            {
                await ToClientAsync(socket, guest, ledger, clientGone.Token);
            }
            catch (RequestRefused refused)
            {
                await RefuseAsync(socket, refused, cancellation);
            }
            await CloseAsync(socket);
            // What was said last must be read before the WebSocket is broken.
            await fromClient.WaitAsync(ClosePatience, cancellation).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
        catch (OperationCanceledException) when (clientGone.IsCancellationRequested && !cancellation.IsCancellationRequested)
        {
            // It says why, if there is more to say than that the client left.
            await fromClient;
        }
        finally
        {
            await receiving.CancelAsync();
            await fromClient.ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        }
    }

    private async Task ToClientAsync(WebSocket socket, IGuestStream guest, StreamLedger ledger, CancellationToken cancellation)
    {
        using var reading = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        await using var frames = guest.ReadAsync(reading.Token).GetAsyncEnumerator(reading.Token);
        var first = frames.MoveNextAsync().AsTask();
        try
        {
            // The read itself hears of the cancellation: it is over then, and not left behind.
            await first.WaitAsync(GuestPatience, api.Clock, CancellationToken.None);
        }
        catch (TimeoutException)
        {
            // An iterator must not be left while it runs.
            await reading.CancelAsync();
            await ((Task)first).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            throw RequestRefused.Unavailable($"The guest said nothing for {GuestPatience.TotalSeconds:0} s.");
        }
        var more = await first;
        while (more)
        {
            var (type, payload) = frames.Current;
            lock (ledger)
            {
                if (ledger.FromGuest(type, payload.Span) is not null)
                    throw RequestRefused.Unavailable("The guest broke the channel's rules.");
            }
            await SendAsync(socket, type, payload, cancellation);
            more = await frames.MoveNextAsync();
        }
    }

    private static async Task FromClientAsync(WebSocket socket, IGuestStream guest, StreamLedger ledger, CancellationTokenSource gone, CancellationToken cancellation)
    {
        try
        {
            var buffer = new byte[Frame.MaxPayload + 1];
            while (await ReceiveAsync(socket, buffer, cancellation) is { } message)
            {
                if (message.Type != WebSocketMessageType.Binary || message.Length == 0)
                    throw new RequestRefused(ErrorCodes.InvalidRequest, "Behind the first message only frames may come: binary messages of a type's byte and a payload.");
                var type = (FrameType)buffer[0];
                var payload = buffer.AsMemory(1, message.Length - 1);
                if (type == FrameType.Close)
                    return;
                lock (ledger)
                {
                    // The guest's last word, and this, crossed on the way.
                    if (ledger.Ended)
                        continue;
                    if (ledger.ToGuest(type, payload.Span) is { } wrong)
                        throw new RequestRefused(ErrorCodes.InvalidRequest, wrong);
                }
                guest.Send(type, payload.ToArray());
            }
        }
        finally
        {
            await gone.CancelAsync();
        }
    }

    /// <summary>One whole message; null: the client closes. One that does not fit into the buffer is a refusal.</summary>
    private static async Task<(WebSocketMessageType Type, int Length)?> ReceiveAsync(WebSocket socket, Memory<byte> buffer, CancellationToken cancellation)
    {
        var length = 0;
        while (true)
        {
            var received = await socket.ReceiveAsync(buffer[length..], cancellation);
            if (received.MessageType == WebSocketMessageType.Close)
                return null;
            length += received.Count;
            if (received.EndOfMessage)
                return (received.MessageType, length);
            if (length == buffer.Length)
                throw new RequestRefused(ErrorCodes.PayloadTooLarge, $"A message has more than {buffer.Length} bytes.");
        }
    }

    private static async Task RefuseAsync(WebSocket socket, RequestRefused refused, CancellationToken cancellation)
    {
        try
        {
            await SendAsync(socket, FrameType.Refused, Encoding.UTF8.GetBytes($"{refused.Code} {ReasonText.Shorten(refused.Message)}"), cancellation);
        }
        catch (Exception gone) when (gone is WebSocketException or OperationCanceledException)
        {
            // Who would have read it has left.
            socket.Abort();
        }
    }

    private static async Task SendAsync(WebSocket socket, FrameType type, ReadOnlyMemory<byte> payload, CancellationToken cancellation)
    {
        var message = ArrayPool<byte>.Shared.Rent(payload.Length + 1);
        try
        {
            message[0] = (byte)type;
            payload.CopyTo(message.AsMemory(1));
            await socket.SendAsync(message.AsMemory(0, payload.Length + 1), WebSocketMessageType.Binary, endOfMessage: true, cancellation);
        }
        finally
        {
            ArrayPool<byte>.Shared.Return(message);
        }
    }

    private static async Task CloseAsync(WebSocket socket)
    {
        using var patience = new CancellationTokenSource(ClosePatience);
        try
        {
            if (socket.State is WebSocketState.Open or WebSocketState.CloseReceived)
                await socket.CloseOutputAsync(WebSocketCloseStatus.NormalClosure, "", patience.Token);
        }
        catch (Exception gone) when (gone is WebSocketException or OperationCanceledException)
        {
            socket.Abort();
        }
    }
}
