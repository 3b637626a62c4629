using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Shared.Access;
using Fleet.Shared.Files;

namespace Fleet.Host.Link;

/// <summary>
/// What a host shows to the control plane and what it knows the control plane by: its certificate with the key, and the cell's root.
/// One file that only its user can read; the newest is used for each new connection. Thread-safe.
/// </summary>
public sealed class LinkCredentials
{
    private const string FileName = "link.pem", TokenLine = "Joined by token ";

    private readonly string? _folder;
    private volatile X509Certificate2 _certificate;

    private LinkCredentials(string? folder, X509Certificate2 authority, X509Certificate2 certificate, string tokenId)
    {
        _folder = folder;
        _certificate = certificate;
        Authority = authority;
        TokenId = tokenId;
    }

    /// <summary>The host's own, with its key.</summary>
    public X509Certificate2 Certificate => _certificate;

    /// <summary>The cell's root.</summary>
    public X509Certificate2 Authority { get; }

    /// <summary>The token that the host joined by.</summary>
    public string TokenId { get; }

    /// <summary>The host that the certificate names.</summary>
    public string HostId => CertificateSubject.Read(_certificate)?.Name ?? "";

    /// <summary>When it ends.</summary>
    public DateTimeOffset ExpiresAt => new(_certificate.NotAfter.ToUniversalTime(), TimeSpan.Zero);

    /// <summary>When the next is to be fetched: while a third of its time is left.</summary>
    public DateTimeOffset RenewAt => ExpiresAt - (ExpiresAt - new DateTimeOffset(_certificate.NotBefore.ToUniversalTime(), TimeSpan.Zero)) / 3;

    /// <summary>Those that a host of the folder has; null: it has not joined.</summary>
    /// <exception cref="LinkException"><c>credentials_damaged</c></exception>
    public static LinkCredentials? Load(string folder)
    {
        var file = Path.Combine(folder, FileName);
        if (!File.Exists(file))
            return null;
        try
        {
            var text = File.ReadAllText(file);
            var certificates = new X509Certificate2Collection();
            certificates.ImportFromPem(text);
            var line = text.Split('\n', 2)[0];
            if (certificates.Count != 2 || !line.StartsWith(TokenLine, StringComparison.Ordinal))
                throw new CryptographicException("it does not hold what it should.");
            using var key = ECDsa.Create();
            key.ImportFromPem(text);
            return new LinkCredentials(folder, certificates[1], certificates[0].CopyWithPrivateKey(key), line[TokenLine.Length..]);
        }
        catch (Exception damaged) when (damaged is CryptographicException or ArgumentException or IOException or UnauthorizedAccessException)
        {
            throw new LinkException("credentials_damaged", $"{file} can't be used: {damaged.Message} Make a token for this host (fleet token create --role host --host ID) and start it with that in FLEET_TOKEN: it joins anew, and its microVMs go on.");
        }
    }

    /// <summary>Credentials that a host was given; kept in the folder, or only in memory without one.</summary>
    internal static LinkCredentials Of(string? folder, X509Certificate2 authority, X509Certificate2 certificate, string tokenId)
    {
        var credentials = new LinkCredentials(folder, authority, certificate, tokenId);
        credentials.Save(certificate);
        return credentials;
    }

    /// <summary>A newer certificate of the same host.</summary>
    internal void Replace(X509Certificate2 certificate)
    {
        // On the disk first: one that is used and then forgotten would be of no use to the next agent.
        Save(certificate);
        _certificate = certificate;
    }

    private void Save(X509Certificate2 certificate)
    {
        if (_folder is null)
            return;
        using var key = certificate.GetECDsaPrivateKey()!;
        var text = $"{TokenLine}{TokenId}\n{certificate.ExportCertificatePem()}\n{key.ExportPkcs8PrivateKeyPem()}\n{Authority.ExportCertificatePem()}\n";
        OwnFile.Write(Path.Combine(_folder, FileName), text);
    }
}

/// <summary>Joining or renewing failed; the code is stable.</summary>
public sealed class LinkException(string code, string message, Exception? inner = null) : Exception(message, inner)
{
    /// <summary>The control plane's, or <c>unreachable</c>, <c>wrong_cell</c>, <c>token_malformed</c>, <c>credentials_damaged</c>.</summary>
    public string Code { get; } = code;
}
