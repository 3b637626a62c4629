using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Node;
using Fleet.Scheduler.Tests.Api;
using Fleet.Shared.Access;
using Xunit;

namespace Fleet.Scheduler.Tests.Access;

public sealed class CertificateAuthorityTests : IDisposable
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-ca-");
    private readonly ManualClock _clock = new();

    public void Dispose() => _folder.Delete(recursive: true);

    private string Folder(string name = "ca") => Path.Combine(_folder.FullName, name);

    private static byte[] Request(ECDsa key) => new CertificateRequest("CN=anything", key, HashAlgorithmName.SHA256).CreateSigningRequest();

    private static byte[] NewRequest()
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        return Request(key);
    }

    [Fact]
    public void Is_made_once_and_readable_by_its_user_alone()
    {
        using var first = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        using var again = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        Assert.Equal(first.Pin, again.Pin);
        Assert.Equal(43, first.Pin.Length);
        Assert.False(first.Certificate.HasPrivateKey);
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Path.Combine(Folder(), CertificateAuthority.FileName)));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute, File.GetUnixFileMode(Folder()));
    }

    [Fact]
    public void A_nodes_certificate_is_a_nodes_and_has_its_names()
    {
        using var ca = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        using var node = ca.IssueNode("control-1", ["control-1", "10.0.0.1", "control-1"]);
        Assert.True(node.HasPrivateKey);
        Assert.True(ca.Trust.IsSchedulerNode(node));
        Assert.True(node.MatchesHostname("10.0.0.1"));
        Assert.True(node.MatchesHostname("control-1"));
        Assert.False(node.MatchesHostname("control-2"));
        Assert.Equal("control-1", ca.Trust.Identify(node, CertificateRole.Scheduler).Holder!.Name);
        Assert.Equal("certificate_role", ca.Trust.Identify(node, CertificateRole.Host).Code);
    }

    [Fact]
    public void A_hosts_certificate_names_its_host_and_is_never_a_nodes()
    {
        using var ca = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        using var host = ca.IssueHost("box-1", 3, NewRequest())!;
        var holder = ca.Trust.Identify(host, CertificateRole.Host).Holder!;
        Assert.Equal(("box-1", 3u), (holder.Name, holder.Enrolment));
        Assert.Equal(_clock.GetUtcNow() + CertificateAuthority.HostLife, holder.ExpiresAt, TimeSpan.FromSeconds(1));
        Assert.False(ca.Trust.IsSchedulerNode(host));
    }

    [Fact]
    public void Nobody_and_strangers_are_refused()
    {
        using var ca = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        using var other = CertificateAuthority.OpenOrCreate(Folder("other"), _clock);
        using var stranger = other.IssueNode("control-1", []);
        Assert.False(ca.Trust.IsSchedulerNode(null));
        Assert.Equal("certificate_missing", ca.Trust.Identify(null, CertificateRole.Host).Code);
        Assert.False(ca.Trust.IsSchedulerNode(stranger));
        Assert.Equal("certificate_unknown", ca.Trust.Identify(stranger, CertificateRole.Scheduler).Code);
        Assert.False(ca.Trust.IsSchedulerNode(ca.Certificate));

        // Signed by nobody but itself, with the right words in it.
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using var self = new CertificateRequest(CertificateSubject.Write(CertificateRole.Scheduler, "control-1"), key, HashAlgorithmName.SHA256)
            .CreateSelfSigned(_clock.GetUtcNow().AddHours(-1), _clock.GetUtcNow().AddDays(1));
        Assert.False(ca.Trust.IsSchedulerNode(self));
    }

    [Fact]
    public void A_host_can_not_sign_a_nodes_certificate_with_its_own()
    {
        using var ca = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        using var hostKey = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using var host = ca.IssueHost("box-1", 1, Request(hostKey))!;
        using var signer = host.CopyWithPrivateKey(hostKey);
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        var request = new CertificateRequest(CertificateSubject.Write(CertificateRole.Scheduler, "control-1"), key, HashAlgorithmName.SHA256);
        using var forged = request.Create(host.SubjectName, X509SignatureGenerator.CreateForECDsa(hostKey), _clock.GetUtcNow().AddMinutes(-1), _clock.GetUtcNow().AddDays(1), [1, 2, 3]);
        Assert.False(ca.Trust.IsSchedulerNode(forged));
        Assert.True(signer.HasPrivateKey);
    }

    [Fact]
    public void Time_ends_certificates_and_a_slow_clock_does_not()
    {
        using var ca = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        var slow = new ManualClock();
        slow.Advance(TimeSpan.FromHours(1));
        _clock.Advance(TimeSpan.FromMinutes(110));
        using var host = ca.IssueHost("box-1", 1, NewRequest())!;
        Assert.NotNull(new NodeTrust(ca.Certificate, slow).Identify(host, CertificateRole.Host).Holder);
        _clock.Advance(CertificateAuthority.HostLife - TimeSpan.FromMinutes(1));
        Assert.NotNull(ca.Trust.Identify(host, CertificateRole.Host).Holder);
        _clock.Advance(TimeSpan.FromMinutes(2));
        Assert.Equal("certificate_expired", ca.Trust.Identify(host, CertificateRole.Host).Code);
    }

    [Fact]
    public void A_request_must_prove_a_key_on_the_right_curve()
    {
        using var ca = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        Assert.Null(ca.IssueHost("box-1", 1, [1, 2, 3]));
        using var larger = ECDsa.Create(ECCurve.NamedCurves.nistP384);
        Assert.Null(ca.IssueHost("box-1", 1, new CertificateRequest("CN=x", larger, HashAlgorithmName.SHA256).CreateSigningRequest()));
        using var rsa = RSA.Create(2048);
        Assert.Null(ca.IssueHost("box-1", 1, new CertificateRequest("CN=x", rsa, HashAlgorithmName.SHA256, RSASignaturePadding.Pkcs1).CreateSigningRequest()));
        var bent = NewRequest();
        bent[^1] ^= 1;
        Assert.Null(ca.IssueHost("box-1", 1, bent));
    }

    [Fact]
    public void Another_node_takes_it_over_and_signs_alike()
    {
        using var first = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        using var second = CertificateAuthority.Import(Folder("second"), first.ExportPem(), _clock);
        using var node = second.IssueNode("control-2", []);
        Assert.True(first.Trust.IsSchedulerNode(node));
        using var again = CertificateAuthority.Import(Folder("second"), first.ExportPem(), _clock);
        Assert.Equal(first.Pin, again.Pin);
        using var other = CertificateAuthority.OpenOrCreate(Folder("other"), _clock);
        Assert.Throws<SchedulerStartException>(() => CertificateAuthority.Import(Folder("other"), first.ExportPem(), _clock));
        Assert.Throws<SchedulerStartException>(() => CertificateAuthority.Import(Folder("third"), "nothing", _clock));
        Assert.False(CertificateAuthority.Exists(Folder("third")));
    }

    [Fact]
    public void A_node_shows_a_new_certificate_in_time()
    {
        using var ca = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        var identity = new NodeIdentity(ca, "control-1", ["fleet.example", "not a name"], _clock);
        var first = identity.Certificate;
        Assert.True(first.MatchesHostname("fleet.example"));
        Assert.True(first.MatchesHostname("127.0.0.1"));
        _clock.Advance(TimeSpan.FromDays(240));
        Assert.Same(first, identity.Certificate);
        _clock.Advance(TimeSpan.FromDays(5));
        Assert.NotSame(first, identity.Certificate);
        Assert.True(ca.Trust.IsSchedulerNode(identity.Certificate));
    }

    [Fact]
    public void What_nodes_show_to_each_other_lasts_as_long_as_their_processes_may()
    {
        using var ca = CertificateAuthority.OpenOrCreate(Folder(), _clock);
        _clock.Advance(TimeSpan.FromDays(400));
        using var peer = ca.IssuePeer("10.0.0.1:7072", "10.0.0.1");
        _clock.Advance(TimeSpan.FromDays(3200));
        Assert.True(ca.Trust.IsSchedulerNode(peer));
        Assert.Equal(ca.Certificate.NotAfter, peer.NotAfter);
    }

    [Fact]
    public void A_damaged_file_is_said_and_left_as_it_is()
    {
        using (CertificateAuthority.OpenOrCreate(Folder(), _clock))
        {
            // Only its file matters here.
        }
        var file = Path.Combine(Folder(), CertificateAuthority.FileName);
        File.WriteAllText(file, File.ReadAllText(file)[..100]);
        var fault = Assert.Throws<SchedulerStartException>(() => CertificateAuthority.OpenOrCreate(Folder(), _clock));
        Assert.Contains("backup", fault.Message, StringComparison.Ordinal);
        Assert.Equal(100, new FileInfo(file).Length);
    }
}
