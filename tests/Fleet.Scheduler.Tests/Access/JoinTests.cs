using System.Net;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Node;
using Fleet.Scheduler.Tests.Cell;
using Fleet.Shared.Access;
using Fleet.Shared.Contracts;
using Fleet.Tests;
using Google.Protobuf;
using Grpc.Core;
using Xunit;

namespace Fleet.Scheduler.Tests.Access;

/// <summary>Joining a real node over its real port, and what becomes of those who may not.</summary>
public sealed class JoinTests : IAsyncLifetime
{
    private readonly DirectoryInfo _folder = Directory.CreateTempSubdirectory("fleet-join-");
    private SchedulerNode _node = null!;

    public async Task InitializeAsync() => _node = await SchedulerNode.StartAsync(Options(), default);

    public async Task DisposeAsync()
    {
        await _node.DisposeAsync();
        _folder.Delete(recursive: true);
    }

    private SchedulerOptions Options(string name = "node") => new()
    {
        DataDirectory = Path.Combine(_folder.FullName, name),
        CredentialsDirectory = Path.Combine(_folder.FullName, name + "-credentials"),
        ApiEndpoint = new(IPAddress.Loopback, 0),
        LinkEndpoint = new(IPAddress.Loopback, 0),
        ApiEncrypted = true,
        Names = ["fleet.example"],
        Cell = cell => cell with { Heartbeat = TimeSpan.FromMilliseconds(500), HostDeadAfter = TimeSpan.FromSeconds(5) },
    };

    private async Task<string> TokenAsync(TokenRole role, string? host = null, TimeSpan? life = null) =>
        (await _node.CreateTokenAsync(new TokenRequest(role) { Host = host, Life = life }, default)).Text;

    [Fact]
    public async Task Who_dials_what_is_no_link_port_is_told_so()
    {
        var token = await TokenAsync(TokenRole.Scheduler);
        async Task<string> FaultAsync(string address) => (await Assert.ThrowsAsync<SchedulerStartException>(() =>
            NodeEnrolment.JoinAsync(new Uri(address), token, Path.Combine(_folder.FullName, "new"), default))).Message;
        Assert.EndsWith("(port 7071 unless set otherwise).", await FaultAsync($"https://{_node.ApiEndpoint}"), StringComparison.Ordinal);
        Assert.Contains("Connection refused", await FaultAsync($"https://127.0.0.1:{FreePort.Next()}"), StringComparison.Ordinal);
        var plain = await SchedulerNode.StartAsync(Options("plain") with { ApiEncrypted = false }, default);
        await using (plain)
            Assert.Contains("no link port", await FaultAsync($"https://{plain.ApiEndpoint}"), StringComparison.Ordinal);
    }

    private async Task<string> CodeAsync(string token, string host)
    {
        var (certificate, code) = await LinkClient.EnrolAsync(_node.LinkEndpoint, token, host);
        certificate?.Dispose();
        return code;
    }

    private string AdminToken => File.ReadAllText(Path.Combine(Options().CredentialsDirectory!, LocalAdmin.TokenFile)).Trim();

    private HttpClient Api(string? token)
    {
        var root = X509CertificateLoader.LoadCertificateFromFile(Path.Combine(Options().CredentialsDirectory!, LocalAdmin.AuthorityFile));
        var http = new HttpClient(new SocketsHttpHandler { UseProxy = false, SslOptions = CellTls.To(root, TimeProvider.System) }) { BaseAddress = new Uri($"https://{_node.ApiEndpoint}") };
        if (token is not null)
            http.DefaultRequestHeaders.Authorization = new("Bearer", token);
        return http;
    }

    /// <summary>What a stream that says Hello is answered with first.</summary>
    private async Task<SchedulerMessage> HelloAsync(string host, X509Certificate2? certificate)
    {
        using var channel = LinkClient.Open(_node.LinkEndpoint, certificate);
        using var call = new HostLink.HostLinkClient(channel).Connect(deadline: DateTime.UtcNow.AddSeconds(20));
        try
        {
            await call.RequestStream.WriteAsync(new HostMessage
            {
                Hello = new Hello { HostId = host, AgentVersion = "0.1.0", BootId = "b", AgentInstance = "i", Inventory = new Inventory { Cpus = 1, MemoryMib = 1024 } },
            });
        }
        catch (Exception closed) when (closed is RpcException or InvalidOperationException)
        {
            // A refusal may close the stream before Hello is out.
        }
        Assert.True(await call.ResponseStream.MoveNext(default));
        return call.ResponseStream.Current;
    }

