using System.Net.Http.Headers;
using System.Net.Security;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Scheduler.Access;
using Fleet.Shared.Access;

namespace Fleet.Chaos.Harness;

/// <summary>
/// What the harness shows to the fleet: the cell's authority and the admin's token, made before the first node starts as
/// <c>fleet scheduler init</c> makes them, and the token that hosts join by, which can be had only from a node that runs.
/// </summary>
internal sealed class CellCredentials : IDisposable
{
    private readonly CertificateAuthority _authority;
    private readonly AccessToken _admin;

    /// <param name="data">Data directory of the first node.</param>
    public CellCredentials(string data)
    {
        _authority = CertificateAuthority.OpenOrCreate(Commands.Authority(data));
        _admin = LocalAdmin.Prepare(Path.Combine(data, "credentials"), _authority);
    }

    public AuthenticationHeaderValue Authorization => new("Bearer", _admin.Text);

    /// <summary>Before the words of a host's command: it reads its token when it starts, which is later than now.</summary>
    public static string[] AsHost(string hostToken) => ["sh", "-c", "FLEET_TOKEN=$(cat \"$0\") exec \"$@\"", hostToken];

    public SslClientAuthenticationOptions Tls(Func<X509Certificate2>? certificate = null) => CellTls.To(_authority.Certificate, TimeProvider.System, certificate);

    /// <summary>A certificate of a host that never joined: good until one of that id does.</summary>
    public X509Certificate2 OfHost(string id)
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using var signed = _authority.IssueHost(id, 0, new CertificateRequest("CN=x", key, HashAlgorithmName.SHA256).CreateSigningRequest())!;
        return signed.CopyWithPrivateKey(key);
    }

    public void Dispose() => _authority.Dispose();
}
