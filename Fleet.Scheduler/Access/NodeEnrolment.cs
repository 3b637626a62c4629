using System.Security.Cryptography.X509Certificates;
using Fleet.Scheduler.Node;
using Fleet.Shared.Access;
using Fleet.Shared.Contracts;
using Grpc.Core;
using Grpc.Net.Client;

namespace Fleet.Scheduler.Access;

/// <summary>Gets a control-plane node into a cell: it takes over the cell's authority from a node that is there.</summary>
public static class NodeEnrolment
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(15);

    /// <summary>Joins, unless the folder has the authority of that cell already; a damaged one is replaced. Finds by the token's pin that the server is the right one, and only then shows the token.</summary>
    /// <param name="link">Where a node of the cell takes agents: <c>https://ADDRESS:PORT</c>.</param>
    /// <param name="token">Of role scheduler.</param>
    /// <param name="folder">Keeps the authority: <see cref="SchedulerOptions.AuthorityDirectory"/>.</param>
    /// <param name="cancellation">Ends the try.</param>
    /// <exception cref="SchedulerStartException">Refused, nobody there, or the folder holds another cell's authority.</exception>
    public static async Task JoinAsync(Uri link, string? token, string folder, CancellationToken cancellation)
    {
        if (token is null)
        {
            // Needed the first time only: a unit file without one must not keep the node from starting again.
            if (CertificateAuthority.Exists(folder))
                return;
            throw new SchedulerStartException("To join a cell a node needs a token: fleet token create --role scheduler, then start it with that in FLEET_TOKEN.");
        }
        if (AccessToken.Parse(token) is not { } parsed)
            throw new SchedulerStartException("That is no token: it looks like fleet.ID.SECRET.PIN. Make one with: fleet token create --role scheduler");
        if (CertificateAuthority.Exists(folder) && !CertificateAuthority.IsDamaged(folder))
        {
            using var there = CertificateAuthority.OpenOrCreate(folder);
            if (there.Pin != parsed.Pin)
                throw new SchedulerStartException($"{folder} holds the authority of another cell than the token's. A node belongs to one cell for its life: use a data directory of its own.");
            return;
        }
        try
        {
            using var root = await ReadAuthorityAsync(link, parsed.Pin, cancellation);
            using var channel = Channel(link, CellTls.To(root, TimeProvider.System));
            var reply = await new Enrolment.EnrolmentClient(channel).EnrolSchedulerAsync(
                new EnrolSchedulerRequest { Token = token }, deadline: DateTime.UtcNow + Patience, cancellationToken: cancellation);
            if (reply.BodyCase != EnrolSchedulerReply.BodyOneofCase.Authority)
                throw new SchedulerStartException($"The cell at {link} did not let this node in: {reply.Refusal?.Message}") { Code = reply.Refusal?.Code };
            CertificateAuthority.Import(folder, reply.Authority).Dispose();
        }
        catch (RpcException failed) when (!cancellation.IsCancellationRequested)
        {
            throw new SchedulerStartException($"No node of a cell answers at {link}: {LinkFault.Describe(failed)}.", failed);
        }
    }

    private static async Task<X509Certificate2> ReadAuthorityAsync(Uri link, string pin, CancellationToken cancellation)
    {
        using var channel = Channel(link, CellTls.ToAnybody());
        var answer = await new Enrolment.EnrolmentClient(channel).ReadAuthorityAsync(
            new ReadAuthorityRequest(), deadline: DateTime.UtcNow + Patience, cancellationToken: cancellation);
        return NodeTrust.Pinned(answer.Certificate.Span, pin)
            ?? throw new SchedulerStartException($"What answers at {link} is not of the cell that made this token. Check the address; nothing was sent to it.");
    }

    private static GrpcChannel Channel(Uri link, System.Net.Security.SslClientAuthenticationOptions tls) => GrpcChannel.ForAddress(link, new GrpcChannelOptions
    {
        MaxReceiveMessageSize = 64 * 1024,
        HttpHandler = new SocketsHttpHandler { UseProxy = false, ConnectTimeout = TimeSpan.FromSeconds(5), SslOptions = tls },
        DisposeHttpClient = true,
    });
}
