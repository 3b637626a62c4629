using System.Net.Sockets;
using System.Text;
using Fleet.Scheduler.Cell;
using Xunit;

namespace Fleet.Scheduler.Tests.Api;

public sealed class ConsoleTests : IAsyncLifetime
{
    private readonly ApiUnderTest _api = ApiUnderTest.Start();
    private readonly FakeConsole _console = new();
    private string _id = "";

    public async Task InitializeAsync()
    {
        _id = await _api.CreateAsync("hello");
        _api.Cell.Consoles[_id] = _console;
    }

    public async Task DisposeAsync() => await _api.DisposeAsync();

    [Fact]
    public async Task The_output_comes_byte_for_byte_with_its_offset()
    {
        _console.First = 100;
        var bytes = new byte[100_000];
        Random.Shared.NextBytes(bytes);
        foreach (var chunk in bytes.Chunk(7777))
            _console.Write(chunk);
        _console.End();
        using var response = await _api.Http.GetAsync($"/v1/vms/hello/console?offset=5");
        Assert.Equal("application/octet-stream", response.Content.Headers.ContentType?.ToString());
        Assert.Equal("100", response.Headers.GetValues("Fleet-Console-Offset").Single());
        Assert.Equal(bytes, await response.Content.ReadAsByteArrayAsync());
        Assert.Equal(1, _console.Closed);
    }

    [Fact]
    public async Task A_follower_sees_each_piece_as_it_comes()
    {
        using var response = await _api.Http.GetAsync($"/v1/vms/{_id}/console?follow=true", HttpCompletionOption.ResponseHeadersRead);
        await using var stream = await response.Content.ReadAsStreamAsync();
        var buffer = new byte[64];
        foreach (var piece in new[] { "one", "two", "three" })
        {
            _console.Write(Encoding.ASCII.GetBytes(piece));
            var read = await stream.ReadAsync(buffer).AsTask().WaitAsync(TimeSpan.FromSeconds(10));
            Assert.Equal(piece, Encoding.ASCII.GetString(buffer, 0, read));
        }
        _console.End();
        Assert.Equal(0, await stream.ReadAsync(buffer));
    }

    [Fact]
    public async Task A_log_comes_as_lines_of_json_and_is_asked_for_as_it_was_wished()
    {
        _console.Write("{}\n"u8.ToArray());
        _console.End();
        using var response = await _api.Http.GetAsync("/v1/vms/hello/logs?follow=true&since=2026-11-23T12:00:00.5%2B01:00&tail=10&stream=stderr&after=77");
        Assert.Equal("application/x-ndjson", response.Content.Headers.ContentType?.ToString());
        Assert.Equal("{}\n", await response.Content.ReadAsStringAsync());
        var (wish, follow) = Assert.Single(_api.Cell.LogWishes);
        Assert.Equal((true, 10u, 2u, 77ul), (follow, wish.Tail, wish.Stream, wish.After));
        Assert.Equal(DateTimeOffset.Parse("2026-11-23T11:00:00.5Z", System.Globalization.CultureInfo.InvariantCulture), DateTimeOffset.UnixEpoch.AddMicroseconds(wish.SinceUs));
        foreach (var wrong in new[] { "stream=out", "since=yesterday", "since=10", "tail=-1", "after=x", "lines=3" })
        {
            using var refused = await _api.Http.GetAsync($"/v1/vms/hello/logs?{wrong}");
            Assert.Equal(System.Net.HttpStatusCode.BadRequest, refused.StatusCode);
        }
    }

    [Fact]
    public async Task A_client_that_leaves_closes_the_console_on_the_host()
    {
        var response = await _api.Http.GetAsync($"/v1/vms/{_id}/console?follow=true", HttpCompletionOption.ResponseHeadersRead);
        response.Dispose();
        await ApiUnderTest.UntilAsync(() => _console.Closed == 1);
        await ApiUnderTest.UntilAsync(() => _api.Long.Running == 0);
    }

    [Fact]
    public async Task A_reader_that_does_not_read_holds_the_output_back()
    {
        using var client = new TcpClient { ReceiveBufferSize = 4096 };
        await client.ConnectAsync(_api.Endpoint);
        await client.GetStream().WriteAsync(Encoding.ASCII.GetBytes($"GET /v1/vms/{_id}/console?follow=true HTTP/1.1\r\nHost: localhost\r\nAuthorization: {_api.Http.DefaultRequestHeaders.Authorization}\r\n\r\n"));
        const int Chunks = 1000;
        for (var i = 0; i < Chunks; i++)
            _console.Write(new byte[64 * 1024]);
        await ApiUnderTest.UntilAsync(() => _console.Taken > 0);
        // Socket buffers take some MiB of the 64; then nothing more is asked for.
        var taken = -1;
        while (taken != _console.Taken)
        {
            taken = _console.Taken;
            await Task.Delay(100);
        }
        Assert.InRange(taken, 1, Chunks / 2);
    }

    [Fact]
    public async Task A_host_that_is_lost_breaks_the_stream_off()
    {
        using var response = await _api.Http.GetAsync($"/v1/vms/{_id}/console?follow=true", HttpCompletionOption.ResponseHeadersRead);
        _console.Write("partial"u8.ToArray());
        _console.Break(new CellException("unavailable", "The host is gone."));
        await Assert.ThrowsAnyAsync<Exception>(() => response.Content.ReadAsByteArrayAsync());
    }

    [Fact]
    public async Task A_microVM_that_was_never_placed_has_no_console()
    {
        _api.Cell.Consoles.Clear();
        (await _api.GetAsync($"/v1/vms/{_id}/console")).Problem(409, "wrong_state");
        (await _api.PostAsync($"/v1/vms/{_id}/console", "x")).Problem(409, "wrong_state");
    }

    [Theory]
    [InlineData("application/octet-stream")]
    [InlineData("application/x-www-form-urlencoded")]
    public async Task Input_goes_to_the_guest_as_it_is(string contentType)
    {
        var answer = await _api.SendAsync(HttpMethod.Post, $"/v1/vms/hello/console", "uname -r\n\u0003", contentType: contentType);
        Assert.Equal((204, ""), (answer.Status, answer.Text));
        Assert.Equal("uname -r\n\u0003", Encoding.UTF8.GetString([.. _api.Cell.Input]));
    }

    [Fact]
    public async Task Input_is_bounded()
    {
        Assert.Equal(204, (await _api.PostAsync($"/v1/vms/{_id}/console", new string('x', 4096))).Status);
        (await _api.PostAsync($"/v1/vms/{_id}/console", new string('x', 4097))).Problem(413, "payload_too_large");
        Assert.Equal(4096, _api.Cell.Input.Count);
    }
}