    [Fact]
    public async Task A_host_joins_once_and_is_let_in_under_its_own_name_alone()
    {
        var token = await TokenAsync(TokenRole.Host);
        var (certificate, code) = await LinkClient.EnrolAsync(_node.LinkEndpoint, token, "box-1");
        Assert.Equal("", code);
        Assert.Equal("box-1", CertificateSubject.Read(certificate!)!.Name);
        Assert.NotNull((await HelloAsync("box-1", certificate)).Welcome);
        Assert.Equal("host_mismatch", (await HelloAsync("box-2", certificate)).Refusal.Code);
        // The token is good for other hosts, but not for one that is known.
        Assert.Equal("", await CodeAsync(token, "box-2"));
        Assert.Equal("host_exists", await CodeAsync(token, "box-1"));
    }

    [Fact]
    public async Task An_answer_that_was_lost_is_given_again_to_the_same_key()
    {
        var token = await TokenAsync(TokenRole.Host);
        using var key = LinkClient.NewKey();
        var (first, _) = await LinkClient.EnrolAsync(_node.LinkEndpoint, token, "box-1", key);
        var (second, code) = await LinkClient.EnrolAsync(_node.LinkEndpoint, token, "box-1", key);
        Assert.Equal("", code);
        Assert.Equal(CertificateSubject.Read(first!)!.Enrolment, CertificateSubject.Read(second!)!.Enrolment);
    }

    [Fact]
    public async Task A_token_for_one_host_lets_it_join_anew_and_ends_the_certificate_before()
    {
        var (old, _) = await LinkClient.EnrolAsync(_node.LinkEndpoint, await TokenAsync(TokenRole.Host), "box-1");
        Assert.NotNull((await HelloAsync("box-1", old)).Welcome);
        var named = await TokenAsync(TokenRole.Host, "box-1");
        Assert.Equal("token_host", await CodeAsync(named, "box-2"));
        var (renewed, code) = await LinkClient.EnrolAsync(_node.LinkEndpoint, named, "box-1");
        Assert.Equal("", code);
        Assert.Equal("certificate_revoked", (await HelloAsync("box-1", old)).Refusal.Code);
        Assert.NotNull((await HelloAsync("box-1", renewed)).Welcome);
    }

    [Fact]
    public async Task A_removed_host_is_not_let_in_and_can_not_renew_until_it_joins_anew()
    {
        var token = await TokenAsync(TokenRole.Host);
        var (certificate, _) = await LinkClient.EnrolAsync(_node.LinkEndpoint, token, "box-1");
        Assert.NotNull((await HelloAsync("box-1", certificate)).Welcome);
        using var api = Api(AdminToken);
        await Eventually.TrueAsync(async () => (await api.DeleteAsync("/v1/hosts/box-1")).StatusCode == HttpStatusCode.NoContent);
        Assert.Equal("certificate_revoked", (await HelloAsync("box-1", certificate)).Refusal.Code);
        Assert.Equal("certificate_revoked", (await RenewAsync(certificate)).Refusal.Code);

        var (again, code) = await LinkClient.EnrolAsync(_node.LinkEndpoint, token, "box-1");
        Assert.Equal("", code);
        Assert.NotNull((await HelloAsync("box-1", again)).Welcome);
        Assert.Equal("certificate_revoked", (await HelloAsync("box-1", certificate)).Refusal.Code);
    }

    [Fact]
    public async Task Strangers_are_refused_by_codes()
    {
        Assert.Equal("certificate_missing", (await HelloAsync("box-1", null)).Refusal.Code);
        using var other = CertificateAuthority.OpenOrCreate(Path.Combine(_folder.FullName, "other"));
        using var key = LinkClient.NewKey();
        using var forged = other.IssueHost("box-1", 0, LinkClient.Request(key).ToByteArray())!.CopyWithPrivateKey(key);
        Assert.Equal("certificate_unknown", (await HelloAsync("box-1", forged)).Refusal.Code);
        using var own = CertificateAuthority.OpenOrCreate(Options().AuthorityDirectory);
        using var nodes = own.IssueNode("control", []);
        Assert.Equal("certificate_role", (await HelloAsync("box-1", nodes)).Refusal.Code);
        using var expired = Expired(own, key);
        Assert.Equal("certificate_expired", (await HelloAsync("box-1", expired)).Refusal.Code);
    }

