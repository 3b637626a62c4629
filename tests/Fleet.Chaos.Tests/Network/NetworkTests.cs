using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Sockets;
using Fleet.Chaos.Network;
using Xunit;

namespace Fleet.Chaos.Tests.Network;

/// <summary>Two networks and the switch between them, with real sockets.</summary>
[Collection("Networks")]
public sealed class NetworkTests : IDisposable
{
    private const string A = "10.72.0.1";
    private const string B = "10.72.0.2";

    private readonly List<NetworkNamespace> _networks = [];
    private PacketSwitch? _switch;

    public void Dispose()
    {
        _switch?.Dispose();
        _networks.ForEach(network => network.Dispose());
    }

    private void Build()
    {
        Skip.IfNot(NetworkNamespace.IsPossible, "needs root and /dev/net/tun");
        _networks.Add(NetworkNamespace.Create("a", A));
        _networks.Add(NetworkNamespace.Create("b", B));
        _switch = new PacketSwitch([(A, _networks[0].Tun), (B, _networks[1].Tun)]);
    }

    private async Task<(Socket Client, Socket Server)> ConnectAsync()
    {
        using var listener = _networks[1].OpenSocket();
        listener.Bind(new IPEndPoint(IPAddress.Parse(B), 0));
        listener.Listen();
        var client = _networks[0].OpenSocket();
        await client.ConnectAsync(listener.LocalEndPoint!);
        return (client, await listener.AcceptAsync());
    }

    private static async Task<bool> ArrivesAsync(Socket from, Socket to, TimeSpan patience)
    {
        using var over = new CancellationTokenSource(patience);
        await from.SendAsync(new byte[] { 1 });
        try
        {
            return await to.ReceiveAsync(new byte[1], over.Token) == 1;
        }
        catch (OperationCanceledException)
        {
            return false;
        }
    }

    [SkippableFact]
    public async Task Should_carry_what_is_sent_and_nothing_over_a_way_that_is_cut()
    {
        Build();
        var (client, server) = await ConnectAsync();
        using (client)
        using (server)
        {
            Assert.True(await ArrivesAsync(client, server, TimeSpan.FromSeconds(10)));
            Assert.True(await ArrivesAsync(server, client, TimeSpan.FromSeconds(10)));
            // One way: what is sent arrives still, what is answered does not.
            _switch!.Set(1, 0, new Way(Cut: true));
            Assert.True(await ArrivesAsync(client, server, TimeSpan.FromSeconds(10)));
            Assert.False(await ArrivesAsync(server, client, TimeSpan.FromMilliseconds(500)));
            // TCP sends again what was lost.
            _switch.Set(1, 0, default);
            Assert.Equal(1, await client.ReceiveAsync(new byte[1]).WaitAsync(TimeSpan.FromSeconds(20)));
        }
    }

    [SkippableFact]
    public async Task Should_carry_every_byte_in_spite_of_delay_loss_and_packets_that_come_twice()
    {
        Build();
        var (client, server) = await ConnectAsync();
        using (client)
        using (server)
        {
            _switch!.Set(0, 1, new Way(DelayMs: 20, JitterMs: 20, Loss: 0.02, Twice: 0.1));
            var clock = Stopwatch.StartNew();
            Assert.True(await ArrivesAsync(client, server, TimeSpan.FromSeconds(10)));
            Assert.True(clock.ElapsedMilliseconds >= 20, $"it took {clock.ElapsedMilliseconds} ms");
            var sent = new byte[300_000];
            Random.Shared.NextBytes(sent);
            var sending = client.SendAsync(sent);
            var got = new byte[sent.Length];
            await using var stream = new NetworkStream(server);
            await stream.ReadExactlyAsync(got).AsTask().WaitAsync(TimeSpan.FromSeconds(60));
            await sending;
            Assert.Equal(sent, got);
        }
    }

    [SkippableFact]
    public void Should_take_away_what_a_dead_harness_left_and_nothing_of_the_living()
    {
        Build();
        // The number of a process that has ended.
        using var ended = Process.Start("true");
        ended.WaitForExit();
        var name = string.Create(CultureInfo.InvariantCulture, $"fleet-chaos-{ended.Id}-left");
        Kernel.Run("ip", "netns", "add", name);
        using var stray = Process.Start("nsenter", [$"--net=/run/netns/{name}", "--", "sleep", "1000"]);
        NetworkNamespace.CleanUp();
        Assert.True(stray.WaitForExit(TimeSpan.FromSeconds(20)));
        Assert.False(File.Exists($"/run/netns/{name}"));
        Assert.All(_networks, network => Assert.True(File.Exists($"/run/netns/{network.Name}")));
    }
}
