using System.Text;
using System.Text.Json.Nodes;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

public sealed class ChangeTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start(changesKept: 10);

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync() => await _api.DisposeAsync();

    [Fact]
    public async Task Changes_tell_every_state_in_order_with_the_object_as_it_was()
    {
        var id = await _api.CreateAsync("hello");
        _api.Cell.Connect("h1");
        _api.Cell.Run(id, "h1");
        _api.Cell.End(id, 7);
        await SettledAsync();

        var answer = await _api.GetAsync("/v1/changes");
        var changes = answer.Json["changes"]!.AsArray();
        Assert.Equal(["vm pending", "host connected", "vm starting", "vm running", "vm stopped"], changes.Select(c => $"{c!["kind"]} {c["state"]}"));
        Assert.Equal(_api.Cell.Journal.Select(e => e.Offset), changes.Select(c => (long)c!["index"]!));
        Assert.Equal((long)changes[^1]!["index"]!, (long)answer.Json["index"]!);
        Assert.Equal(answer.Json["index"]!.ToString(), answer.Headers["Fleet-Index"]);
        Assert.Equal((await _api.GetAsync($"/v1/vms/{id}")).Text, changes[^1]!["object"]!.ToJsonString(Relaxed));

        var rest = await _api.GetAsync($"/v1/changes?after={changes[2]!["index"]}");
        Assert.Equal(2, rest.Json["changes"]!.AsArray().Count);
    }

    [Fact]
    public async Task A_list_hands_over_to_the_changes_without_a_gap()
    {
        await _api.CreateAsync("a");
        var index = (await _api.GetAsync("/v1/vms")).Headers["Fleet-Index"];
        var second = await _api.CreateAsync("b");
        var changes = await _api.GetAsync($"/v1/changes?after={index}&wait=60");
        Assert.Equal(second, (string)Assert.Single(changes.Json["changes"]!.AsArray())!["id"]!);
    }

    [Fact]
    public async Task A_long_poll_answers_when_something_comes_and_when_the_time_is_over()
    {
        await _api.CreateAsync("a");
        await SettledAsync();
        var index = _api.Projection.Index;
        var poll = _api.GetAsync($"/v1/changes?after={index}&wait=30");
        await ApiUnderTest.UntilAsync(() => _api.Clock.HasTimer(TimeSpan.FromSeconds(30)));
        Assert.False(poll.IsCompleted);
        await _api.CreateAsync("b");
        Assert.Single((await poll).Json["changes"]!.AsArray());

        await SettledAsync();
        index = _api.Projection.Index;
        // The answer may be here before the first poll's timer has gone, and the next wait is not to be taken for it.
        await ApiUnderTest.UntilAsync(() => !_api.Clock.HasTimer(TimeSpan.FromSeconds(30)));
        poll = _api.GetAsync($"/v1/changes?after={index}&wait=30");
        await ApiUnderTest.UntilAsync(() => _api.Clock.HasTimer(TimeSpan.FromSeconds(30)));
        _api.Clock.Advance(TimeSpan.FromSeconds(30));
        var empty = await poll;
        Assert.Equal((200, $$"""{"index":{{index}},"changes":[]}"""), (empty.Status, empty.Text));
    }

    [Fact]
    public async Task What_is_no_longer_kept_is_compacted_and_so_is_the_future()
    {
        for (var i = 0; i < 15; i++)
            await _api.CreateAsync($"vm{i}");
        await SettledAsync();
        var offsets = _api.Cell.Journal.Select(e => e.Offset).ToList();
        (await _api.GetAsync("/v1/changes?after=0")).Problem(410, "compacted");
        (await _api.GetAsync($"/v1/changes?after={offsets[3]}")).Problem(410, "compacted");
        (await _api.GetAsync($"/v1/changes/stream?after={offsets[3]}")).Problem(410, "compacted");
        Assert.Equal(10, (await _api.GetAsync($"/v1/changes?after={offsets[4]}")).Json["changes"]!.AsArray().Count);
        Assert.Equal(10, (await _api.GetAsync("/v1/changes")).Json["changes"]!.AsArray().Count);
        Assert.Contains("earlier life", (await _api.GetAsync($"/v1/changes?after={offsets[^1] + 1}&wait=600")).Problem(410, "compacted"), StringComparison.Ordinal);
    }

    [Fact]
    public async Task A_client_that_leaves_its_stream_is_no_fault()
    {
        await using (var stream = await EventStream.OpenAsync(_api, "/v1/changes/stream"))
        {
            await _api.CreateAsync("one");
            _ = await stream.NextAsync();
        }
        await Cell.Eventually.TrueAsync(() => _api.Log.Lines.Any(line => line.Contains("/v1/changes/stream", StringComparison.Ordinal)));
        // The server's own word comes behind the pipeline's: another request has been through it meanwhile.
        await _api.GetAsync("/v1/health");
        Assert.Empty(_api.Log.Faults);
    }

    [Fact]
    public async Task A_stream_follows_and_resumes_after_the_last_event()
    {
        var id = await _api.CreateAsync("hello");
        await using (var stream = await EventStream.OpenAsync(_api, "/v1/changes/stream"))
        {
            var first = await stream.NextAsync();
            Assert.Equal(("change", "pending"), (first.Event, (string)first.Data["state"]!));
            _api.Cell.Run(id);
            Assert.Equal("starting", (string)(await stream.NextAsync()).Data["state"]!);
        }
        _api.Cell.End(id, 0);
        var seen = _api.Cell.Journal[1].Offset;
        await using (var stream = await EventStream.OpenAsync(_api, "/v1/changes/stream?after=0", lastEventId: seen.ToString()))
        {
            var next = await stream.NextAsync();
            Assert.Equal((_api.Cell.Journal[2].Offset.ToString(), "running"), (next.Id, (string)next.Data["state"]!));
            Assert.Equal("stopped", (string)(await stream.NextAsync()).Data["state"]!);
        }
        await ApiUnderTest.UntilAsync(() => _api.Long.Running == 0);
    }

    [Fact]
    public async Task A_quiet_stream_is_kept_alive()
    {
        await using var stream = await EventStream.OpenAsync(_api, "/v1/changes/stream");
        Assert.Equal("retry: 1000", await stream.LineAsync());
        Assert.Equal("", await stream.LineAsync());
        await ApiUnderTest.UntilAsync(() => _api.Clock.HasTimer(TimeSpan.FromSeconds(15)));
        _api.Clock.Advance(TimeSpan.FromSeconds(15));
        Assert.Equal(":", await stream.LineAsync());
    }

    [Theory]
    [InlineData("x")]
    [InlineData("-1")]
    [InlineData("")]
    public async Task A_wrong_last_event_id_is_refused(string id)
    {
        using var request = new HttpRequestMessage(HttpMethod.Get, "/v1/changes/stream");
        request.Headers.TryAddWithoutValidation("Last-Event-ID", id);
        (await _api.SendAsync(request)).Problem(400, "invalid_query", "Last-Event-ID");
    }

    [Theory]
    [InlineData("changes?after=-1", "after")]
    [InlineData("changes?wait=601", "wait")]
    [InlineData("changes?since=1", "since")]
    [InlineData("changes/stream?after=x", "after")]
    [InlineData("changes/stream?wait=1", "wait")]
    public async Task A_wrong_query_is_refused(string path, string field)
    {
        (await _api.GetAsync("/v1/" + path)).Problem(400, "invalid_query", field);
    }

    private static readonly System.Text.Json.JsonSerializerOptions Relaxed = new() { Encoder = System.Text.Encodings.Web.JavaScriptEncoder.UnsafeRelaxedJsonEscaping };

    private Task SettledAsync() => ApiUnderTest.UntilAsync(() => _api.Projection.Index == _api.Cell.Journal[^1].Offset);

    private sealed record SseEvent(string Id, string Event, JsonNode Data);

    private sealed class EventStream(HttpResponseMessage response, StreamReader reader) : IAsyncDisposable
    {
        public static async Task<EventStream> OpenAsync(ApiUnderTest api, string path, string? lastEventId = null)
        {
            using var request = new HttpRequestMessage(HttpMethod.Get, path);
            if (lastEventId is not null)
                request.Headers.Add("Last-Event-ID", lastEventId);
            var response = await api.Http.SendAsync(request, HttpCompletionOption.ResponseHeadersRead);
            Assert.Equal("text/event-stream", response.Content.Headers.ContentType?.MediaType);
            return new(response, new StreamReader(await response.Content.ReadAsStreamAsync(), Encoding.UTF8));
        }

        public Task<string?> LineAsync() => reader.ReadLineAsync().WaitAsync(TimeSpan.FromSeconds(10));

        public async Task<SseEvent> NextAsync()
        {
            var fields = new Dictionary<string, string>();
            while (true)
            {
                var line = await LineAsync() ?? throw new EndOfStreamException();
                if (line.Length == 0 && fields.TryGetValue("data", out var data))
                    return new(fields["id"], fields["event"], JsonNode.Parse(data)!);
                var colon = line.IndexOf(": ", StringComparison.Ordinal);
                if (colon > 0)
                    fields[line[..colon]] = line[(colon + 2)..];
            }
        }

        public ValueTask DisposeAsync()
        {
            reader.Dispose();
            response.Dispose();
            return ValueTask.CompletedTask;
        }
    }
}
