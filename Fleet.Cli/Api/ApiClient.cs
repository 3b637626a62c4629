using System.Globalization;
using System.Net;
using System.Net.Http.Headers;
using System.Net.Security;
using System.Net.Sockets;
using System.Net.WebSockets;
using System.Security.Authentication;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;
using Fleet.Cli.Access;
using Fleet.Cli.Output;
using Fleet.Shared.Access;

namespace Fleet.Cli.Api;

/// <summary>The HTTP API as the command line uses it: JSON in, JSON out, every problem an <see cref="ApiException"/>.</summary>
internal sealed class ApiClient : IDisposable
{
    /// <summary>Longest the client waits for headers, on top of what a request itself asks the server to wait.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private readonly ApiCredentials _credentials;
    private HttpClient? _http;

    public ApiClient(Uri endpoint, ApiCredentials credentials)
    {
        Endpoint = endpoint;
        _credentials = credentials;
    }

    public Uri Endpoint { get; }

    public Task<JsonElement> GetAsync(string path, CancellationToken cancellation, TimeSpan serverWaits = default) =>
        SendAsync(HttpMethod.Get, path, null, null, cancellation, serverWaits);

    public Task<JsonElement> PostAsync(string path, JsonObject? body, CancellationToken cancellation, string? idempotencyKey = null) =>
        SendAsync(HttpMethod.Post, path, body is null ? null : new StringContent(body.ToJsonString(), Encoding.UTF8, "application/json"), idempotencyKey, cancellation);

    public Task<JsonElement> PutAsync(string path, JsonObject body, CancellationToken cancellation) =>
        SendAsync(HttpMethod.Put, path, new StringContent(body.ToJsonString(), Encoding.UTF8, "application/json"), null, cancellation);

    public Task<JsonElement> PostBytesAsync(string path, ReadOnlyMemory<byte> bytes, CancellationToken cancellation)
    {
        var content = new ReadOnlyMemoryContent(bytes);
        content.Headers.ContentType = new MediaTypeHeaderValue("application/octet-stream");
        return SendAsync(HttpMethod.Post, path, content, null, cancellation);
    }

    public Task<JsonElement> DeleteAsync(string path, CancellationToken cancellation) =>
        SendAsync(HttpMethod.Delete, path, null, null, cancellation);

    /// <summary>Whether the API is that of one process: its address may lead to another Fleet.</summary>
    public async Task<bool> IsServedByAsync(int pid, CancellationToken cancellation)
    {
        try
        {
            return (await GetAsync("v1/health", cancellation)).Text("pid") == pid.ToString(CultureInfo.InvariantCulture);
        }
        catch (ApiException other) when (other.Code is "unauthenticated" or "wrong_cell")
        {
            return false;
        }
    }

    /// <summary>Every item of a paged list.</summary>
    public async Task<JsonArray> ListAsync(string path, CancellationToken cancellation)
    {
        var items = new JsonArray();
        string? token = null;
        do
        {
            var separator = path.Contains('?') ? '&' : '?';
            var page = await GetAsync(token is null ? path : $"{path}{separator}page_token={Uri.EscapeDataString(token)}", cancellation);
            foreach (var item in page.GetProperty("items").EnumerateArray())
                items.Add(JsonNode.Parse(item.GetRawText()));
            token = page.GetProperty("next_page_token").GetString();
        }
        while (token is not null);
        return items;
    }

    /// <summary>An open response body and the offset of its first byte. The caller disposes it.</summary>
    public async Task<HttpResponseMessage> OpenConsoleAsync(string name, ulong? offset, bool follow, CancellationToken cancellation)
    {
        var path = $"v1/vms/{Uri.EscapeDataString(name)}/console?follow={(follow ? "true" : "false")}" + (offset is null ? "" : $"&offset={offset}");
        using var request = new HttpRequestMessage(HttpMethod.Get, path);
        var response = await SendRawAsync(request, cancellation);
        if (response.IsSuccessStatusCode)
            return response;
        using (response)
            throw await ProblemAsync(response, cancellation);
    }

