using System.Security.Cryptography.X509Certificates;
using Fleet.Host.Link;
using Fleet.Host.Tests.Agent;
using Fleet.Shared.Access;
using Fleet.Shared.Contracts;
using Grpc.Core;
using Grpc.Net.Client;
using Xunit;

namespace Fleet.Host.Tests.Link;

/// <summary>How a host gets its certificate, keeps it, and gets the next one in time.</summary>
public sealed class JoiningTests : IAsyncLifetime
{
    private readonly string _folder = Directory.CreateTempSubdirectory("fleet-joining-").FullName;
    private FakeScheduler _scheduler = null!;

    public async Task InitializeAsync() => _scheduler = await FakeScheduler.StartAsync();

    public async Task DisposeAsync()
    {
        await _scheduler.DisposeAsync();
        Directory.Delete(_folder, true);
    }

    private AccessToken Token(string? pin = null) => AccessToken.New(pin ?? _scheduler.Authority.Pin);

    private Task<LinkCredentials> JoinAsync(string token) => HostEnrolment.JoinAsync(_scheduler.Address, token, "rack1", _folder, TimeProvider.System, default);

    [Fact]
    public async Task Should_keep_what_it_was_given_for_its_user_alone()
    {
        Assert.Null(LinkCredentials.Load(_folder));
        var token = Token();
        var joined = await JoinAsync(token.Text);
        Assert.Equal(("rack1", token.Id), (joined.HostId, joined.TokenId));
        var kept = LinkCredentials.Load(_folder)!;
        Assert.Equal((joined.Certificate.Thumbprint, joined.Authority.Thumbprint, token.Id), (kept.Certificate.Thumbprint, kept.Authority.Thumbprint, kept.TokenId));
        Assert.True(kept.Certificate.HasPrivateKey);
        // The certificate, and nothing of the token but its id.
        var file = Assert.Single(Directory.GetFiles(_folder));
        Assert.Equal(UnixFileMode.UserRead | UnixFileMode.UserWrite, File.GetUnixFileMode(file));
        Assert.DoesNotContain(token.Secret, File.ReadAllText(file), StringComparison.Ordinal);
    }

    [Fact]
    public async Task Should_show_its_token_to_nobody_but_the_cell_that_made_it()
    {
        var wrong = await Assert.ThrowsAsync<LinkException>(() => JoinAsync(Token(new string('p', 43)).Text));
        Assert.Equal("wrong_cell", wrong.Code);
        Assert.Empty(_scheduler.Tokens);
        Assert.Equal("token_malformed", (await Assert.ThrowsAsync<LinkException>(() => JoinAsync("nonsense"))).Code);
        Assert.Equal("unreachable", (await Assert.ThrowsAsync<LinkException>(() =>
            HostEnrolment.JoinAsync(new Uri("https://127.0.0.1:1"), Token().Text, "rack1", _folder, TimeProvider.System, default))).Code);
        Assert.Null(LinkCredentials.Load(_folder));
    }

    /// <summary>Else an operator reads of a callback, and looks for a mistake in the network.</summary>
    [Fact]
    public async Task Should_say_that_the_cell_shows_another_authority_than_the_one_that_was_joined()
    {
        using var joined = new TestAuthority();
        using var channel = GrpcChannel.ForAddress(_scheduler.Address, new GrpcChannelOptions
        {
            HttpHandler = new SocketsHttpHandler { UseProxy = false, SslOptions = CellTls.To(joined.Root, TimeProvider.System) },
            DisposeHttpClient = true,
        });
        var failed = await Assert.ThrowsAsync<RpcException>(() => new Enrolment.EnrolmentClient(channel).ReadAuthorityAsync(new ReadAuthorityRequest()).ResponseAsync);
        Assert.StartsWith("what answers there shows no certificate of the authority that was joined", LinkFault.Describe(failed), StringComparison.Ordinal);
        Assert.False(LinkFault.IsNoLink(failed));
    }

