using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Shared.Access;
using Fleet.Shared.Contracts;
using Google.Protobuf;
using Grpc.Net.Client;

namespace Fleet.Scheduler.Tests.Access;

/// <summary>The port for agents as anybody may dial it: with any certificate, trusting whoever answers.</summary>
internal static class LinkClient
{
    public static GrpcChannel Open(IPEndPoint link, X509Certificate2? certificate = null)
    {
        var tls = CellTls.ToAnybody();
        if (certificate is not null)
            tls.LocalCertificateSelectionCallback = (_, _, _, _, _) => certificate;
        return GrpcChannel.ForAddress($"https://{link}", new GrpcChannelOptions
        {
            HttpHandler = new SocketsHttpHandler { UseProxy = false, SslOptions = tls },
            DisposeHttpClient = true,
        });
    }

    public static ECDsa NewKey() => ECDsa.Create(ECCurve.NamedCurves.nistP256);

    public static ByteString Request(ECDsa key) =>
        ByteString.CopyFrom(new CertificateRequest("CN=x", key, HashAlgorithmName.SHA256).CreateSigningRequest());

    /// <summary>A certificate with its key, or the code of the refusal.</summary>
    public static async Task<(X509Certificate2? Certificate, string Code)> EnrolAsync(IPEndPoint link, string token, string hostId, ECDsa? with = null)
    {
        using var channel = Open(link);
        using var own = with is null ? NewKey() : null;
        var key = with ?? own!;
        var reply = await new Enrolment.EnrolmentClient(channel).EnrolHostAsync(new EnrolHostRequest { Token = token, HostId = hostId, Key = Request(key) });
        if (reply.Refusal is { } refusal)
            return (null, refusal.Code);
        using var certificate = X509CertificateLoader.LoadCertificate(reply.Certificate.Span);
        return (certificate.CopyWithPrivateKey(key), "");
    }
}
