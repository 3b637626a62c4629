using System.Net;
using System.Text;
using System.Text.Json.Nodes;
using Fleet.Scheduler.Admin;
using Fleet.Scheduler.Logging;
using Fleet.Shared.Admin;
using Xunit;

namespace Fleet.Scheduler.Tests.Admin;

/// <summary>What clients may do to a node by its console: send nonsense, read slowly, leave.</summary>
public sealed class AdminBoundsTests : IAsyncLifetime
{
    private readonly AdminNode _node = new();

    public Task InitializeAsync() => _node.InitializeAsync();

    public Task DisposeAsync() => _node.DisposeAsync();

    [Theory]
    [InlineData("""{"format": "text"}""", "missing_field")]
    [InlineData("""{"words": "host list"}""", "invalid_field")]
    [InlineData("""{"words": ["host", null]}""", "invalid_field")]
    [InlineData("""{"words": ["host", "list"], "format": "xml"}""", "invalid_field")]
    [InlineData("""{"words": ["host", "list"], "yes": true}""", "unknown_field")]
    [InlineData("""{"words": []}""", "invalid_command")]
    [InlineData("""{"words": ["host", "list", "--password", "x"]}""", "invalid_command")]
    [InlineData("""{"words": ["host", "show", "a\nb"]}""", "invalid_command")]
    [InlineData("""["host", "list"]""", "invalid_json")]
    public async Task Should_refuse_what_is_no_command(string body, string code) => Assert.Equal((HttpStatusCode.BadRequest, code), await PostAsync(body));

    [Fact]
    public async Task Should_refuse_what_is_too_large()
    {
        Assert.Equal((HttpStatusCode.BadRequest, "invalid_command"), await PostAsync($$"""{"words": ["host", "show", "{{new string('x', CommandWords.MaxLine)}}"]}"""));
        Assert.Equal((HttpStatusCode.BadRequest, "invalid_command"), await PostAsync($$"""{"words": [{{string.Join(',', Enumerable.Repeat("\"x\"", CommandWords.MaxWords + 1))}}]}"""));
        Assert.Equal((HttpStatusCode.RequestEntityTooLarge, "payload_too_large"), await PostAsync($$"""{"words": ["{{new string('x', 1 << 20)}}"]}"""));
    }

    [Fact]
    public async Task Should_stream_new_events_and_take_only_so_many_commands_at_once_until_a_client_leaves()
    {
        var tails = new List<HttpResponseMessage>();
        for (var i = 0; i < AdminConsole.MostAtOnce; i++)
            tails.Add(await _node.SendAsync("text", "log", "tail"));
        Assert.All(tails, tail => Assert.Equal(HttpStatusCode.OK, tail.StatusCode));
        using var reader = new StreamReader(await tails[0].Content.ReadAsStreamAsync());
        _node.Log.Warning("for the tail");
        Assert.Contains("for the tail", await LineWithAsync(reader, "for the tail"), StringComparison.Ordinal);
        var (status, code, _) = await _node.RefusalAsync("system", "version");
        Assert.Equal((HttpStatusCode.ServiceUnavailable, "unavailable"), (status, code));

        // Gone without a word in the middle of its stream: the node finds out and has a place again.
        tails[1].Dispose();
        await AdminNode.UntilAsync(async () =>
        {
            using var again = await _node.SendAsync("text", "system", "version");
            return again.StatusCode == HttpStatusCode.OK;
        });
        tails.ForEach(tail => tail.Dispose());
    }

    [Fact]
    public async Task Should_leave_out_what_a_slow_reader_does_not_take_and_hold_nothing_for_it()
    {
        using var tail = await _node.SendAsync("rows", "log", "tail", "-l", "warning");
        using var reader = new StreamReader(await tail.Content.ReadAsStreamAsync());
        var large = new string('x', NodeLog.MaxMessage);
        // Far more than all buffers between us and the log have room for.
        for (var i = 0; i < 5 * NodeLog.Kept; i++)
            _node.Log.Warning("{Text:l}", large);
        _node.Log.Warning("the last one");
        Assert.Contains("events are left out", await LineWithAsync(reader, "left out"), StringComparison.Ordinal);
        await LineWithAsync(reader, "the last one");
    }

    [Fact]
    public async Task Should_end_streams_when_the_node_stops()
    {
        using var tail = await _node.SendAsync("text", "log", "tail");
        using var reader = new StreamReader(await tail.Content.ReadAsStreamAsync());
        var stopping = _node.Node.DisposeAsync().AsTask();
        await Assert.ThrowsAnyAsync<Exception>(async () =>
        {
            while (await reader.ReadLineAsync() is { } line)
                Assert.DoesNotContain("\"ok\":true", line, StringComparison.Ordinal);
        });
        await stopping.WaitAsync(TimeSpan.FromSeconds(20));
    }

    private async Task<(HttpStatusCode Status, string Code)> PostAsync(string body)
    {
        using var content = new StringContent(body, Encoding.UTF8, "application/json");
        using var response = await _node.Http.PostAsync("/v1/admin/commands", content);
        return (response.StatusCode, (string)JsonNode.Parse(await response.Content.ReadAsStringAsync())!["code"]!);
    }

    private static async Task<string> LineWithAsync(StreamReader reader, string text)
    {
        using var bound = new CancellationTokenSource(TimeSpan.FromSeconds(60));
        while (true)
        {
            var line = await reader.ReadLineAsync(bound.Token) ?? throw new Xunit.Sdk.XunitException($"The stream ended before '{text}'.");
            if (line.Contains(text, StringComparison.Ordinal))
                return line;
        }
    }
}
