using System.Net.Security;
using System.Security.Cryptography.X509Certificates;

namespace Fleet.Shared.Access;

/// <summary>The client's side of TLS with a node of a cell.</summary>
public static class CellTls
{
    /// <summary>Connects to scheduler nodes of that cell and to nothing else.</summary>
    /// <param name="authority">The cell's root.</param>
    /// <param name="clock">What time it is.</param>
    /// <param name="certificate">Asked at each handshake for what to show; null: nothing is shown.</param>
    public static SslClientAuthenticationOptions To(X509Certificate2 authority, TimeProvider clock, Func<X509Certificate2>? certificate = null)
    {
        var trust = new NodeTrust(authority, clock);
        return Options(authority, (_, shown, _, _) => trust.IsSchedulerNode(shown as X509Certificate2), certificate);
    }

    /// <summary>
    /// Connects to whoever is there: only to ask for the root, which counts when its hash is the one that a token has. Nothing
    /// secret may be sent.
    /// </summary>
#pragma warning disable CA5359 // On purpose: what comes of it counts only by its hash.
    public static SslClientAuthenticationOptions ToAnybody() => Options(null, static (_, _, _, _) => true, null);
#pragma warning restore CA5359

    private static SslClientAuthenticationOptions Options(X509Certificate2? root, RemoteCertificateValidationCallback validate, Func<X509Certificate2>? certificate) => new()
    {
        RemoteCertificateValidationCallback = validate,
        LocalCertificateSelectionCallback = certificate is null ? null : (_, _, _, _, _) => certificate(),
        // The callback decides; what is done before it must not reach out by what a stranger's certificate names.
        CertificateChainPolicy = Policy(root),
    };

    /// <summary>What a handshake may look at before its callback decides: nothing outside.</summary>
    public static X509ChainPolicy Policy(X509Certificate2? root)
    {
        var policy = new X509ChainPolicy { TrustMode = X509ChainTrustMode.CustomRootTrust, RevocationMode = X509RevocationMode.NoCheck, DisableCertificateDownloads = true };
        if (root is not null)
            policy.CustomTrustStore.Add(root);
        return policy;
    }
}
