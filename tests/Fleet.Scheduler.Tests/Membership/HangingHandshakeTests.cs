using System.Net;
using System.Net.Sockets;
using Akka.Actor;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Tests;
using Xunit;

namespace Fleet.Scheduler.Tests.Membership;

/// <summary>
/// A node whose TLS handshake with a peer comes to nothing, because the peer's process or its network went in the middle of it, hears the peer's next process before its peers call it gone.
/// </summary>
public sealed class HangingHandshakeTests
{
    /// <summary>Akka.Remote puts off what comes in from an address while it still connects to it: by default for 15 s.</summary>
    private static readonly TimeSpan Limit = TimeSpan.FromSeconds(10);

    [Fact]
    public async Task Should_answer_a_peer_that_came_back_while_its_own_handshake_with_it_still_hung()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-handshake-");
        using var authority = CertificateAuthority.OpenOrCreate(folder.FullName);
        await using var node = await TestCell.StartAsync(options => options with { Authority = authority });
        var address = Akka.Cluster.Cluster.Get(node.System.ActorSystem).SelfAddress;
        var port = FreePort.Next();

        // The peer's former process takes the connection and never says a word.
        using var former = new TcpListener(IPAddress.Loopback, port);
        former.Start();
        node.System.ActorSystem.ActorSelection($"{address.WithPort(port)}/user").Tell("hello");
        using var silent = await former.AcceptTcpClientAsync();
        former.Stop();

        await using var peer = await TestCell.StartAsync(options => options with { Authority = authority, RemotingPort = port });
        var answer = await peer.System.ActorSystem.ActorSelection($"{address}/user").Ask<ActorIdentity>(new Identify(1), Limit);
        Assert.NotNull(answer.Subject);
        folder.Delete(recursive: true);
    }
}
