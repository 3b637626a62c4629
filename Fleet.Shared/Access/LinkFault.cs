using System.Net.Http;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using Grpc.Core;

namespace Fleet.Shared.Access;

/// <summary>Why a call over the link to a node failed, in words for a person.</summary>
public static class LinkFault
{
    /// <summary>What went wrong, without a full stop.</summary>
    /// <param name="failed">As the call threw it.</param>
    public static string Describe(RpcException failed)
    {
        ArgumentNullException.ThrowIfNull(failed);
        if (IsNoLink(failed))
            return "what answers there is no link port, but perhaps that of an API. Give the address that the nodes have as --link (port 7071 unless set otherwise)";
        // The status has its own words for all of them; what was really wrong stands innermost.
        var cause = Causes(failed).LastOrDefault(static fault => fault is SocketException or AuthenticationException);
        if (cause is AuthenticationException && cause.Message.Contains(nameof(SslClientAuthenticationOptions.RemoteCertificateValidationCallback), StringComparison.Ordinal))
            return "what answers there shows no certificate of the authority that was joined: it is of another cell, of one that was given another authority (then join anew, with a new token), or the clocks differ";
        return (cause?.Message ?? failed.InnerException?.InnerException?.Message ?? (failed.Status.Detail.Length > 0 ? failed.Status.Detail : failed.StatusCode.ToString())).TrimEnd('.');
    }

    /// <summary>Whether somebody is there who does not speak as a link does: no TLS, or no HTTP/2 in it.</summary>
    public static bool IsNoLink(RpcException failed)
    {
        ArgumentNullException.ThrowIfNull(failed);
        var causes = Causes(failed).ToList();
        if (causes.OfType<HttpRequestException>().Any(static fault => fault.HttpRequestError is HttpRequestError.VersionNegotiationError or HttpRequestError.HttpProtocolError or HttpRequestError.InvalidResponse))
            return true;
        // .NET has no code for a handshake that fails because the other side answers in clear text, or takes no HTTP/2: but a
        // handshake that fails otherwise does so for a certificate, and says that.
        return causes.Exists(static fault => fault is AuthenticationException)
            && !causes.Exists(static fault => fault.Message.Contains("certificate", StringComparison.OrdinalIgnoreCase));
    }

    private static IEnumerable<Exception> Causes(RpcException failed)
    {
        for (var fault = failed.InnerException ?? failed.Status.DebugException; fault is not null; fault = fault.InnerException)
            yield return fault;
    }
}
