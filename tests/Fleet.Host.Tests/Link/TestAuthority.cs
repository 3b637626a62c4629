using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Host.Link;
using Fleet.Shared.Access;

namespace Fleet.Host.Tests.Link;

/// <summary>The control plane's authority in the hands of a test: signs as the real one does.</summary>
internal sealed class TestAuthority : IDisposable
{
    private readonly ECDsa _key = ECDsa.Create(ECCurve.NamedCurves.nistP256);

    public TestAuthority()
    {
        var request = new CertificateRequest("O=fleet:authority, CN=test", _key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, true, 0, critical: true));
        request.CertificateExtensions.Add(new X509SubjectKeyIdentifierExtension(request.PublicKey, critical: false));
        using var signed = request.CreateSelfSigned(DateTimeOffset.UtcNow.AddYears(-1), DateTimeOffset.UtcNow.AddYears(1));
        Root = X509CertificateLoader.LoadCertificate(signed.RawData);
    }

    public X509Certificate2 Root { get; }

    public string Pin => NodeTrust.PinOf(Root);

    /// <summary>A scheduler node's, with its key; for as long as the root, for tests have clocks of their own.</summary>
    public X509Certificate2 Node()
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using var certificate = Sign(CertificateSubject.Write(CertificateRole.Scheduler, "test"), new PublicKey(key), Root.NotBefore, Root.NotAfter, "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2");
        return certificate.CopyWithPrivateKey(key);
    }

    /// <summary>A host's for the key of a request.</summary>
    public X509Certificate2 Host(string hostId, PublicKey key, TimeSpan? life = null) =>
        Sign(CertificateSubject.Write(CertificateRole.Host, hostId, 1), key, DateTimeOffset.UtcNow.AddHours(-1), DateTimeOffset.UtcNow + (life ?? TimeSpan.FromDays(30)), "1.3.6.1.5.5.7.3.2");

    /// <summary>What a host that has joined holds.</summary>
    public LinkCredentials Credentials(string hostId, string? folder = null, TimeSpan? life = null)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using var certificate = Host(hostId, new PublicKey(key), life);
        return LinkCredentials.Of(folder, Root, certificate.CopyWithPrivateKey(key), "0123456789ab");
    }

    public void Dispose()
    {
        Root.Dispose();
        _key.Dispose();
    }

    private X509Certificate2 Sign(X500DistinguishedName subject, PublicKey key, DateTimeOffset from, DateTimeOffset until, params string[] usages)
    {
        var request = new CertificateRequest(subject, key, HashAlgorithmName.SHA256);
        var oids = new OidCollection();
        foreach (var usage in usages)
            oids.Add(new Oid(usage));
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension(oids, critical: true));
        return request.Create(Root.SubjectName, X509SignatureGenerator.CreateForECDsa(_key), from, until, RandomNumberGenerator.GetBytes(8));
    }
}