    [Fact]
    public async Task Should_say_why_it_was_refused_and_try_again_with_the_same_key()
    {
        _scheduler.Refusal = new Refusal { Code = "token_expired", Message = "too late" };
        Assert.Equal("token_expired", (await Assert.ThrowsAsync<LinkException>(() => JoinAsync(Token().Text))).Code);
        var key = File.ReadAllText(Path.Combine(_folder, "joining.key"));
        _scheduler.Refusal = null;
        var joined = await JoinAsync(Token().Text);
        Assert.Contains(joined.Certificate.GetECDsaPrivateKey()!.ExportPkcs8PrivateKeyPem(), key, StringComparison.Ordinal);
        Assert.False(File.Exists(Path.Combine(_folder, "joining.key")));
    }

    [Fact]
    public async Task Should_say_that_its_file_is_damaged()
    {
        await JoinAsync(Token().Text);
        var file = Directory.GetFiles(_folder).Single();
        foreach (var text in new[] { "", "nonsense", File.ReadAllText(file)[..200], File.ReadAllText(file).Replace("PRIVATE", "PUBLIC", StringComparison.Ordinal) })
        {
            File.WriteAllText(file, text);
            Assert.Equal("credentials_damaged", Assert.Throws<LinkException>(() => LinkCredentials.Load(_folder)).Code);
        }
    }

    [Fact]
    public async Task Should_renew_while_a_third_of_the_time_is_left_and_try_again_after_a_failure()
    {
        var credentials = _scheduler.Authority.Credentials("rack1", _folder);
        var first = credentials.Certificate.Thumbprint;
        var clock = new ManualClock(DateTimeOffset.UtcNow);
        var lines = new LogLines();
        await using var renewal = new CertificateRenewal([_scheduler.Address], credentials, clock, lines.Log);
        await PassAsync(credentials.RenewAt - clock.GetUtcNow() - TimeSpan.FromMinutes(1));
        await PassAsync(TimeSpan.FromSeconds(1));
        Assert.Equal((0, first), (_scheduler.Renewals, credentials.Certificate.Thumbprint));

        _scheduler.Refusal = new Refusal { Code = "unavailable", Message = "later" };
        await PassAsync(TimeSpan.FromHours(1));
        await UntilAsync(() => _scheduler.Renewals == 1);
        await UntilAsync(() => lines.All.Any(line => line.Contains("unavailable", StringComparison.Ordinal)));
        Assert.Equal(first, credentials.Certificate.Thumbprint);

        _scheduler.Refusal = null;
        await PassAsync(TimeSpan.FromHours(1));
        await UntilAsync(() => credentials.Certificate.Thumbprint != first);
        Assert.Equal(credentials.Certificate.Thumbprint, LinkCredentials.Load(_folder)!.Certificate.Thumbprint);
        Assert.Equal("rack1", credentials.HostId);

        async Task PassAsync(TimeSpan by)
        {
            await UntilAsync(() => clock.HasTimers);
            clock.Advance(by);
        }
    }

    [Fact]
    public async Task Should_not_link_to_a_server_of_another_cell()
    {
        using var other = new TestAuthority();
        using var channel = Grpc.Net.Client.GrpcChannel.ForAddress(_scheduler.Address, new Grpc.Net.Client.GrpcChannelOptions
        {
            HttpHandler = new SocketsHttpHandler { SslOptions = CellTls.To(other.Root, TimeProvider.System) },
            DisposeHttpClient = true,
        });
        await Assert.ThrowsAsync<Grpc.Core.RpcException>(async () => await new Enrolment.EnrolmentClient(channel).ReadAuthorityAsync(new ReadAuthorityRequest()));
    }

    private static async Task UntilAsync(Func<bool> condition)
    {
        for (var began = TimeProvider.System.GetTimestamp(); !condition(); await Task.Delay(10))
            Assert.True(TimeProvider.System.GetElapsedTime(began) < TimeSpan.FromSeconds(20), "waited in vain");
    }
}