    private static X509Certificate2 Expired(CertificateAuthority authority, ECDsa key)
    {
        var request = new CertificateRequest(CertificateSubject.Write(CertificateRole.Host, "box-1", 1), key, HashAlgorithmName.SHA256);
        request.CertificateExtensions.Add(new X509EnhancedKeyUsageExtension([new Oid("1.3.6.1.5.5.7.3.2")], critical: true));
        using var signer = X509Certificate2.CreateFromPem(authority.ExportPem(), authority.ExportPem());
        using var made = request.Create(signer, signer.NotBefore, DateTimeOffset.UtcNow.AddMinutes(-1), [1, 2, 3, 4]);
        return made.CopyWithPrivateKey(key);
    }

    [Fact]
    public async Task Tokens_that_do_not_fit_are_refused_by_codes()
    {
        Assert.Equal("token_unknown", await CodeAsync("nonsense", "box-1"));
        Assert.Equal("token_unknown", await CodeAsync(AccessToken.New(_node.AuthorityPin).Text, "box-1"));
        Assert.Equal("token_role", await CodeAsync(await TokenAsync(TokenRole.Admin), "box-1"));
        Assert.Equal("token_role", await CodeAsync(await TokenAsync(TokenRole.Scheduler), "box-1"));
        Assert.Equal("invalid_field", await CodeAsync(await TokenAsync(TokenRole.Host), "Not A Name"));
        var revoked = await TokenAsync(TokenRole.Host);
        using var api = Api(AdminToken);
        Assert.Equal(HttpStatusCode.OK, (await api.DeleteAsync($"/v1/tokens/{revoked.Split('.')[1]}")).StatusCode);
        Assert.Equal("token_revoked", await CodeAsync(revoked, "box-1"));

        using var channel = LinkClient.Open(_node.LinkEndpoint);
        var bad = await new Enrolment.EnrolmentClient(channel).EnrolHostAsync(new EnrolHostRequest { Token = await TokenAsync(TokenRole.Host), HostId = "box-1", Key = ByteString.CopyFrom(1, 2) });
        Assert.Equal("invalid_field", bad.Refusal.Code);
        var large = await Assert.ThrowsAsync<RpcException>(async () => await new Enrolment.EnrolmentClient(channel).EnrolHostAsync(new EnrolHostRequest { Token = new string('x', 10_000) }));
        Assert.Equal(StatusCode.ResourceExhausted, large.StatusCode);
    }

    [Fact]
    public async Task Who_tries_too_often_is_not_heard_for_a_while()
    {
        for (var i = 0; i < EnrolmentService.MostRefusals; i++)
            Assert.Equal("token_unknown", await CodeAsync("nonsense", "box-1"));
        Assert.Equal("too_many_attempts", await CodeAsync(await TokenAsync(TokenRole.Host), "box-1"));
    }

    [Fact]
    public async Task A_certificate_is_renewed_by_itself_and_by_nothing_else()
    {
        var (certificate, _) = await LinkClient.EnrolAsync(_node.LinkEndpoint, await TokenAsync(TokenRole.Host), "box-1");
        using var key = LinkClient.NewKey();
        var reply = await RenewAsync(certificate, key);
        using var renewed = X509CertificateLoader.LoadCertificate(reply.Certificate.Span).CopyWithPrivateKey(key);
        Assert.NotEqual(certificate!.Thumbprint, renewed.Thumbprint);
        Assert.NotNull((await HelloAsync("box-1", renewed)).Welcome);
        Assert.Equal("certificate_missing", (await RenewAsync(null)).Refusal.Code);
    }

    private async Task<EnrolHostReply> RenewAsync(X509Certificate2? certificate, ECDsa? with = null)
    {
        using var channel = LinkClient.Open(_node.LinkEndpoint, certificate);
        using var own = with is null ? LinkClient.NewKey() : null;
        return await new Enrolment.EnrolmentClient(channel).RenewHostAsync(new RenewHostRequest { Key = LinkClient.Request(with ?? own!) });
    }