    /// <summary>An open response whose body is a JSON object a line: what a microVM's command wrote. The caller disposes it.</summary>
    /// <param name="name">Name or id.</param>
    /// <param name="query">Of the request, with its question mark.</param>
    /// <param name="cancellation">Gives up.</param>
    public async Task<HttpResponseMessage> OpenLogAsync(string name, string query, CancellationToken cancellation)
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, $"v1/vms/{Uri.EscapeDataString(name)}/logs{query}");
        var response = await SendRawAsync(request, cancellation);
        if (response.IsSuccessStatusCode)
            return response;
        using (response)
            throw await ProblemAsync(response, cancellation);
    }

    /// <summary>An open response whose body is a JSON object a line, without end as long as the server has more. The caller disposes it.</summary>
    public async Task<HttpResponseMessage> OpenLinesAsync(string path, JsonObject body, CancellationToken cancellation)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        patience.CancelAfter(Patience);
        using var request = new HttpRequestMessage(HttpMethod.Post, path) { Content = new StringContent(body.ToJsonString(), Encoding.UTF8, "application/json") };
        try
        {
            var response = await SendRawAsync(request, patience.Token);
            if (response.IsSuccessStatusCode)
                return response;
            using (response)
                throw _credentials.Missing(await ProblemAsync(response, patience.Token));
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new ApiException(ApiException.Unreachable, $"{Endpoint} did not answer within {Patience}.");
        }
    }

    /// <summary>An open WebSocket. The caller disposes it.</summary>
    public async Task<ClientWebSocket> OpenSocketAsync(string path, CancellationToken cancellation)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        patience.CancelAfter(Patience);
        var http = await OpenAsync(cancellation);
        var socket = new ClientWebSocket();
        socket.Options.KeepAliveInterval = TimeSpan.FromSeconds(15);
        if (_credentials.Token() is { } token)
            socket.Options.SetRequestHeader("Authorization", $"Bearer {token.Text}");
        var address = new UriBuilder(new Uri(Endpoint, path)) { Scheme = Endpoint.Scheme == Uri.UriSchemeHttps ? Uri.UriSchemeWss : Uri.UriSchemeWs }.Uri;
        try
        {
            await socket.ConnectAsync(address, http, patience.Token);
            return socket;
        }
        catch (Exception failed) when (failed is WebSocketException or OperationCanceledException)
        {
            socket.Dispose();
            cancellation.ThrowIfCancellationRequested();
            // The refusal's words are lost with an upgrade that fails; without one the same is refused with words.
            await SendAsync(HttpMethod.Get, path, null, null, cancellation);
            throw new ApiException(ApiException.Unreachable, $"{Endpoint} does not open a WebSocket: {failed.Message}");
        }
    }

    public void Dispose() => _http?.Dispose();

    private async Task<HttpClient> OpenAsync(CancellationToken cancellation)
    {
        if (_http is not null)
            return _http;
        var handler = new SocketsHttpHandler { UseProxy = false, ConnectTimeout = TimeSpan.FromSeconds(5) };
        if (Endpoint.Scheme == Uri.UriSchemeHttps)
            handler.SslOptions = await _credentials.TlsAsync(Endpoint, cancellation);
        else if (!Endpoint.IsLoopback)
            throw new ApiException("insecure_api", $"A token would go to {Endpoint} in clear text. Use https.");
        return _http = new HttpClient(handler) { BaseAddress = Endpoint, Timeout = Timeout.InfiniteTimeSpan };
    }


    private async Task<JsonElement> SendAsync(
        HttpMethod method, string path, HttpContent? content, string? idempotencyKey, CancellationToken cancellation, TimeSpan serverWaits = default)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        patience.CancelAfter(Patience + serverWaits);
        using var request = new HttpRequestMessage(method, path) { Content = content };
        if (idempotencyKey is not null)
            request.Headers.Add("Idempotency-Key", idempotencyKey);
        try
        {
            using var response = await SendRawAsync(request, patience.Token);
            if (!response.IsSuccessStatusCode)
                throw _credentials.Missing(await ProblemAsync(response, patience.Token));
            if (response.StatusCode == HttpStatusCode.NoContent)
                return default;
            await using var stream = await response.Content.ReadAsStreamAsync(patience.Token);
            using var document = await JsonDocument.ParseAsync(stream, cancellationToken: patience.Token);
            return document.RootElement.Clone();
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw new ApiException(ApiException.Unreachable, $"{Endpoint} did not answer within {Patience + serverWaits}.");
        }
        catch (JsonException broken)
        {
            throw new ApiException(ApiException.Unreachable, $"{Endpoint} answered with something that is not JSON ({broken.Message}): is it Fleet?");
        }
    }

    private async Task<HttpResponseMessage> SendRawAsync(HttpRequestMessage request, CancellationToken cancellation)
    {
        var http = await OpenAsync(cancellation);
        if (_credentials.Token() is { } token)
            request.Headers.Authorization = new AuthenticationHeaderValue("Bearer", token.Text);
        try
        {
            return await http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead, cancellation);
        }
        catch (HttpRequestException failed)
        {
            throw await NobodyAsync(failed, cancellation);
        }
    }

    /// <summary>No API answered: what to do depends on who else did.</summary>
    private async Task<ApiException> NobodyAsync(HttpRequestException failed, CancellationToken cancellation)
    {
        var isCut = failed.HttpRequestError is not (HttpRequestError.ConnectionError or HttpRequestError.NameResolutionError);
        if (isCut && Endpoint.Scheme == Uri.UriSchemeHttp && await TakesTlsAsync(cancellation))
        {
            return new ApiException(ApiException.Unreachable,
                $"What listens at {Endpoint} speaks TLS alone. If it is an API, write https://{Endpoint.Authority}; if it is the link's port (7071 where nobody chose another), it is for hosts and nodes, and the API is at another.");
        }
        var start = Endpoint == CommandContext.DefaultApi ? "Start one with: fleet up --detach, or give" : "Start the node there, or give";
        return new ApiException(ApiException.Unreachable,
            $"No Fleet API at {Endpoint} ({failed.InnerException?.Message ?? failed.Message}). {start} the address of a node that runs: --api or FLEET_API, for fleet admin also --node.")
        {
            IsCut = isCut,
        };
    }

    private async Task<bool> TakesTlsAsync(CancellationToken cancellation)
    {
        using var patience = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        patience.CancelAfter(TimeSpan.FromSeconds(2));
        try
        {
            using var socket = new TcpClient();
            await socket.ConnectAsync(Endpoint.IdnHost, Endpoint.Port, patience.Token);
            await using var tls = new SslStream(socket.GetStream());
            await tls.AuthenticateAsClientAsync(CellTls.ToAnybody(), patience.Token);
            return true;
        }
        catch (Exception no) when (no is IOException or SocketException or AuthenticationException || (no is OperationCanceledException && !cancellation.IsCancellationRequested))
        {
            return false;
        }
    }

    private static async Task<ApiException> ProblemAsync(HttpResponseMessage response, CancellationToken cancellation)
    {
        var text = await response.Content.ReadAsStringAsync(cancellation);
        try
        {
            using var document = JsonDocument.Parse(text);
            var root = document.RootElement;
            var code = root.TryGetProperty("code", out var c) ? c.GetString() : null;
            var detail = root.TryGetProperty("detail", out var d) ? d.GetString() : null;
            if (code is not null)
                return new ApiException(code, detail ?? code) { Problem = root.Clone() };
        }
        catch (JsonException)
        {
            // Not problem+json: something between us and Fleet answered. Its status is all there is to say.
        }

        return new ApiException(ApiException.Unreachable, $"What answered says {(int)response.StatusCode} ({response.ReasonPhrase}), and not in Fleet's words: something else may be at that address, or between here and it.");
    }
}

/// <summary>A refusal by the API, or no API at all. <see cref="Code"/> is a code of docs/api.md.</summary>
internal sealed class ApiException(string code, string message) : Exception(message)
{
    /// <summary>The code when there was no usable answer; never sent by the server.</summary>
    public const string Unreachable = "unreachable";

    public string Code { get; } = code;

    /// <summary>The connection broke after the request was sent: it may have been carried out.</summary>
    public bool IsCut { get; init; }

    /// <summary>The whole problem document, when there was one.</summary>
    public JsonElement? Problem { get; init; }
}
