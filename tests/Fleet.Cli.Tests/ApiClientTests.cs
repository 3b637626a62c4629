using System.Net;
using System.Net.Security;
using System.Net.Sockets;
using System.Security.Authentication;
using System.Security.Cryptography;
using System.Security.Cryptography.X509Certificates;
using Fleet.Cli.Access;
using Fleet.Cli.Api;
using Fleet.Cli.Node;
using Fleet.Tests;
using Xunit;

namespace Fleet.Cli.Tests;

/// <summary>What is said where no API answers.</summary>
public sealed class ApiClientTests
{
    private static readonly ApiCredentials Nobodys = new(null, null, DataDirectory.Of(new DirectoryInfo("/nonexistent/fleet")));

    [Fact]
    public async Task Should_not_advise_to_start_a_fleet_here_when_another_address_was_asked()
    {
        using var api = new ApiClient(new Uri($"http://127.0.0.1:{FreePort.Next()}"), Nobodys);
        var none = await Assert.ThrowsAsync<ApiException>(() => api.GetAsync("v1/health", default));
        Assert.Equal((ApiException.Unreachable, false), (none.Code, none.IsCut));
        Assert.DoesNotContain("fleet up", none.Message, StringComparison.Ordinal);
        Assert.Contains("the address of a node that runs: --api or FLEET_API", none.Message, StringComparison.Ordinal);
    }

    [Fact]
    public void Should_say_which_token_it_took_when_that_is_refused()
    {
        var data = DataDirectory.Of(Directory.CreateTempSubdirectory("fleet-client-"));
        try
        {
            Directory.CreateDirectory(data.Credentials);
            var refused = new ApiException("unauthenticated", "The token is not one of this cell.");
            Assert.StartsWith("There is no token in", new ApiCredentials(null, null, data).Missing(refused).Message, StringComparison.Ordinal);
            File.WriteAllText(Path.Combine(data.Credentials, "admin.token"), Fleet.Shared.Access.AccessToken.New(new string('p', 43)).Text);
            Assert.StartsWith($"The token is not one of this cell. It is the one in {data.Credentials}/admin.token.", new ApiCredentials(null, null, data).Missing(refused).Message, StringComparison.Ordinal);
            // Who gave one knows which.
            Assert.Same(refused, new ApiCredentials("fleet.x", null, data).Missing(refused));
        }
        finally
        {
            Directory.Delete(data.Root, true);
        }
    }

    [Theory]
    [InlineData(5, true)]
    [InlineData(2047, true)]
    [InlineData(2048, false)]
    public void Should_warn_of_little_room_as_doctor_does(long free, bool warns) => Assert.Equal(warns, DataDirectory.Tight("/var/lib/fleet", free)?.Contains($"{free} MiB free", StringComparison.Ordinal) ?? false);

    /// <summary>As an API that is encrypted, and as the link's port.</summary>
    [Fact]
    public async Task Should_say_so_where_http_meets_TLS()
    {
        using var key = ECDsa.Create(ECCurve.NamedCurves.nistP256);
        using var certificate = new CertificateRequest("CN=box", key, HashAlgorithmName.SHA256).CreateSelfSigned(DateTimeOffset.UnixEpoch, DateTimeOffset.UnixEpoch.AddYears(100));
        using var listener = new TcpListener(IPAddress.Loopback, 0);
        listener.Start();
        var serving = ServeAsync();
        using var api = new ApiClient(new Uri($"http://{listener.LocalEndpoint}"), Nobodys);
        var none = await Assert.ThrowsAsync<ApiException>(() => api.GetAsync("v1/health", default));
        // Nothing was carried out, and it does not get better by asking again.
        Assert.Equal((ApiException.Unreachable, false), (none.Code, none.IsCut));
        Assert.Contains($"write https://{listener.LocalEndpoint}", none.Message, StringComparison.Ordinal);
        Assert.Contains("link's port", none.Message, StringComparison.Ordinal);
        await serving;

        async Task ServeAsync()
        {
            while (true)
            {
                using var peer = await listener.AcceptTcpClientAsync();
                await using var tls = new SslStream(peer.GetStream());
                try
                {
                    await tls.AuthenticateAsServerAsync(certificate);
                    return;
                }
                catch (Exception http) when (http is AuthenticationException or IOException)
                {
                    // The connection is closed, as a server does that gets no handshake.
                }
            }
        }
    }
}