    [Fact]
    public async Task A_node_takes_over_the_authority_by_a_token_for_nodes_and_only_of_the_right_cell()
    {
        var link = new Uri($"https://{_node.LinkEndpoint}");
        var folder = Path.Combine(_folder.FullName, "second", "ca");
        var wrong = await Assert.ThrowsAsync<SchedulerStartException>(async () => await NodeEnrolment.JoinAsync(link, await TokenAsync(TokenRole.Host), folder, default));
        Assert.Equal("token_role", wrong.Code);
        Assert.EndsWith("this takes one of role scheduler. Make another there: fleet token create --role scheduler", wrong.Message, StringComparison.Ordinal);
        var stranger = await Assert.ThrowsAsync<SchedulerStartException>(() => NodeEnrolment.JoinAsync(link, AccessToken.New(new string('p', 43)).Text, folder, default));
        Assert.Contains("not of the cell", stranger.Message, StringComparison.Ordinal);
        Assert.False(CertificateAuthority.Exists(folder));

        var token = await TokenAsync(TokenRole.Scheduler);
        await NodeEnrolment.JoinAsync(link, token, folder, default);
        using var second = CertificateAuthority.OpenOrCreate(folder);
        Assert.Equal(_node.AuthorityPin, second.Pin);
        // Once joined it asks nobody.
        await NodeEnrolment.JoinAsync(new Uri("https://127.0.0.1:1"), token, folder, default);
        await Assert.ThrowsAsync<SchedulerStartException>(() => NodeEnrolment.JoinAsync(link, AccessToken.New(new string('p', 43)).Text, folder, default));

        // A damaged one is fetched anew; what is left of it stays beside it.
        var file = Path.Combine(folder, CertificateAuthority.FileName);
        await File.WriteAllTextAsync(file, "damaged");
        await NodeEnrolment.JoinAsync(link, token, folder, default);
        using var again = CertificateAuthority.OpenOrCreate(folder);
        Assert.Equal(_node.AuthorityPin, again.Pin);
        Assert.Equal("damaged", await File.ReadAllTextAsync(file + ".damaged"));
    }

    [Fact]
    public async Task The_API_is_HTTPS_and_the_local_token_outlives_restarts_and_is_made_anew_when_it_was_revoked()
    {
        var token = AdminToken;
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(Path.Combine(Options().CredentialsDirectory!, LocalAdmin.TokenFile)));
        using (var api = Api(token))
        {
            Assert.Equal(HttpStatusCode.OK, (await api.GetAsync("/v1/vms")).StatusCode);
            Assert.Equal(_node.AuthorityPin, NodeTrust.PinOf(X509CertificateLoader.LoadCertificate(await api.GetByteArrayAsync("/v1/authority"))));
        }
        using (var nobody = Api(null))
            Assert.Equal(HttpStatusCode.Unauthorized, (await nobody.GetAsync("/v1/vms")).StatusCode);
        await RestartAsync();
        Assert.Equal(token, AdminToken);
        using (var api = Api(token))
        {
            Assert.Equal(HttpStatusCode.OK, (await api.GetAsync("/v1/vms")).StatusCode);
            await api.DeleteAsync($"/v1/tokens/{token.Split('.')[1]}");
            Assert.Equal(HttpStatusCode.Unauthorized, (await api.GetAsync("/v1/vms")).StatusCode);
        }
        await RestartAsync();
        Assert.NotEqual(token, AdminToken);
        using (var old = Api(token))
            Assert.Equal(HttpStatusCode.Unauthorized, (await old.GetAsync("/v1/vms")).StatusCode);
        using (var api = Api(AdminToken))
            Assert.Equal(HttpStatusCode.OK, (await api.GetAsync("/v1/vms")).StatusCode);
    }

    private async Task RestartAsync()
    {
        await _node.DisposeAsync();
        _node = await SchedulerNode.StartAsync(Options(), default);
    }

    [Fact]
    public async Task Nothing_is_sent_in_clear_text_over_a_network()
    {
        var open = await Assert.ThrowsAsync<SchedulerStartException>(() => SchedulerNode.StartAsync(
            Options("open") with { ApiEndpoint = new(IPAddress.Any, 0), ApiEncrypted = false }, default));
        Assert.Contains("https", open.Message, StringComparison.Ordinal);
        Assert.False(Directory.Exists(Options("open").DataDirectory));
    }
}
