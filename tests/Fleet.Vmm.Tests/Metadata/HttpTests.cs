using System.Text;
using Fleet.Vmm.Metadata;
using Xunit;

namespace Fleet.Vmm.Tests.Metadata;

/// <summary>What a guest asks and hears, without the network between.</summary>
public class HttpTests
{
    private const string Token = "PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n";

    [Theory]
    [InlineData("GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\n", "text/plain", "ami-1")]
    [InlineData("GET http://169.254.169.254/latest HTTP/1.0\r\nAccept: */*\r\n\r\n", "text/plain", "meta-data/\nuser-data")]
    [InlineData("GET /latest/meta-data/ami-id HTTP/1.1\r\nHost: x\r\nACCEPT: text/html, application/json;q=0.5\r\n\r\n", "application/json", "\"ami-1\"")]
    [InlineData("GET /latest/meta-data/n HTTP/1.1\r\nAccept: application/json\r\n\r\n", "application/json", "43")]
    [InlineData("GET /latest/meta-data/ami-id HTTP/1.1\r\nX-metadata-token: nonsense\r\nContent-Length: 3\r\n\r\nabc", "text/plain", "ami-1")]
    public void Should_tell_what_is_there(string request, string type, string body)
    {
        var answer = new Service().Ask(request);
        Assert.Equal((200, body), (answer.Status, answer.Body));
        Assert.Contains($"Content-Type: {type}\r\nContent-Length: {body.Length}", answer.Head, StringComparison.Ordinal);
        Assert.Contains(request.Contains("1.0", StringComparison.Ordinal) ? "Connection: close" : "Connection: keep-alive", answer.Head, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("GET /nowhere HTTP/1.1\r\n\r\n", 404, "Resource not found: /nowhere.")]
    [InlineData("GET /latest/meta-data/n HTTP/1.1\r\n\r\n", 501, "Cannot retrieve value. The value has an unsupported type.")]
    [InlineData("GET /latest/meta-data/list/ HTTP/1.1\r\n\r\n", 501, "Cannot retrieve value. The value has an unsupported type.")]
    [InlineData("HEAD / HTTP/1.1\r\n\r\n", 405, "Not allowed HTTP method.")]
    [InlineData("PATCH / HTTP/1.1\r\n\r\n", 405, "Not allowed HTTP method.")]
    [InlineData("PUT /latest/api/token2 HTTP/1.1\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n", 404, "Resource not found: /latest/api/token2.")]
    [InlineData("PUT /latest/api/token HTTP/1.1\r\n\r\n", 400, "Token time to live value not found. Use `X-metadata-token-ttl-seconds` or `X-aws-ec2-metadata-token-ttl-seconds` header to specify the token's lifetime.")]
    [InlineData("PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 0\r\n\r\n", 400, "Invalid time to live value provided for token: 0. Please provide a value between 1 and 21600.")]
    [InlineData("PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 21601\r\n\r\n", 400, "Invalid time to live value provided for token: 21601. Please provide a value between 1 and 21600.")]
    [InlineData("PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: 4294967297\r\n\r\n", 400, "Invalid header. Reason: Invalid value. Key:X-metadata-token-ttl-seconds; Value:4294967297")]
    [InlineData("PUT /latest/api/token HTTP/1.1\r\nX-metadata-token-ttl-seconds: -1\r\n\r\n", 400, "Invalid header. Reason: Invalid value. Key:X-metadata-token-ttl-seconds; Value:-1")]
    [InlineData("PUT /latest/api/token HTTP/1.1\r\nx-forwarded-for: 1.2.3.4\r\nX-metadata-token-ttl-seconds: 60\r\n\r\n", 400, "Invalid header. Reason: Unsupported header name. Key: x-forwarded-for")]
    [InlineData("rubbish\r\n\r\n", 400, "Invalid request.")]
    [InlineData("GET http:// HTTP/1.1\r\n\r\n", 400, "Invalid URI.")]
    [InlineData("GET x HTTP/1.1\r\n\r\n", 400, "Invalid URI.")]
    [InlineData("GET / HTTP/2.0\r\n\r\n", 400, "Invalid HTTP Version: Unsupported HTTP version.")]
    [InlineData("GET / HTTP/1.1\r\nA b: c\r\n\r\n", 400, "Invalid header. Reason: Header is incorrectly formatted.")]
    [InlineData("GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "Invalid header. Reason: Unsupported feature. Key: Transfer-Encoding; Value: chunked")]
    [InlineData("GET / HTTP/1.1\r\nContent-Length: 5000\r\n\r\n", 400, "The request is larger than the limit of 4096 bytes.")]
    [InlineData("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, "Invalid header. Reason: Invalid value. Key:Content-Length; Value:2")]
    public void Should_say_what_is_wrong(string request, int status, string body)
    {
        var answer = new Service().Ask(request);
        Assert.Equal((status, body), (answer.Status, answer.Body));
        Assert.Contains("Content-Type: text/plain", answer.Head, StringComparison.Ordinal);
        if (status == 405)
        {
            Assert.Contains("\r\nAllow: GET, PUT\r\n", answer.Head, StringComparison.Ordinal);
            Assert.Contains("Connection: close", answer.Head, StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Should_refuse_a_request_that_does_not_end()
    {
        var answer = new Service().Ask(new string('A', MetadataService.LargestRequest));
        Assert.Equal((400, "The request is larger than the limit of 4096 bytes."), (answer.Status, answer.Body));
        Assert.False(new Service().Metadata.TryAnswer(Encoding.ASCII.GetBytes("GET / HTTP/1.1\r\nA: b\r\n"), out _));
        Assert.False(new Service().Metadata.TryAnswer(Encoding.ASCII.GetBytes("GET / HTTP/1.1\r\nContent-Length: 2\r\n\r\na"), out _));
    }

    [Fact]
    public void Should_want_a_token_that_is_its_own_and_young_enough()
    {
        var service = new Service(needsToken: true);
        const string NoToken = "No MMDS token provided. Use `X-metadata-token` or `X-aws-ec2-metadata-token` header to specify the session token.";
        Assert.Equal((401, NoToken), Get(service, null));
        Assert.Equal((401, "MMDS token not valid."), Get(service, new string('0', 64)));
        var (status, head, token) = service.Ask(Token);
        Assert.Equal(200, status);
        Assert.Contains("X-metadata-token-ttl-seconds: 60\r\n", head, StringComparison.Ordinal);
        Assert.Equal((200, "ami-1"), Get(service, token));
        Assert.Equal((200, "ami-1"), Get(service, token, "x-AWS-ec2-metadata-token"));
        Assert.Equal(401, Get(new Service(needsToken: true), token).Status);
        for (var i = 0; i < token.Length; i++)
        {
            var changed = token.ToCharArray();
            changed[i] = changed[i] == '0' ? '1' : '0';
            Assert.Equal(401, Get(service, new string(changed)).Status);
        }

        Assert.Equal(401, Get(service, token + "0").Status);
        Assert.Equal(401, Get(service, token.ToUpperInvariant()).Status);
        service.Clock.Now += TimeSpan.FromSeconds(59.9);
        Assert.Equal((200, "ami-1"), Get(service, token));
        service.Clock.Now += TimeSpan.FromSeconds(0.1);
        Assert.Equal((401, "MMDS token not valid."), Get(service, token));
        Assert.Equal(1ul, service.Count(MetadataCount.NoToken));
    }

    [Fact]
    public void Should_not_know_another_services_tokens()
    {
        var other = new Service(needsToken: true);
        _ = other.Ask(Token);
        Assert.Equal(401, Get(other, new Service(needsToken: true).Ask(Token).Body).Status);
    }

    [Fact]
    public void Should_tell_nothing_but_text_where_that_is_configured()
    {
        var answer = new Service(alwaysText: true).Ask("GET /latest/ HTTP/1.1\r\nAccept: application/json\r\n\r\n");
        Assert.Equal((200, "meta-data/\nuser-data"), (answer.Status, answer.Body));
    }

    [Fact]
    public void Should_find_nothing_before_the_host_put_something() =>
        Assert.Equal(404, new Service(document: null).Ask("GET / HTTP/1.1\r\n\r\n").Status);

    [Fact]
    public void Should_not_hold_more_answers_than_fit()
    {
        var service = new Service(document: $"\"{new string('x', 50000)}\"");
        var request = "GET / HTTP/1.1\r\n\r\n"u8.ToArray();
        List<MetadataAnswer> held = [];
        do
        {
            Assert.True(service.Metadata.TryAnswer(request, out var answer));
            held.Add(answer);
        }
        while (held[^1].Bytes[9] == '2');
        Assert.Equal(6, held.Count);
        Assert.StartsWith("HTTP/1.1 503 ", Encoding.ASCII.GetString(held[^1].Bytes), StringComparison.Ordinal);
        held.ForEach(answer => service.Metadata.Release(answer.Bytes));
        Assert.Equal(200, service.Ask("GET / HTTP/1.1\r\n\r\n").Status);
    }

    private static (int Status, string Body) Get(Service service, string? token, string header = "X-metadata-token")
    {
        var (status, _, body) = service.Ask($"GET /latest/meta-data/ami-id HTTP/1.1\r\n{(token is null ? "" : $"{header}: {token}\r\n")}\r\n");
        return (status, body);
    }
}
