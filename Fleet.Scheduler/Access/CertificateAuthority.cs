using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Scheduler.Node;
using Fleet.Shared.Access;
using Fleet.Shared.Files;

namespace Fleet.Scheduler.Access;

/// <summary>
/// The cell's own certificate authority: ECDSA on P-256, kept with its key in one file that only its user can read. Who holds that
/// file is the control plane. Thread-safe.
/// </summary>
public sealed class CertificateAuthority : IDisposable
{
    /// <summary>Its file in the folder: certificate and private key, PEM.</summary>
    public const string FileName = "authority.pem";

    /// <summary>Of a host's certificate; its agent renews it before a third of that is left.</summary>
    public static readonly TimeSpan HostLife = TimeSpan.FromDays(30);

    /// <summary>Of a node's certificate; made anew at each start of the node.</summary>
    public static readonly TimeSpan NodeLife = TimeSpan.FromDays(365);

    private static readonly TimeSpan AuthorityLife = TimeSpan.FromDays(3650);

    // Clocks of other machines may be behind this one, and both may be wrong for a while.
    private static readonly TimeSpan ClockError = TimeSpan.FromDays(1);

    private readonly X509Certificate2 _signer;
    private readonly TimeProvider _clock;

    private CertificateAuthority(X509Certificate2 signer, TimeProvider clock)
    {
        _signer = signer;
        _clock = clock;
        Certificate = X509CertificateLoader.LoadCertificate(signer.RawData);
        Pin = NodeTrust.PinOf(Certificate);
        Trust = new NodeTrust(Certificate, clock);
    }

    /// <summary>The root, without its key.</summary>
    public X509Certificate2 Certificate { get; }

    /// <summary>The root's SHA-256, base64url.</summary>
    public string Pin { get; }

    /// <summary>Decides whom this authority has signed.</summary>
    public NodeTrust Trust { get; }

    /// <summary>Whether there is one in the folder.</summary>
    public static bool Exists(string folder) => File.Exists(Path.Combine(folder, FileName));

    /// <summary>Whether there is something in the folder that is no authority; false also when it can't be read now.</summary>
    public static bool IsDamaged(string folder)
    {
        try
        {
            if (Exists(folder))
                Load(File.ReadAllText(Path.Combine(folder, FileName)), TimeProvider.System).Dispose();
        }
        catch (Exception damaged) when (damaged is CryptographicException or ArgumentException)
        {
            return true;
        }
        catch (Exception closed) when (closed is IOException or UnauthorizedAccessException)
        {
            // Whoever opens it says so.
        }
        return false;
    }

    /// <summary>The authority of the folder; a new one when there is none.</summary>
    /// <exception cref="SchedulerStartException">The folder can't be used, or the file is damaged.</exception>
    public static CertificateAuthority OpenOrCreate(string folder, TimeProvider? clock = null) => Guarded(folder, file =>
    {
        if (!File.Exists(file))
            OwnFile.Write(file, NewPem(clock ?? TimeProvider.System), overwrite: false);
        return Load(File.ReadAllText(file), clock ?? TimeProvider.System);
    });

    /// <summary>Puts an authority that another node gave (<see cref="ExportPem"/>) into the folder, and opens it. A damaged one is kept beside it.</summary>
    /// <exception cref="SchedulerStartException">The folder can't be used, holds another authority, or the text is none.</exception>
    public static CertificateAuthority Import(string folder, string pem, TimeProvider? clock = null) => Guarded(folder, file =>
    {
        var given = Load(pem, clock ?? TimeProvider.System);
        if (IsDamaged(folder))
            File.Move(file, file + ".damaged", overwrite: true);
        if (!File.Exists(file))
        {
            OwnFile.Write(file, pem, overwrite: false);
            return given;
        }
        var there = Load(File.ReadAllText(file), clock ?? TimeProvider.System);
        given.Dispose();
        return there.Pin == given.Pin
            ? there
            : throw new SchedulerStartException($"{file} is the authority of another cell. A node belongs to one cell for its life: use a data directory of its own.");
    });

    /// <summary>Certificate and private key. Whoever has them is the control plane.</summary>
    public string ExportPem() => ToPem(_signer);

    /// <summary>A certificate with a new key for a control-plane node: client and server.</summary>
    /// <param name="name">The node's name.</param>
    /// <param name="addresses">Names and IP addresses under which other programs than Fleet's own may look for it.</param>
    public X509Certificate2 IssueNode(string name, IEnumerable<string> addresses) => IssueNode(name, addresses, NodeLife);

    /// <summary>
    /// A certificate with a new key by which the cell's nodes know each other. Their transport takes one for the whole life of the process, so it ends
    /// with the authority: who could steal it from a node's memory could take the authority itself.
    /// </summary>
    public X509Certificate2 IssuePeer(string name, string address) => IssueNode(name, [address], AuthorityLife);

