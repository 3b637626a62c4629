using System.Net;
using System.Net.Sockets;
using System.Security.Cryptography;
using System.Text;
using Fleet.Host.Networks;
using Serilog.Core;

namespace Fleet.Host.Tests.Networks;

/// <summary>The resolver on loopback, with a stand-in for the host's own behind it.</summary>
public sealed class TenantResolverTests : IAsyncLifetime
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(20);
    private readonly string _file = Path.GetTempFileName();
    private TenantResolver _resolver = null!;

    public Task InitializeAsync()
    {
        // Nobody is behind it: a name from outside can't be had.
        File.WriteAllText(_file, "# none\n");
        _resolver = TenantResolver.Start(new IPEndPoint(IPAddress.Loopback, 0), null, new Upstream(_file), Logger.None);
        var network = (IPNetwork.Parse("10.144.0.0/22"), IPNetwork.Parse("fd00:1:2::/64"));
        _resolver.Know([new Attachment("vm", "acme", "web", network.Item1, network.Item2, 2, [])]);
        return Task.CompletedTask;
    }

    public async Task DisposeAsync()
    {
        await _resolver.DisposeAsync();
        File.Delete(_file);
    }

    [Theory]
    [InlineData("web", 1, 0, "10.144.0.2")]
    [InlineData("WEB.Fleet", 1, 0, "10.144.0.2")]
    [InlineData("web", 28, 0, "fd00:1:2::2")]
    [InlineData("web.fleet", 16, 0, null)]
    [InlineData("nobody", 1, 3, null)]
    [InlineData("nobody.fleet", 1, 3, null)]
    [InlineData("a.web.fleet", 1, 3, null)]
    [InlineData("fleet", 1, 0, null)]
    [InlineData("example.org", 1, 2, null)]
    public async Task Should_know_its_own_and_nobody_else(string name, ushort type, int code, string? address)
    {
        var query = Query(name, type);
        var answer = await AskAsync(query);

        Assert.Equal(query[..2], answer[..2]);
        Assert.Equal((0x80, code), (answer[2] & 0x80, answer[3] & 0x0f));
        Assert.Equal(query[12..], answer[12..query.Length]);
        Assert.Equal(address is null ? 0 : 1, answer[7]);
        Assert.Equal(address, address is null ? null : new IPAddress(answer[(query.Length + 12)..]).ToString());
    }

    [Fact]
    public async Task Should_answer_over_a_stream_too()
    {
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Stream, ProtocolType.Tcp);
        await socket.ConnectAsync(_resolver.EndPoint);
        await using var stream = new NetworkStream(socket);
        using var limit = new CancellationTokenSource(Soon);
        for (var i = 0; i < 2; i++)
        {
            await Upstream.WriteAsync(stream, Query("web", 1), limit.Token);
            Assert.Equal("10.144.0.2", new IPAddress((await Upstream.ReadAsync(stream, limit.Token))![^4..]).ToString());
        }
    }

    [Fact]
    public void Should_survive_whatever_it_is_sent()
    {
        for (var i = 0; i < 20_000; i++)
        {
            var message = i % 2 == 0 ? RandomNumberGenerator.GetBytes(RandomNumberGenerator.GetInt32(64)) : Query("web.fleet", 1);
            if (i % 2 == 1)
                message[RandomNumberGenerator.GetInt32(message.Length)] = (byte)RandomNumberGenerator.GetInt32(256);
            if (DnsMessage.Parse(message) is { } question)
                Assert.InRange(question.Length, DnsMessage.HeaderSize + 5, message.Length);
        }

        // A label that never ends, one that points at itself, a response, two questions.
        var endless = Query("web", 1);
        endless[12] = 63;
        var pointer = Query("web", 1);
        pointer[12] = 0xc0;
        var response = Query("web", 1);
        response[2] |= 0x80;
        var two = Query("web", 1);
        two[5] = 2;
        Assert.All([endless, pointer, response, two, Query("web", 1)[..^1]], message => Assert.Null(DnsMessage.Parse(message)));
    }

    [Fact]
    public async Task Should_pass_on_what_is_not_its_own_and_believe_only_the_answer_to_that()
    {
        using var host = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        host.Bind(new IPEndPoint(IPAddress.Loopback, 0));
        var upstream = new Upstream(new IPEndPoint(IPAddress.Loopback, ((IPEndPoint)host.LocalEndPoint!).Port));
        var query = Query("example.org", 1);
        var question = DnsMessage.Parse(query)!.Value;
        var asking = upstream.AskAsync(query, question, byStream: false, default);
        var buffer = new byte[512];
        var got = await host.ReceiveFromAsync(buffer, new IPEndPoint(IPAddress.Any, 0)).WaitAsync(Soon);
        var asked = buffer[..got.ReceivedBytes];

        Assert.Equal(query[12..], asked[12..]);
        var forged = DnsMessage.Answer(asked, question, DnsMessage.NoError, IPAddress.Parse("6.6.6.6"));
        forged[0] ^= 0xff;
        var other = DnsMessage.Answer(Query("example.com", 1), DnsMessage.Parse(Query("example.com", 1))!.Value, DnsMessage.NoError, IPAddress.Parse("6.6.6.6"));
        asked.AsSpan(0, 2).CopyTo(other);
        var real = DnsMessage.Answer(asked, question, DnsMessage.NoError, IPAddress.Parse("192.0.2.7"));
        foreach (var answer in (byte[][])[forged, other, real])
            await host.SendToAsync(answer, got.RemoteEndPoint);
        var told = (await asking.WaitAsync(Soon))!;
        Assert.Equal((query[0], query[1], "192.0.2.7"), (told[0], told[1], new IPAddress(told[^4..]).ToString()));
    }

    [Fact]
    public void Should_know_the_hosts_resolvers()
    {
        File.WriteAllText(_file, "search a\nnameserver 192.0.2.3\n# nameserver 192.0.2.4\nnameserver\tnonsense\nnameserver fd00::1\nnameserver 192.0.2.5\n");
        Assert.Equal(["192.0.2.3:53", "[fd00::1]:53"], new Upstream(_file).Servers().Select(one => one.ToString()));
        Assert.Empty(new Upstream("/nonexistent").Servers());
    }

    private async Task<byte[]> AskAsync(byte[] query)
    {
        using var socket = new Socket(AddressFamily.InterNetwork, SocketType.Dgram, ProtocolType.Udp);
        await socket.ConnectAsync(_resolver.EndPoint);
        await socket.SendAsync(query);
        var buffer = new byte[512];
        return buffer[..await socket.ReceiveAsync(buffer).WaitAsync(Soon)];
    }

    private static byte[] Query(string name, ushort type)
    {
        var message = new List<byte> { 0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0 };
        foreach (var label in name.Split('.'))
        {
            message.Add((byte)label.Length);
            message.AddRange(Encoding.ASCII.GetBytes(label));
        }

        message.AddRange([0, (byte)(type >> 8), (byte)type, 0, 1]);
        return [.. message];
    }
}
