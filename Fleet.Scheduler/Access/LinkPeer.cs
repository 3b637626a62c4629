using Fleet.Shared.Access;
using Grpc.Core;
using Microsoft.AspNetCore.Http;

namespace Fleet.Scheduler.Access;

/// <summary>Who dialled, by the certificate of the connection; noted once for each call, for the services behind the port.</summary>
internal static class LinkPeer
{
    /// <summary>Where a call carries it: the items of the request, which gRPC calls the user state.</summary>
    public const string Key = "fleet-link-peer";

    private static readonly CertificateVerdict Nobody = new(null, "certificate_missing", "No certificate was shown.");

    public static void Note(HttpContext http, NodeTrust trust) =>
        http.Items[Key] = trust.Identify(http.Connection.ClientCertificate, CertificateRole.Host);

    public static CertificateVerdict Of(ServerCallContext context) =>
        context.UserState.TryGetValue(Key, out var noted) && noted is CertificateVerdict verdict ? verdict : Nobody;
}
