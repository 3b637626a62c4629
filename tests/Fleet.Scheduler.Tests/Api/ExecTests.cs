using System.Net.WebSockets;
using System.Text;
using System.Threading.Channels;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Cell;
using Fleet.Shared.GuestChannel;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

public sealed class ExecTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start();
    private readonly ScriptedGuest _guest = ScriptedGuest.Quiet();
    private string _id = "";

    public async Task InitializeAsync()
    {
        _id = await _api.CreateAsync("hello");
        _api.Cell.Guest = request =>
        {
            _guest.Request = Encoding.UTF8.GetString(request.Span);
            return _guest;
        };
    }

    public async Task DisposeAsync() => await _api.DisposeAsync();

    private async Task<ClientWebSocket> ConnectAsync(string? first = """{"command":["true"]}""")
    {
        _api.Cell.Run(_id);
        var socket = new ClientWebSocket();
        socket.Options.SetRequestHeader("Authorization", _api.Http.DefaultRequestHeaders.Authorization!.ToString());
        await socket.ConnectAsync(new Uri($"ws://{_api.Endpoint}/v1/vms/hello/exec"), default);
        if (first is not null)
            await socket.SendAsync(Encoding.UTF8.GetBytes(first), WebSocketMessageType.Text, endOfMessage: true, default);
        return socket;
    }

    private static async Task<(FrameType Type, byte[] Payload)?> ReadAsync(ClientWebSocket socket)
    {
        var buffer = new byte[Frame.MaxPayload + 1];
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(20));
        var received = await socket.ReceiveAsync(buffer, limit.Token);
        return received.MessageType == WebSocketMessageType.Close ? null : ((FrameType)buffer[0], buffer[1..received.Count]);
    }

    private static async Task<string> RefusalAsync(ClientWebSocket socket)
    {
        var (type, payload) = (await ReadAsync(socket))!.Value;
        Assert.Equal(FrameType.Refused, type);
        Assert.Null(await ReadAsync(socket));
        return Encoding.UTF8.GetString(payload).Split(' ')[0];
    }

    [Fact]
    public async Task A_command_is_carried_to_its_end()
    {
        using var socket = await ConnectAsync("""{"command":["sh","-c","x"],"env":{"A":"b"},"workdir":"/tmp","tty":true,"rows":30,"columns":90}""");
        _guest.Say(FrameType.Started);
        Assert.Equal(FrameType.Started, (await ReadAsync(socket))!.Value.Type);
        Assert.Equal("""{"argv":["sh","-c","x"],"env":{"A":"b"},"workdir":"/tmp","tty":true,"rows":30,"columns":90}""", _guest.Request);
        await socket.SendAsync(new byte[] { (byte)FrameType.Input, 65 }, WebSocketMessageType.Binary, true, default);
        await ApiUnderTest.UntilAsync(() => _guest.Sent.Count == 1);
        Assert.Equal((FrameType.Input, 65), (_guest.Sent[0].Type, _guest.Sent[0].Payload[0]));
        _guest.Say(FrameType.Errors, 1, 2, 3);
        Assert.Equal((FrameType.Errors, 3), (await ReadAsync(socket)) is { } errors ? (errors.Type, errors.Payload.Length) : default);
        _guest.Say(FrameType.Exit, 7, 0, 0, 0);
        Assert.Equal(7, (await ReadAsync(socket))!.Value.Payload[0]);
        Assert.Null(await ReadAsync(socket));
        await socket.CloseAsync(WebSocketCloseStatus.NormalClosure, "", default);
        await ApiUnderTest.UntilAsync(() => _guest.Closed == 1 && _api.Long.Running == 0);
    }

    [Fact]
    public async Task A_client_that_leaves_ends_its_command()
    {
        var socket = await ConnectAsync();
        _guest.Say(FrameType.Started);
        await ReadAsync(socket);
        socket.Abort();
        await ApiUnderTest.UntilAsync(() => _guest.Closed == 1 && _api.Long.Running == 0);
    }

    [Theory]
    [InlineData("{}", "invalid_field")]
    [InlineData("""{"command":[]}""", "invalid_field")]
    [InlineData("""{"command":[""]}""", "invalid_field")]
    [InlineData("""{"command":["a\u0000"]}""", "invalid_field")]
    [InlineData("""{"command":["a"],"workdir":"tmp"}""", "invalid_field")]
    [InlineData("""{"command":["a"],"env":{"A=":"b"}}""", "invalid_field")]
    [InlineData("""{"command":["a"],"rows":0}""", "invalid_field")]
    [InlineData("""{"command":["a"],"user":""}""", "invalid_field")]
    [InlineData("""{"command":["a"],"root":true}""", "unknown_field")]
    [InlineData("nonsense", "invalid_json")]
    public async Task A_wrong_request_is_refused(string request, string code)
    {
        using var socket = await ConnectAsync(request);
        Assert.Equal(code, await RefusalAsync(socket));
        Assert.Null(_guest.Request);
    }

    [Fact]
    public async Task A_client_that_breaks_the_rules_is_refused()
    {
        using var socket = await ConnectAsync();
        _guest.Say(FrameType.Started);
        await ReadAsync(socket);
        await socket.SendAsync(new byte[] { (byte)FrameType.Output, 1 }, WebSocketMessageType.Binary, true, default);
        Assert.Equal("invalid_request", await RefusalAsync(socket));
        await ApiUnderTest.UntilAsync(() => _guest.Closed == 1);
        Assert.Empty(_guest.Sent);
    }

    [Fact]
    public async Task A_guest_that_says_nothing_is_given_up_with_a_word_to_the_client()
    {
        using var socket = await ConnectAsync();
        await ApiUnderTest.UntilAsync(() => _api.Clock.HasTimer(TimeSpan.FromSeconds(160)));
        _api.Clock.Advance(TimeSpan.FromSeconds(160));
        Assert.Equal("unavailable", await RefusalAsync(socket));
        await ApiUnderTest.UntilAsync(() => _guest.Closed == 1 && _api.Long.Running == 0);
    }

    [Fact]
    public async Task A_tenant_runs_nothing_in_what_is_not_its_own()
    {
        _api.Cell.Run(_id);
        var socket = new ClientWebSocket();
        using var _ = socket;
        socket.Options.SetRequestHeader("Authorization", $"Bearer {await _api.TokenAsync(new(TokenRole.Tenant) { Tenant = "acme" })}");
        socket.Options.CollectHttpResponseDetails = true;
        await Assert.ThrowsAsync<WebSocketException>(() => socket.ConnectAsync(new Uri($"ws://{_api.Endpoint}/v1/vms/{_id}/exec"), default));
        Assert.Equal(System.Net.HttpStatusCode.NotFound, socket.HttpStatusCode);
        Assert.Null(_guest.Request);
    }

    [Fact]
    public async Task What_can_not_be_is_said_before_the_upgrade()
    {
        Assert.Equal("not_found", (await _api.GetAsync("/v1/vms/other/exec")).Json["code"]!.GetValue<string>());
        Assert.Equal("wrong_state", (await _api.GetAsync("/v1/vms/hello/exec")).Json["code"]!.GetValue<string>());
        _api.Cell.Run(_id);
        Assert.Equal("invalid_request", (await _api.GetAsync("/v1/vms/hello/exec")).Json["code"]!.GetValue<string>());
    }

    /// <summary>The guest's end.</summary>
    private sealed class ScriptedGuest : IGuestStream
    {
        private readonly Channel<(FrameType, ReadOnlyMemory<byte>)> _frames = Channel.CreateUnbounded<(FrameType, ReadOnlyMemory<byte>)>();
        private int _closed;

        public static ScriptedGuest Quiet() => new();

        public string? Request { get; set; }

        public List<(FrameType Type, byte[] Payload)> Sent { get; } = [];

        public int Closed => Volatile.Read(ref _closed);

        public void Say(FrameType type, params byte[] payload)
        {
            _frames.Writer.TryWrite((type, payload));
            if (type == FrameType.Exit)
                _frames.Writer.TryComplete();
        }

        public void Send(FrameType type, ReadOnlyMemory<byte> payload) => Sent.Add((type, payload.ToArray()));

        public IAsyncEnumerable<(FrameType Type, ReadOnlyMemory<byte> Payload)> ReadAsync(CancellationToken cancellation) => _frames.Reader.ReadAllAsync(cancellation);

        public ValueTask DisposeAsync()
        {
            Interlocked.Increment(ref _closed);
            return default;
        }
    }
}
