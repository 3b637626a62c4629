using System.Buffers.Text;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;

namespace Fleet.Shared.Access;

/// <summary>
/// Decides who a peer is by its certificate: one that this cell's authority signed, in its time, for what it is used for.
/// A peer's address plays no part: every node with a scheduler's certificate holds the authority itself, so one is as good as the
/// other, and a fleet behind a translated address or a name of the operator's works like any other. Thread-safe.
/// </summary>
/// <param name="authority">The cell's own root, and the only one that counts.</param>
/// <param name="clock">What time it is.</param>
public sealed class NodeTrust(X509Certificate2 authority, TimeProvider clock)
{
    private const string ServerAuthentication = "1.3.6.1.5.5.7.3.1", ClientAuthentication = "1.3.6.1.5.5.7.3.2";

    /// <summary>The SHA-256 of a root as tokens carry it: base64url, 43 characters.</summary>
    public static string PinOf(X509Certificate2 root)
    {
        ArgumentNullException.ThrowIfNull(root);
        return Base64Url.EncodeToString(SHA256.HashData(root.RawData));
    }

    /// <summary>The root of that DER, if it has that pin; null: it is another, or none.</summary>
    public static X509Certificate2? Pinned(ReadOnlySpan<byte> der, string pin)
    {
        try
        {
            var root = X509CertificateLoader.LoadCertificate(der);
            if (PinOf(root) == pin)
                return root;
            root.Dispose();
        }
        catch (CryptographicException)
        {
            // What is no certificate is not the right one either.
        }
        return null;
    }

    /// <summary>Whether it is the certificate of a control-plane node of this cell.</summary>
    public bool IsSchedulerNode(X509Certificate2? certificate) => Identify(certificate, CertificateRole.Scheduler).Holder is not null;

    /// <summary>Whom the certificate names, if it may be used as one of that role; else why not.</summary>
    public CertificateVerdict Identify(X509Certificate2? certificate, CertificateRole role)
    {
        if (certificate is null)
            return Refused("certificate_missing", "No certificate was shown.");
        using var chain = new X509Chain
        {
            ChainPolicy =
            {
                TrustMode = X509ChainTrustMode.CustomRootTrust,
                CustomTrustStore = { authority },
                RevocationMode = X509RevocationMode.NoCheck,
                DisableCertificateDownloads = true,
                VerificationTime = clock.GetUtcNow().UtcDateTime,
                VerificationTimeIgnored = false,
                ApplicationPolicy = { new Oid(ClientAuthentication) },
            },
        };
        if (role == CertificateRole.Scheduler)
            chain.ChainPolicy.ApplicationPolicy.Add(new Oid(ServerAuthentication));
        var signed = chain.Build(certificate);
        try
        {
            if (!signed && chain.ChainStatus.Any(status => status.Status != X509ChainStatusFlags.NotTimeValid))
                return Refused("certificate_unknown", "The certificate is not one of this cell, or is for something else.");
            if (CertificateSubject.Read(certificate) is not { } holder || holder.Role != role)
                return Refused("certificate_role", "The certificate is one of this cell, but for something else.");
            return signed
                ? new CertificateVerdict(holder, "", "")
                : Refused("certificate_expired", $"The certificate of {holder.Name} is valid from {holder.IssuedAt:u} to {holder.ExpiresAt:u}, and it is {clock.GetUtcNow():u} here.");
        }
        finally
        {
            foreach (var element in chain.ChainElements)
                element.Certificate.Dispose();
        }
    }

    private static CertificateVerdict Refused(string code, string message) => new(null, code, message);
}

/// <summary>Whom a certificate names, or why it does not count.</summary>
/// <param name="Holder">Null: refused.</param>
/// <param name="Code">Stable; <c>certificate_missing</c>, <c>certificate_unknown</c>, <c>certificate_role</c> or <c>certificate_expired</c>.</param>
/// <param name="Message">For people.</param>
public sealed record CertificateVerdict(CertificateHolder? Holder, string Code, string Message);
