using System.Globalization;
using System.Net;
using System.Net.Sockets;
using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace Fleet.Chaos.Harness;

/// <summary>What a node answered.</summary>
/// <param name="Status">0: nothing, or not in time.</param>
internal readonly record struct Answer(int Status, JsonElement Body)
{
    public string? Text(string member) =>
        Body.ValueKind == JsonValueKind.Object && Body.TryGetProperty(member, out var value) && value.ValueKind == JsonValueKind.String ? value.GetString() : null;
}

/// <summary>Speaks with the API of every scheduler node, out of the client's own network.</summary>
internal sealed class ApiClient : IDisposable
{
    private readonly HttpClient[] _nodes;

    /// <param name="connect">Opens connections: in whose network the client is.</param>
    /// <param name="addresses">Of the nodes.</param>
    /// <param name="credentials">What it shows to them, and knows them by.</param>
    public ApiClient(Func<DnsEndPoint, CancellationToken, Task<Socket>> connect, IReadOnlyList<string> addresses, CellCredentials credentials) => _nodes =
    [
        .. addresses.Select(address => new HttpClient(new SocketsHttpHandler
        {
            ConnectCallback = async (context, cancellation) => new NetworkStream(await connect(context.DnsEndPoint, cancellation), ownsSocket: true),
            SslOptions = credentials.Tls(),
        })
        {
            BaseAddress = new Uri(string.Create(CultureInfo.InvariantCulture, $"https://{address}:{Commands.ApiPort}")),
            DefaultRequestHeaders = { Authorization = credentials.Authorization },
            Timeout = Timeout.InfiniteTimeSpan,
        }),
    ];

    public int Nodes => _nodes.Length;

    /// <summary>One try, at one node.</summary>
    public async Task<Answer> SendAsync(int node, HttpMethod method, string path, JsonNode? body = null, string? key = null, TimeSpan? timeout = null)
    {
        using var patience = new CancellationTokenSource(timeout ?? TimeSpan.FromSeconds(5));
        using var request = new HttpRequestMessage(method, path);
        if (body is not null)
            request.Content = new StringContent(body.ToJsonString(), Encoding.UTF8, "application/json");
        if (key is not null)
            request.Headers.Add("Idempotency-Key", key);
        try
        {
            using var response = await _nodes[node].SendAsync(request, patience.Token);
            var text = await response.Content.ReadAsByteArrayAsync(patience.Token);
            return new((int)response.StatusCode, text.Length == 0 ? default : JsonSerializer.Deserialize<JsonElement>(text));
        }
        catch (Exception failed) when (failed is HttpRequestException or OperationCanceledException or IOException or JsonException)
        {
            return default;
        }
    }

    /// <summary>All of a list, page by page; null when a page did not come.</summary>
    public async Task<IReadOnlyList<JsonElement>?> ListAsync(int node, string path)
    {
        var items = new List<JsonElement>();
        for (string? after = null; ;)
        {
            var page = await SendAsync(node, HttpMethod.Get, $"{path}?page_size=1000{(after is null ? "" : $"&page_token={Uri.EscapeDataString(after)}")}");
            if (page.Status != 200)
                return null;
            items.AddRange(page.Body.GetProperty("items").EnumerateArray());
            if ((after = page.Text("next_page_token")) is null)
                return items;
        }
    }

    /// <summary>Runs one of the operator's commands on a node; null when it did not go well.</summary>
    /// <param name="node">Where.</param>
    /// <param name="words">Palette, verb and arguments.</param>
    public async Task<IReadOnlyList<JsonElement>?> CommandAsync(int node, params string[] words)
    {
        using var patience = new CancellationTokenSource(TimeSpan.FromSeconds(10));
        using var body = new StringContent(new JsonObject { ["words"] = new JsonArray([.. words]), ["format"] = "rows" }.ToJsonString(), Encoding.UTF8, "application/json");
        try
        {
            using var response = await _nodes[node].PostAsync("/v1/admin/commands", body, patience.Token);
            var lines = (await response.Content.ReadAsStringAsync(patience.Token)).Split('\n', StringSplitOptions.RemoveEmptyEntries)
                .Select(line => JsonSerializer.Deserialize<JsonElement>(line)).ToList();
            return lines.Count > 0 && lines[^1].TryGetProperty("ok", out var ok) && ok.GetBoolean()
                ? [.. lines.Where(line => line.TryGetProperty("row", out _)).Select(line => line.GetProperty("row"))]
                : null;
        }
        catch (Exception failed) when (failed is HttpRequestException or OperationCanceledException or IOException or JsonException)
        {
            return null;
        }
    }

    public Task<Answer> HealthAsync(int node) => SendAsync(node, HttpMethod.Get, "/v1/health", timeout: TimeSpan.FromSeconds(2));

    public void Dispose()
    {
        foreach (var node in _nodes)
            node.Dispose();
    }
}
