using System.Net;
using System.Net.Sockets;
using System.Text;
using Fleet.Cli.Admin;
using Fleet.Cli.Access;
using Fleet.Cli.Api;
using Fleet.Cli.Node;
using Xunit;

namespace Fleet.Cli.Tests.Admin;

/// <summary>The client against servers that don't keep to the contract.</summary>
public sealed class AdminSessionTests
{
    private const string OnePalette = """{"items":[{"name":"log","description":"d","commands":[{"name":"tail","description":"d","arguments":[],"streams":true}]}]}""";

    /// <summary>Answers every connection with the next of the bodies, and closes it.</summary>
    private static async Task<T> WithServerAsync<T>(string[] bodies, Func<ApiClient, Task<T>> use)
    {
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var serving = Task.Run(async () =>
        {
            foreach (var body in bodies)
            {
                using var client = await listener.AcceptTcpClientAsync();
                await using var stream = client.GetStream();
                var request = new byte[16 * 1024];
                var text = "";
                // Headers, and of a POST its body, which ends the request.
                while (!text.Contains("\r\n\r\n", StringComparison.Ordinal) || (text.StartsWith("POST", StringComparison.Ordinal) && !text.EndsWith('}')))
                    text += Encoding.UTF8.GetString(request, 0, await stream.ReadAsync(request));
                await stream.WriteAsync(Encoding.UTF8.GetBytes($"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{body}"));
            }
        });
        using var api = new ApiClient(new Uri($"http://{listener.LocalEndpoint}"), new ApiCredentials(null, null, new DataDirectory("/nonexistent")));
        var result = await use(api);
        await serving.WaitAsync(TimeSpan.FromSeconds(20));
        return result;
    }

    private static Task<(ApiException? Failure, string Output)> RunAsync(string answer, bool json = false) => WithServerAsync([OnePalette, answer], async api =>
    {
        var output = new StringWriter();
        var session = await AdminSession.OpenAsync(api, output, json, CancellationToken.None);
        try
        {
            await session.RunAsync(["log", "tail"], CancellationToken.None);
            return ((ApiException?)null, output.ToString());
        }
        catch (ApiException failure)
        {
            return (failure, output.ToString());
        }
    });

    [Fact]
    public async Task Should_print_lines_safe_for_a_terminal_and_rows_as_they_are()
    {
        var (failure, output) = await RunAsync("{\"text\":\"one\\ntwo \\u001b[2J\"}\n{\"ok\":true}\n");
        Assert.Null(failure);
        Assert.Equal("one\ntwo ?[2J\n", output);
        (_, output) = await RunAsync("{\"row\":{\"a\":1}}\n{\"text\":\"more\"}\n{\"ok\":true}", json: true);
        Assert.Equal("{\"a\":1}\n{\"text\":\"more\"}\n", output);
    }

    /// <summary>A quiet stream has empty lines in it, and a connection whose other end is gone has nothing.</summary>
    [Fact]
    public async Task Should_pass_over_signs_of_life_and_give_up_where_there_are_none()
    {
        var (failure, output) = await RunAsync("\n{\"text\":\"one\"}\n\n\n{\"ok\":true}\n");
        Assert.Null(failure);
        Assert.Equal("one\n", output);

        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        using var api = new ApiClient(new Uri($"http://{listener.LocalEndpoint}"), new ApiCredentials(null, null, new DataDirectory("/nonexistent")));
        var opening = AdminSession.OpenAsync(api, TextWriter.Null, false, CancellationToken.None, new HurriedClock());
        using var node = await listener.AcceptTcpClientAsync();
        await node.GetStream().WriteAsync(Encoding.UTF8.GetBytes($"HTTP/1.1 200 OK\r\nContent-Length: {OnePalette.Length}\r\n\r\n{OnePalette}"));
        var session = await opening;
        var running = session.RunAsync(["log", "tail"], CancellationToken.None);
        await node.GetStream().WriteAsync("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"u8.ToArray());
        var silent = await Assert.ThrowsAsync<ApiException>(() => running.WaitAsync(TimeSpan.FromSeconds(30)));
        Assert.Contains("nothing was heard", silent.Message, StringComparison.Ordinal);
    }

    /// <summary>Its minutes are tenths of seconds.</summary>
    private sealed class HurriedClock : TimeProvider
    {
        public override ITimer CreateTimer(TimerCallback callback, object? state, TimeSpan dueTime, TimeSpan period) =>
            System.CreateTimer(callback, state, dueTime / 600, period);
    }

    [Fact]
    public async Task Should_fail_with_the_code_of_the_node()
    {
        var (failure, output) = await RunAsync("{\"text\":\"begun\"}\n{\"ok\":false,\"code\":\"not_found\",\"detail\":\"No.\"}\n");
        Assert.Equal(("not_found", "No.", "begun\n"), (failure!.Code, failure.Message, output));
    }

    [Theory]
    [InlineData("")]
    [InlineData("{\"text\":\"begun\"}\n")]
    [InlineData("{\"text\":\"begun")]
    [InlineData("[1]\n{\"ok\":true}\n")]
    [InlineData("<html>\n")]
    public async Task Should_say_that_an_answer_broke_off(string answer)
    {
        var (failure, _) = await RunAsync(answer);
        Assert.Equal(ApiException.Unreachable, failure!.Code);
        Assert.True(failure.IsCut);
    }

    [Fact]
    public async Task Should_not_hold_a_line_that_never_ends()
    {
        var (failure, output) = await RunAsync("{\"text\":\"" + new string('x', 4 << 20));
        Assert.Equal(ApiException.Unreachable, failure!.Code);
        Assert.Equal("", output);
    }

    [Theory]
    [InlineData("{}")]
    [InlineData("{\"items\":7}")]
    [InlineData("{\"items\":[{\"name\":[]}]}")]
    public async Task Should_refuse_definitions_of_another_form(string palettes) => await WithServerAsync([palettes], async api =>
    {
        var failure = await Assert.ThrowsAsync<ApiException>(() => AdminSession.OpenAsync(api, TextWriter.Null, false, CancellationToken.None));
        Assert.Equal(ApiException.Unreachable, failure.Code);
        return 0;
    });

    [Fact]
    public async Task Should_read_lines_within_their_bound()
    {
        var lines = new List<string?>();
        using var stream = new MemoryStream(Encoding.UTF8.GetBytes($"a\r\n\n{new string('x', 100)}\nb\n{new string('y', 5000)}\n{new string('z', 10)}"));
        await foreach (var line in LineReader.ReadAsync(stream, 10, CancellationToken.None))
            lines.Add(line);
        Assert.Equal(["a", "", null, "b", null, "zzzzzzzzzz"], lines);
    }
}
