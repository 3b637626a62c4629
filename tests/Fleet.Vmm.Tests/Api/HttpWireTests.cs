using System.Text;
using CsCheck;
using Fleet.Vmm.Api;
using Xunit;

namespace Fleet.Vmm.Tests.Api;

/// <summary>Bytes as they should not come, and connections as they should not behave.</summary>
public sealed class HttpWireTests
{
    private const string Patch = """{"vcpu_count": 2}""";

    [Fact]
    public void Should_answer_pipelined_requests_in_order()
    {
        using var vmm = new RunningVmm();
        using var client = vmm.Connect();
        client.Send("GET /version HTTP/1.1\r\n\r\n" + Request(Patch) + "GET /machine-config HTTP/1.1\r\n\r\nGET /nowhere HTTP/1.1\r\n\r\nGET /");
        Assert.Equal(200, client.ReadAnswer().Status);
        Assert.Equal(204, client.ReadAnswer().Status);
        Assert.StartsWith("""{"vcpu_count":2,""", client.ReadAnswer().Body, StringComparison.Ordinal);
        Assert.Equal(400, client.ReadAnswer().Status);
        client.Send(" HTTP/1.1\r\n\r\n");
        Assert.Equal(200, client.ReadAnswer().Status);
    }

    [Fact]
    public void Should_put_a_request_together_byte_by_byte()
    {
        using var vmm = new RunningVmm();
        using var client = vmm.Connect();
        foreach (var b in Encoding.ASCII.GetBytes(Request(Patch)))
        {
            client.Send([b]);
        }

        Assert.Equal((204, ""), client.ReadAnswer());
    }

    [Fact]
    public void Should_invite_a_body_that_waits()
    {
        using var vmm = new RunningVmm();
        using var client = vmm.Connect();
        client.Send($"PATCH /machine-config HTTP/1.1\r\nContent-Length: {Patch.Length}\r\nExpect: 100-continue\r\n\r\n");
        Assert.Equal((100, ""), client.ReadAnswer());
        client.Send(Patch[..5]);
        client.Send(Patch[5..]);
        Assert.Equal((204, ""), client.ReadAnswer());
        client.Send($"PATCH /machine-config HTTP/1.1\r\nContent-Length: {Patch.Length}\r\nExpect: 100-Continue\r\n\r\n{Patch}");
        Assert.Equal((204, ""), client.ReadAnswer());
    }

