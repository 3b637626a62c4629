using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Shared.Access;
using Fleet.Shared.Contracts;
using Fleet.Shared.Files;
using Google.Protobuf;
using Grpc.Core;
using Grpc.Net.Client;

namespace Fleet.Host.Link;

/// <summary>Gets a host into a cell by a token, and keeps its certificate young.</summary>
public static class HostEnrolment
{
    private const string KeyFile = "joining.key";
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(15);

    /// <summary>
    /// Joins: finds by the token's pin that the server is the right one, and only then shows the token. The key is on the disk before
    /// it is sent, so that a try whose answer got lost can be made again.
    /// </summary>
    /// <param name="link">Where the control plane takes agents: <c>https://ADDRESS:PORT</c>.</param>
    /// <param name="token">Of role host.</param>
    /// <param name="hostId">Who this is.</param>
    /// <param name="folder">Keeps the credentials.</param>
    /// <param name="clock">What time it is.</param>
    /// <param name="cancellation">Ends the try.</param>
    /// <exception cref="LinkException">Refused, or nobody there (<c>unreachable</c>: trying again may help).</exception>
    public static async Task<LinkCredentials> JoinAsync(Uri link, string token, string hostId, string folder, TimeProvider clock, CancellationToken cancellation)
    {
        if (AccessToken.Parse(token) is not { } parsed)
            throw new LinkException("token_malformed", "That is no token: it looks like fleet.ID.SECRET.PIN. Make one with: fleet token create --role host");
        var authority = await ReadAuthorityAsync(link, parsed.Pin, cancellation).ConfigureAwait(false);
        using var key = KeyOf(folder);
        using var channel = Channel(link, CellTls.To(authority, clock));
        var reply = await CallAsync(link, () => new Enrolment.EnrolmentClient(channel).EnrolHostAsync(
            new EnrolHostRequest { Token = token, HostId = hostId, Key = Request(key) }, deadline: Deadline(), cancellationToken: cancellation).ResponseAsync, cancellation).ConfigureAwait(false);
        var credentials = LinkCredentials.Of(folder, authority, Granted(reply, key), parsed.Id);
        File.Delete(Path.Combine(folder, KeyFile));
        return credentials;
    }

    /// <summary>Looks whether a node of that cell takes hosts there. Shows nothing.</summary>
    /// <param name="link">Where: <c>https://ADDRESS:PORT</c>.</param>
    /// <param name="pin">Of the cell's root.</param>
    /// <param name="cancellation">Ends the look.</param>
    /// <exception cref="LinkException"><c>unreachable</c>, <c>no_link_port</c>, or <c>wrong_cell</c>.</exception>
    public static async Task CheckAsync(Uri link, string pin, CancellationToken cancellation) =>
        (await ReadAuthorityAsync(link, pin, cancellation).ConfigureAwait(false)).Dispose();

    /// <summary>Fetches a new certificate with a new key, by the one that there is.</summary>
    /// <exception cref="LinkException">As for joining.</exception>
    public static async Task RenewAsync(Uri link, LinkCredentials credentials, TimeProvider clock, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(credentials);
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using var channel = Channel(link, CellTls.To(credentials.Authority, clock, () => credentials.Certificate));
        var reply = await CallAsync(link, () => new Enrolment.EnrolmentClient(channel).RenewHostAsync(
            new RenewHostRequest { Key = Request(key) }, deadline: Deadline(), cancellationToken: cancellation).ResponseAsync, cancellation).ConfigureAwait(false);
        credentials.Replace(Granted(reply, key));
    }

    private static async Task<X509Certificate2> ReadAuthorityAsync(Uri link, string pin, CancellationToken cancellation)
    {
        using var channel = Channel(link, CellTls.ToAnybody());
        var answer = await CallAsync(link, () => new Enrolment.EnrolmentClient(channel).ReadAuthorityAsync(
            new ReadAuthorityRequest(), deadline: Deadline(), cancellationToken: cancellation).ResponseAsync, cancellation).ConfigureAwait(false);
        return NodeTrust.Pinned(answer.Certificate.Span, pin)
            ?? throw new LinkException("wrong_cell", $"What answers at {link} is not the control plane that made this token. Check the address; nothing was sent to it.");
    }

    private static X509Certificate2 Granted(EnrolHostReply reply, ECDsa key)
    {
        if (reply.BodyCase == EnrolHostReply.BodyOneofCase.Refusal)
            throw new LinkException(reply.Refusal.Code, reply.Refusal.Message);
        try
        {
            using var certificate = X509CertificateLoader.LoadCertificate(reply.Certificate.Span);
            return certificate.CopyWithPrivateKey(key);
        }
        catch (Exception wrong) when (wrong is CryptographicException or ArgumentException)
        {
            throw new LinkException("wrong_cell", "The control plane answered with something that is no certificate for this host's key.", wrong);
        }
    }

    private static async Task<T> CallAsync<T>(Uri link, Func<Task<T>> call, CancellationToken cancellation)
    {
        try
        {
            return await call().ConfigureAwait(false);
        }
        catch (RpcException failed) when (!cancellation.IsCancellationRequested)
        {
            throw new LinkException(LinkFault.IsNoLink(failed) ? "no_link_port" : "unreachable", $"No control plane takes hosts at {link}: {LinkFault.Describe(failed)}.", failed);
        }
        catch (RpcException) when (cancellation.IsCancellationRequested)
        {
            throw new OperationCanceledException(cancellation);
        }
    }

    private static GrpcChannel Channel(Uri link, System.Net.Security.SslClientAuthenticationOptions tls) => GrpcChannel.ForAddress(link, new GrpcChannelOptions
    {
        MaxReceiveMessageSize = 64 * 1024,
        HttpHandler = new SocketsHttpHandler { UseProxy = false, ConnectTimeout = TimeSpan.FromSeconds(5), SslOptions = tls },
        DisposeHttpClient = true,
    });

    private static DateTime Deadline() => DateTime.UtcNow + Patience;

    private static ByteString Request(ECDsa key) =>
        ByteString.CopyFrom(new CertificateRequest("CN=fleet", key, HashAlgorithmName.SHA256).CreateSigningRequest());

    private static ECDsa KeyOf(string folder)
    {
        var file = Path.Combine(folder, KeyFile);
        var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        if (!File.Exists(file))
        {
            OwnFile.Write(file, key.ExportPkcs8PrivateKeyPem() + "\n");
            return key;
        }
        try
        {
            key.ImportFromPem(File.ReadAllText(file));
        }
        catch (Exception damaged) when (damaged is CryptographicException or ArgumentException)
        {
            OwnFile.Write(file, key.ExportPkcs8PrivateKeyPem() + "\n");
        }
        return key;
    }
}
