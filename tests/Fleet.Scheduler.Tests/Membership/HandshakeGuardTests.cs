using System.Net;
using System.Net.Sockets;
using Akka.Actor;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Shared.Contracts;
using Serilog;
using Xunit;

namespace Fleet.Scheduler.Tests.Membership;

/// <summary>A peer that goes in the middle of a TLS handshake takes no other node along.</summary>
public sealed class HandshakeGuardTests
{
    [Theory]
    [InlineData(false)]
    [InlineData(true)]
    public async Task Should_stay_when_a_handshake_fails_and_leave_in_order_later(bool asMember)
    {
        var folder = Directory.CreateTempSubdirectory("fleet-handshake-");
        using var authority = CertificateAuthority.OpenOrCreate(folder.FullName);
        var seen = new Collector();
        using var log = new LoggerConfiguration().WriteTo.Sink(seen).CreateLogger();
        await using var cell = await TestCell.StartAsync(options => options with { Authority = authority, Log = log });

        using var peer = new TcpListener(IPAddress.Loopback, 0);
        peer.Start();
        var hangsUp = HangUpAsync(peer);
        cell.System.ActorSystem.ActorSelection($"akka.ssl.tcp://fleet@127.0.0.1:{((IPEndPoint)peer.LocalEndpoint).Port}/user/nobody").Tell("hello");
        await Eventually.TrueAsync(() => seen.Lines.Any(line => line.Contains("CoordinatedShutdown invoked", StringComparison.Ordinal)));

        // A node that leaves has no shard regions any more.
        Assert.False(cell.System.ActorSystem.WhenTerminated.IsCompleted);
        await using var agent = new FakeAgent("rack1-7");
        await agent.ConnectAsync(cell.System.HostLink);
        await cell.WaitAsync(await cell.CreateAsync(), VmState.Running);

        if (asMember)
        {
            var cluster = Akka.Cluster.Cluster.Get(cell.System.ActorSystem);
            cluster.Leave(cluster.SelfAddress);
            await cell.System.ActorSystem.WhenTerminated.WaitAsync(TimeSpan.FromSeconds(30));
        }
        await cell.System.DisposeAsync();
        Assert.True(cell.System.ActorSystem.WhenTerminated.IsCompleted);
        peer.Stop();
        await hangsUp;
        folder.Delete(recursive: true);
    }

    private static async Task HangUpAsync(TcpListener peer)
    {
        try
        {
            while (true)
                (await peer.AcceptTcpClientAsync()).Dispose();
        }
        catch (Exception over) when (over is SocketException or ObjectDisposedException)
        {
            // The test is over.
        }
    }
}