    [Theory]
    [InlineData("rubbish\r\n\r\n", "Invalid request.")]
    [InlineData("\r\n\r\n", "Invalid request.")]
    [InlineData("GET  HTTP/1.1\r\n\r\n", "Invalid URI: Empty URI not allowed.")]
    [InlineData("GET / x HTTP/1.1\r\n\r\n", "Invalid URI: Only printable ASCII characters are allowed.")]
    [InlineData("GET nowhere HTTP/1.1\r\n\r\n", "Invalid URI: A path starts with a slash.")]
    [InlineData("POST / HTTP/1.1\r\n\r\n", "Invalid HTTP Method: Unsupported HTTP method.")]
    [InlineData("get / HTTP/1.1\r\n\r\n", "Invalid HTTP Method: Unsupported HTTP method.")]
    [InlineData("GET / HTTP/2.0\r\n\r\n", "Invalid HTTP Version: Unsupported HTTP version.")]
    [InlineData("GET / HTTP/1.1\r\nNo colon\r\n\r\n", "Invalid header. Reason: Header is incorrectly formatted.")]
    [InlineData("GET / HTTP/1.1\r\nName : x\r\n\r\n", "Invalid header. Reason: Header is incorrectly formatted.")]
    [InlineData("GET / HTTP/1.1\r\n folded\r\n\r\n", "Invalid header. Reason: Header is incorrectly formatted.")]
    [InlineData("GET / HTTP/1.1\r\nA: b\nC: d\r\n\r\n", "Invalid header. Reason: Header contains invalid characters. Key: A")]
    [InlineData("PUT / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", "Invalid header. Reason: Invalid value. Key:Content-Length; Value:-1")]
    [InlineData("PUT / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "Invalid header. Reason: Content-Length was given more than once.")]
    [InlineData("PUT / HTTP/1.1\r\nContent-Length: 51201\r\n\r\n", "Request payload with size 51201 is larger than the limit of 51200 allowed by server.")]
    [InlineData("PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n", "Request payload with size 99999999999999999999 is larger than the limit of 51200 allowed by server.")]
    [InlineData("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", "Invalid header. Reason: Unsupported feature. Key: Transfer-Encoding; Value: chunked")]
    [InlineData("PUT / HTTP/1.1\r\nExpect: 200-ok\r\n\r\n", "Invalid header. Reason: Unsupported feature. Key: Expect; Value: 200-ok")]
    [InlineData("GET / HTTP/1.1\r\nAccept-Encoding: identity;q=0\r\n\r\n", "Invalid header. Reason: Unsupported feature. Key: Accept-Encoding; Value: identity;q=0")]
    public void Should_refuse_what_is_not_a_request_and_end_the_connection(string bytes, string fault)
    {
        using var vmm = new RunningVmm();
        using var client = vmm.Connect();
        client.Send("GET /version HTTP/1.1\r\n\r\n" + bytes);
        Assert.Equal(200, client.ReadAnswer().Status);
        var (status, body) = client.ReadAnswer();
        Assert.Equal((400, fault), (status, RunningVmm.FaultOf(body)));
        Assert.True(client.IsEnded());
        Assert.Equal(200, vmm.Request("GET", "/version").Status);
    }

    [Fact]
    public void Should_refuse_a_head_without_end()
    {
        using var vmm = new RunningVmm();
        using var client = vmm.Connect();
        client.Send("GET / HTTP/1.1\r\nX: " + new string('a', HttpRequestHead.LongestHead));
        var (status, body) = client.ReadAnswer();
        Assert.Equal((400, "Request line and headers are larger than the limit of 8192 bytes."), (status, RunningVmm.FaultOf(body)));
        Assert.True(client.IsEnded());
    }

    [Fact]
    public void Should_take_the_largest_body()
    {
        using var vmm = new RunningVmm();
        using var client = vmm.Connect();
        client.Send(Request(Patch + new string(' ', HttpServer.LargestBody - Patch.Length)));
        Assert.Equal((204, ""), client.ReadAnswer());
        Assert.Equal(200, client.Request("GET", "/").Status);
    }

    [Fact]
    public void Should_take_a_smaller_limit_from_the_command_line()
    {
        using var vmm = new RunningVmm(null, true, "--http-api-max-payload-size", "10");
        using var client = vmm.Connect();
        client.Send(Request(Patch));
        Assert.Equal("Request payload with size 17 is larger than the limit of 10 allowed by server.", RunningVmm.FaultOf(client.ReadAnswer().Body));
    }

    [Fact]
    public void Should_end_the_connection_when_asked_to()
    {
        using var vmm = new RunningVmm();
        using var client = vmm.Connect();
        client.Send("GET /version HTTP/1.1\r\nConnection: close\r\n\r\nGET / HTTP/1.1\r\n\r\n");
        Assert.Equal(200, client.ReadAnswer().Status);
        Assert.True(client.IsEnded());
        using var old = vmm.Connect();
        old.Send("GET /version HTTP/1.0\r\n\r\n");
        Assert.Equal(200, old.ReadAnswer().Status);
        Assert.True(old.IsEnded());
    }

    [Fact]
    public void Should_refuse_the_eleventh_client_and_take_it_later()
    {
        using var vmm = new RunningVmm();
        var clients = Enumerable.Range(0, HttpServer.MostConnections).Select(_ => vmm.Connect()).ToList();
        try
        {
            Assert.All(clients, client => Assert.Equal(200, client.Request("GET", "/").Status));
            using (var eleventh = vmm.Connect())
            {
                var (status, body) = eleventh.ReadAnswer();
                Assert.Equal((503, "Too many open connections"), (status, RunningVmm.FaultOf(body)));
                Assert.True(eleventh.IsEnded());
            }

            clients[3].Dispose();
            Assert.Equal(200, clients[4].Request("GET", "/").Status);
            Assert.Equal(200, vmm.Request("GET", "/").Status);
        }
        finally
        {
            clients.ForEach(client => client.Dispose());
        }
    }

    [Fact]
    public void Should_stop_reading_from_a_client_that_does_not_read()
    {
        using var vmm = new RunningVmm();
        using var client = vmm.Connect();
        client.Socket.Blocking = false;
        var request = Encoding.ASCII.GetBytes("GET /vm/config HTTP/1.1\r\n\r\n");
        var sent = 0;

        // Full when even a pause does not help; the other clients are served all the while.
        for (var quiet = 0; quiet < 50;)
        {
            try
            {
                sent += client.Socket.Send(request.AsSpan(sent % request.Length));
                quiet = 0;
            }
            catch (System.Net.Sockets.SocketException full) when (full.SocketErrorCode == System.Net.Sockets.SocketError.WouldBlock)
            {
                Assert.Equal(200, vmm.Request("GET", "/version").Status);
                quiet++;
            }

            Assert.True(sent < 64 * 1024 * 1024, "the server reads without end");
        }

        client.Socket.Blocking = true;
        for (var i = 0; i < sent / request.Length; i++)
        {
            Assert.Equal(200, client.ReadAnswer().Status);
        }
    }

    [Fact]
    public void Should_forget_clients_that_leave_in_the_middle()
    {
        using var vmm = new RunningVmm();
        foreach (var bytes in new[] { "", "GET /", "PUT /actions HTTP/1.1\r\nContent-Length: 10\r\n\r\n{", "GET /vm/config HTTP/1.1\r\n\r\n" })
        {
            for (var i = 0; i < 25; i++)
            {
                using var client = vmm.Connect();
                client.Send(bytes);
            }
        }

        Assert.True(SpinWait.SpinUntil(() => vmm.Request("GET", "/version").Status == 200, RunningVmm.Patience));
    }

    [Fact]
    public void Should_live_through_any_bytes()
    {
        using var vmm = new RunningVmm();
        var piece = Gen.OneOf(
            Gen.Byte.Array[0, 64],
            Any("GET ", "PUT ", "PATCH ", "/", "/machine-config", "/actions", " HTTP/1.1", "\r\n", "\r\n\r\n", "Content-Length: ", "17", "5", "0", Patch, "{", "\"", "Expect: 100-continue", ":", "\0", Request(Patch), "GET /vm/config HTTP/1.1\r\n\r\n")
                .Select(Encoding.Latin1.GetBytes));
        piece.Array[0, 12].Sample(
            pieces =>
            {
                using var client = vmm.Connect();
                try
                {
                    foreach (var bytes in pieces)
                    {
                        client.Send(bytes);
                    }

                    client.Socket.Shutdown(System.Net.Sockets.SocketShutdown.Send);
                    while (!client.IsEnded())
                    {
                        var (status, body) = client.ReadAnswer();
                        Assert.Contains(status, new[] { 100, 200, 204, 400 });
                        if (status == 400)
                        {
                            RunningVmm.FaultOf(body);
                        }
                    }
                }
                catch (System.Net.Sockets.SocketException gone) when (gone.SocketErrorCode is System.Net.Sockets.SocketError.Shutdown or System.Net.Sockets.SocketError.ConnectionReset)
                {
                    // Refused before everything was sent: EPIPE.
                }
            },
            iter: 2000, threads: 1);
        Assert.Equal(200, vmm.Request("GET", "/version").Status);
        Assert.DoesNotContain("Unexpected failure", File.ReadAllText(vmm.Log), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_live_through_any_body()
    {
        using var vmm = new RunningVmm();
        using var client = vmm.Connect();
        var token = Gen.OneOf(
            Any("{", "}", "[", "]", ":", ",", "null", "true", "-1", "1e999", "18446744073709551616", "\"\\ud800\"", "\"\\u0000\"", "\"state\"", "\"Paused\"", "\"vcpu_count\"", "\"action_type\"", "\"log_path\"", "\"properties\"", "\"metrics_path\"", "\n")
                .Select(Encoding.ASCII.GetBytes),
            Gen.Byte.Array[1, 4]);
        Gen.Select(Any("PUT /actions", "PUT /boot-source", "PUT /machine-config", "PATCH /machine-config", "PATCH /vm", "PUT /logger", "PUT /metrics", "PUT /fleet/status-port"), token.Array[1, 16])
            .Sample(
                (request, tokens) =>
                {
                    byte[] body = [.. tokens.SelectMany(t => t)];
                    client.Send([.. Encoding.ASCII.GetBytes($"{request} HTTP/1.1\r\nContent-Length: {body.Length}\r\n\r\n"), .. body]);
                    var (status, text) = client.ReadAnswer();
                    Assert.True(status == 204 || (status == 400 && RunningVmm.FaultOf(text).Length > 0));
                },
                iter: 5000, threads: 1);
        Assert.DoesNotContain("Unexpected failure", File.ReadAllText(vmm.Log), StringComparison.Ordinal);
    }

    private static Gen<string> Any(params string[] texts) => Gen.Int[0, texts.Length - 1].Select(i => texts[i]);

    private static string Request(string body) => $"PATCH /machine-config HTTP/1.1\r\nContent-Length: {body.Length}\r\n\r\n{body}";
}
