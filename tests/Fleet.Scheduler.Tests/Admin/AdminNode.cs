using System.Net;
using System.Net.Http.Json;
using System.Text.Json.Nodes;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Logging;
using Fleet.Scheduler.Node;
using Fleet.Scheduler.Tests.Node;
using Serilog;
using Serilog.Core;
using Xunit;

namespace Fleet.Scheduler.Tests.Admin;

/// <summary>A whole node with its real API, and hosts that joined it.</summary>
public sealed class AdminNode : IAsyncLifetime
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-admin-");
    private readonly List<LinkedAgent> _agents = [];

    internal NodeLog Kept { get; } = new();

    internal Logger Log { get; private set; } = null!;

    internal SchedulerNode Node { get; private set; } = null!;

    internal HttpClient Http { get; private set; } = null!;

    public async Task InitializeAsync()
    {
        Log = new LoggerConfiguration().MinimumLevel.ControlledBy(Kept.Level).WriteTo.Sink(Kept).CreateLogger();
        Node = await SchedulerNode.StartAsync(
            new SchedulerOptions
            {
                DataDirectory = _folder.FullName,
                ApiEndpoint = new(IPAddress.Loopback, 0),
                LinkEndpoint = new(IPAddress.Loopback, 0),
                Log = Log,
                NodeLog = Kept,
                Cell = cell => cell with { Heartbeat = TimeSpan.FromMilliseconds(500), HostDeadAfter = TimeSpan.FromSeconds(5), HostAnnounce = TimeSpan.FromSeconds(1) },
            },
            default);
        Http = new HttpClient(new SocketsHttpHandler { UseProxy = false, MaxConnectionsPerServer = 100 }) { BaseAddress = new Uri($"http://{Node.ApiEndpoint}"), Timeout = TimeSpan.FromSeconds(40) };
        Http.DefaultRequestHeaders.Authorization = new("Bearer", (await Node.CreateTokenAsync(new TokenRequest(TokenRole.Admin), default)).Text);
    }

    public async Task DisposeAsync()
    {
        foreach (var agent in _agents)
            await agent.DisposeAsync();
        Http.Dispose();
        await Node.DisposeAsync();
        await Log.DisposeAsync();
        _folder.Delete(recursive: true);
    }

    /// <summary>A host of 8 CPUs that is known everywhere when this returns.</summary>
    internal async Task JoinAsync(string host, bool fenced = false)
    {
        _agents.Add(await LinkedAgent.ConnectAsync(Node, host, fenced: fenced));
        await UntilAsync(async () => (await RowsAsync("placement", "index")).Any(row => (string?)row["host"] == host && (bool)row["connected"]!));
        await UntilAsync(async () => (await RowsAsync("host", "list")).Any(row => (string?)row["host"] == host));
    }

    internal async Task<string> CreateAsync(string name, string more, string state)
    {
        using var made = await Http.PostAsync("/v1/vms", JsonContent.Create(JsonNode.Parse($$"""{"name": "{{name}}", "driver": "simulated"{{more}}}""")));
        var text = await made.Content.ReadAsStringAsync();
        Assert.True(made.StatusCode == HttpStatusCode.Created, text);
        using var reached = await Http.GetAsync($"/v1/vms/{name}/wait?state={state}&timeout=30");
        Assert.True(reached.IsSuccessStatusCode, await reached.Content.ReadAsStringAsync());
        return (string)JsonNode.Parse(text)!["id"]!;
    }

    /// <summary>Sends a command and gives the answer as it comes.</summary>
    internal Task<HttpResponseMessage> SendAsync(string format, params IEnumerable<string> words) => Http.SendAsync(
        new HttpRequestMessage(HttpMethod.Post, "/v1/admin/commands") { Content = JsonContent.Create(new { words, format }) }, HttpCompletionOption.ResponseHeadersRead);

    /// <summary>Every object of an answer, and the last one, which says how it ended.</summary>
    internal async Task<(IReadOnlyList<JsonObject> Lines, JsonObject End)> RunAsync(string format, params IEnumerable<string> words)
    {
        using var response = await SendAsync(format, words);
        var text = await response.Content.ReadAsStringAsync();
        Assert.True(response.StatusCode == HttpStatusCode.OK, text);
        Assert.Equal("application/x-ndjson", response.Content.Headers.ContentType?.MediaType);
        var lines = text.Split('\n', StringSplitOptions.RemoveEmptyEntries).Select(line => JsonNode.Parse(line)!.AsObject()).ToList();
        Assert.All(lines.SkipLast(1), line => Assert.True(line.ContainsKey("text") != line.ContainsKey("row"), line.ToJsonString()));
        return ([.. lines.SkipLast(1)], lines[^1]);
    }

    /// <summary>The rows of a command that does well.</summary>
    internal async Task<IReadOnlyList<JsonObject>> RowsAsync(params IEnumerable<string> words)
    {
        var (lines, end) = await RunAsync("rows", words);
        Assert.True((bool)end["ok"]!, end.ToJsonString());
        return [.. lines.Where(line => line.ContainsKey("row")).Select(line => line["row"]!.AsObject())];
    }

    /// <summary>What a command that does well prints.</summary>
    internal async Task<string> TextAsync(params IEnumerable<string> words)
    {
        var (lines, end) = await RunAsync("text", words);
        Assert.True((bool)end["ok"]!, end.ToJsonString());
        return string.Join('\n', lines.Select(line => (string)line["text"]!));
    }

    /// <summary>The code of a command that is taken and fails.</summary>
    internal async Task<string> FailureAsync(params IEnumerable<string> words)
    {
        var (_, end) = await RunAsync("text", words);
        Assert.False((bool)end["ok"]!);
        Assert.NotEmpty((string)end["detail"]!);
        return (string)end["code"]!;
    }

    /// <summary>The problem of a command that is not taken.</summary>
    internal async Task<(HttpStatusCode Status, string Code, string Detail)> RefusalAsync(params IEnumerable<string> words)
    {
        using var response = await SendAsync("text", words);
        var problem = JsonNode.Parse(await response.Content.ReadAsStringAsync())!;
        return (response.StatusCode, (string)problem["code"]!, (string)problem["detail"]!);
    }

    internal static Task UntilAsync(Func<Task<bool>> condition) => Cell.Eventually.TrueAsync(condition);
}
