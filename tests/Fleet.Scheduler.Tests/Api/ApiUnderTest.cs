using System.Net;
using System.Net.Http.Headers;
using System.Text;
using System.Text.Json.Nodes;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Admission;
using Fleet.Scheduler.Api;
using Fleet.Scheduler.Projection;
using Fleet.Shared.Access;
using Google.Protobuf.WellKnownTypes;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

/// <summary>The real server on a port of its own, over the fake cell, in a folder that goes with it.</summary>
internal sealed class ApiUnderTest : IAsyncDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-api-");
    private readonly ViewProjection _projection;
    private readonly ClaimStore _claims;
    private readonly ApiServer _server;
    private readonly TokenBook _book = new();
    private readonly Tokens _tokens;

    private ApiUnderTest(ManualClock clock, FakeCell cell, int changesKept, Func<ApiContext, ApiContext>? change)
    {
        Clock = clock;
        Cell = cell;
        _claims = new ClaimStore(new ClaimDatabase.File(Path.Combine(_folder.FullName, "claims.db")), clock, Log);
        _projection = new ViewProjection(new(Path.Combine(_folder.FullName, "view.db"), changesKept), cell,
            (gone, _) => _claims.ReleaseNamesAsync(gone), TimeProvider.System, Log);
        _projection.StartAsync(default).GetAwaiter().GetResult();
        var gate = new CellGate(cell, _projection.Freshness, clock);
        var context = new ApiContext(gate, new VmAdmission(gate, _claims, clock), _claims, _projection,
            _ => Task.FromResult(NotReady), clock, Log)
        {
            Tokens = _tokens = new Tokens(_book, (question, _) => Task.FromResult<TokenReply?>(Answer(question)), new string('p', 43), clock),
            Authority = new byte[] { 1, 2, 3 },
        };
        context = change?.Invoke(context) ?? context;
        Long = context.Long;
        _server = ApiServer.StartAsync(new(IPAddress.Loopback, 0), null, context, Log, default).GetAwaiter().GetResult();
        Http = new HttpClient(new SocketsHttpHandler { UseProxy = false }) { BaseAddress = new Uri($"http://{_server.Endpoint}"), Timeout = TimeSpan.FromSeconds(20) };
        Http.DefaultRequestHeaders.Authorization = new("Bearer", TokenAsync(new(TokenRole.Admin)).Result);
    }

    /// <summary>A token that the API takes, as its holder has it.</summary>
    public async Task<string> TokenAsync(TokenRequest wanted) => (await _tokens.CreateAsync(wanted, "", default)).Token.Text;

    // What the tokens' actor does, less the storing.
    private TokenReply Answer(Google.Protobuf.IMessage question)
    {
        if (question is CreateToken create)
            return new TokenReply { Token = create.Token };
        var token = _book.Find(((RevokeToken)question).Id)!.Clone();
        token.RevokedAt ??= Timestamp.FromDateTimeOffset(Clock.GetUtcNow());
        return new TokenReply { Token = token };
    }

    public ManualClock Clock { get; }
    public FakeCell Cell { get; }
    public HttpClient Http { get; }
    public IPEndPoint Endpoint => _server.Endpoint;
    public LongRequests Long { get; private set; } = null!;
    public ClaimStore Claims => _claims;
    public ViewProjection Projection => _projection;
    public FaultLog Log { get; } = new();
    public string? NotReady { get; set; }

    public static ApiUnderTest Start(int changesKept = 1000, Func<ApiContext, ApiContext>? change = null, Action<FakeCell>? before = null)
    {
        var clock = new ManualClock();
        var cell = new FakeCell(clock);
        before?.Invoke(cell);
        return new(clock, cell, changesKept, change);
    }

    public async Task StopServerAsync() => await _server.DisposeAsync();

    public async ValueTask DisposeAsync()
    {
        Http.Dispose();
        await _server.DisposeAsync();
        await _projection.DisposeAsync();
        await _claims.DisposeAsync();
        _folder.Delete(recursive: true);
    }

    public async Task<Answer> SendAsync(HttpMethod method, string path, string? json = null, string? key = null, string contentType = "application/json")
    {
        using var request = new HttpRequestMessage(method, path);
        if (json is not null)
        {
            request.Content = new ByteArrayContent(Encoding.UTF8.GetBytes(json));
            request.Content.Headers.ContentType = MediaTypeHeaderValue.Parse(contentType);
        }
        if (key is not null)
            request.Headers.Add("Idempotency-Key", key);
        return await SendAsync(request);
    }

    public async Task<Answer> SendAsync(HttpRequestMessage request)
    {
        using var response = await Http.SendAsync(request);
        var text = await response.Content.ReadAsStringAsync();
        return new((int)response.StatusCode, text, response.Content.Headers.ContentType?.MediaType,
            response.Headers.Concat(response.Content.Headers).ToDictionary(h => h.Key, h => string.Join(",", h.Value)));
    }

    public Task<Answer> GetAsync(string path) => SendAsync(HttpMethod.Get, path);

    public Task<Answer> PostAsync(string path, string? json = null, string? key = null) => SendAsync(HttpMethod.Post, path, json, key);

    public Task<Answer> DeleteAsync(string path) => SendAsync(HttpMethod.Delete, path);

    /// <summary>Creates a microVM and gives its id.</summary>
    public async Task<string> CreateAsync(string name, string more = "")
    {
        var answer = await PostAsync("/v1/vms", $$"""{"name": "{{name}}"{{more}}}""");
        Assert.True(answer.Status == 201, answer.Text);
        return (string)answer.Json["id"]!;
    }

    /// <summary>Waits until the condition holds; fails after 10 s.</summary>
    public static async Task UntilAsync(Func<bool> condition)
    {
        for (var left = 2000; !condition(); left--)
        {
            Assert.True(left > 0, "The condition never came true.");
            await Task.Delay(5);
        }
    }
}

/// <summary>An answer that was read to its end.</summary>
internal sealed record Answer(int Status, string Text, string? Type, IReadOnlyDictionary<string, string> Headers)
{
    public JsonNode Json => JsonNode.Parse(Text)!;

    /// <summary>Checks that this is a problem of that status and code, complete and of the right type; gives its detail.</summary>
    public string Problem(int status, string code, string? field = null)
    {
        Assert.True(Status == status, $"{Status}: {Text}");
        Assert.Equal("application/problem+json", Type);
        Assert.Equal(code, (string?)Json["code"]);
        Assert.Equal(status, (int)Json["status"]!);
        Assert.Equal(field, (string?)Json["field"]);
        Assert.False(string.IsNullOrEmpty((string?)Json["title"]));
        var detail = (string)Json["detail"]!;
        Assert.False(string.IsNullOrEmpty(detail));
        return detail;
    }
}