    private X509Certificate2 IssueNode(string name, IEnumerable<string> addresses, TimeSpan life)
    {
        ArgumentNullException.ThrowIfNull(addresses);
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest(CertificateSubject.Write(CertificateRole.Scheduler, name), key, HashAlgorithmName.SHA256);
        var names = new SubjectAlternativeNameBuilder();
        foreach (var address in addresses.Distinct(StringComparer.OrdinalIgnoreCase))
        {
            if (IPAddress.TryParse(address, out var ip))
                names.AddIpAddress(ip);
            else
                names.AddDnsName(address);
        }
        request.CertificateExtensions.Add(names.Build());
        using var signed = Sign(request, life, "1.3.6.1.5.5.7.3.1", "1.3.6.1.5.5.7.3.2");
        return signed.CopyWithPrivateKey(key);
    }

    /// <summary>A certificate for the key of a host's agent: client only.</summary>
    /// <param name="hostId">The host it speaks for.</param>
    /// <param name="enrolment">Which of its enrolments this is.</param>
    /// <param name="key">A DER-encoded certificate request, of which only the key counts. It proves that the asker has the private one.</param>
    /// <returns>Null: the request is none, or its key is not on P-256.</returns>
    public X509Certificate2? IssueHost(string hostId, uint enrolment, byte[] key) => KeyOf(key) is { } asked
        ? Sign(new CertificateRequest(CertificateSubject.Write(CertificateRole.Host, hostId, enrolment), asked, HashAlgorithmName.SHA256), HostLife, "1.3.6.1.5.5.7.3.2")
        : null;

    /// <summary>The key of a certificate request whose signature is right; null: it is none, or not on P-256.</summary>
    public static PublicKey? KeyOf(byte[] request)
    {
        ArgumentNullException.ThrowIfNull(request);
        try
        {
            var key = CertificateRequest.LoadSigningRequest(request, HashAlgorithmName.SHA256).PublicKey;
            using var curve = key.GetECDsaPublicKey();
            return curve?.ExportParameters(false).Curve.Oid.Value == ECCurve.NamedCurves.nistP256.Oid.Value ? key : null;
        }
        catch (CryptographicException)
        {
            return null;
        }
    }

    public void Dispose()
    {
        _signer.Dispose();
        Certificate.Dispose();
    }

    private X509Certificate2 Sign(CertificateRequest request, TimeSpan life, params string[] usages)
    {
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(false, false, 0, critical: true));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.DigitalSignature, critical: true));
        var oids = new OidCollection();
        foreach (var usage in usages)
            oids.Add(new Oid(usage));
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension(oids, critical: true));
        request.CertificateExtensions.Add(X509AuthorityKeyIdentifierExtension.CreateFromCertificate(Certificate, includeKeyIdentifier: true, includeIssuerAndSerial: false));
        var now = _clock.GetUtcNow();
        // No certificate may stick out of its authority's own time.
        var from = Later(now - ClockError, _signer.NotBefore.ToUniversalTime());
        var until = Earlier(now + life, _signer.NotAfter.ToUniversalTime());
        return request.Create(_signer, from, until, Serial());
    }

    private static string NewPem(TimeProvider clock)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var subject = new X500DistinguishedNameBuilder();
        subject.AddOrganizationName("fleet:authority");
        // Two cells' roots must never be taken for each other by name.
        subject.AddCommonName($"Fleet cell {Convert.ToHexStringLower(RandomNumberGenerator.GetBytes(8))}");
        var request = new CertificateRequest(subject.Build(), key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509BasicConstraintsExtension(true, true, 0, critical: true));
        request.CertificateExtensions.Add(new X509KeyUsageExtension(X509KeyUsageFlags.KeyCertSign, critical: true));
        request.CertificateExtensions.Add(new X509SubjectKeyIdentifierExtension(request.PublicKey, critical: false));
        var now = clock.GetUtcNow();
        using var root = request.CreateSelfSigned(now - ClockError, now + AuthorityLife);
        return ToPem(root);
    }

    private static CertificateAuthority Load(string pem, TimeProvider clock) => new(X509Certificate2.CreateFromPem(pem, pem), clock);

    private static string ToPem(X509Certificate2 signer)
    {
        using var key = signer.GetECDsaPrivateKey()!;
        return $"{signer.ExportCertificatePem()}\n{key.ExportPkcs8PrivateKeyPem()}\n";
    }

    private static CertificateAuthority Guarded(string folder, Func<string, CertificateAuthority> open)
    {
        var file = Path.Combine(folder, FileName);
        try
        {
            return open(file);
        }
        catch (Exception fault) when (fault is IOException or UnauthorizedAccessException)
        {
            throw new SchedulerStartException($"The certificate authority {file} can't be opened: {fault.Message}", fault);
        }
        catch (Exception fault) when (fault is CryptographicException or ArgumentException)
        {
            throw new SchedulerStartException(
                $"{file} is no certificate authority: {fault.Message} Put it back from a backup; a node of several can fetch it from another one (--join https://NODE:7071, with a token of role scheduler). Without it every host and every node must join anew.", fault);
        }
    }

    // Random and positive; 16 bytes can't meet twice.
    private static byte[] Serial()
    {
        var serial = RandomNumberGenerator.GetBytes(16);
        serial[0] = (byte)((serial[0] & 0x3f) | 0x40);
        return serial;
    }

    private static DateTimeOffset Later(DateTimeOffset a, DateTimeOffset b) => a > b ? a : b;

    private static DateTimeOffset Earlier(DateTimeOffset a, DateTimeOffset b) => a < b ? a : b;
}
