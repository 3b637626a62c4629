using System.Net;
using System.Security.Cryptography.X509Certificates;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Sessions;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.AspNetCore.Server.Kestrel.Https;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Node;

/// <summary>
/// The port that agents dial, and where hosts and nodes join: gRPC over HTTP/2 over TLS, and nothing else. A peer need not show a
/// certificate, for one who joins has none yet; whether it has the right one is asked of each call, so that a refusal can say why.
/// </summary>
internal sealed class LinkServer : IAsyncDisposable
{
    // A Hello names every microVM of its host; the actors' own bound on a message is the same.
    private const int MaxMessage = 8 * 1024 * 1024;

    // An agent's stream never ends by itself: waiting longer at a stop would gain nothing.
    private static readonly TimeSpan StopBound = TimeSpan.FromMilliseconds(200);

    private readonly WebApplication _web;

    private LinkServer(WebApplication web) => _web = web;

    /// <summary>Where it really listens.</summary>
    public IPEndPoint Endpoint { get; private set; } = new(IPAddress.None, 0);

    /// <exception cref="IOException">The port is in use.</exception>
    public static async Task<LinkServer> StartAsync(
        IPEndPoint endpoint, CertificateAuthority authority, NodeIdentity identity, HostLinkService service, EnrolmentService enrolment,
        ILoggerFactory log, CancellationToken cancellation)
    {
        var builder = WebApplication.CreateSlimBuilder(new WebApplicationOptions { ApplicationName = "fleet" });
        builder.Configuration.Sources.Clear();
        builder.Services.AddSingleton(log);
        builder.Services.Configure<HostOptions>(o => o.ShutdownTimeout = StopBound);
        builder.Services.AddSingleton(service);
        builder.Services.AddSingleton(enrolment);
        builder.Services.AddGrpc(grpc =>
        {
            grpc.MaxReceiveMessageSize = MaxMessage;
            grpc.EnableDetailedErrors = false;
        }).AddServiceOptions<EnrolmentService>(grpc => grpc.MaxReceiveMessageSize = EnrolmentService.MaxMessage);
        // What came over a socket is dealt with by the thread that read it: a heartbeat is a few bytes, and waking another thread costs as much as all else about it.
        builder.WebHost.UseSockets(sockets => sockets.UnsafePreferInlineScheduling = true);
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Listen(endpoint, listen =>
            {
                listen.Protocols = HttpProtocols.Http2;
                listen.UseHttps(https =>
                {
                    https.ServerCertificateSelector = (_, _) => identity.Certificate;
                    https.ClientCertificateMode = ClientCertificateMode.AllowCertificate;
                    https.ClientCertificateValidation = static (_, _, _) => true;
                    // A stranger's certificate must not make this node fetch what it names.
                    https.OnAuthenticate = (_, tls) => tls.CertificateChainPolicy = new X509ChainPolicy
                    {
                        TrustMode = X509ChainTrustMode.CustomRootTrust,
                        CustomTrustStore = { authority.Certificate },
                        RevocationMode = X509RevocationMode.NoCheck,
                        DisableCertificateDownloads = true,
                    };
                });
            });
            kestrel.Limits.MaxConcurrentConnections = 8192;
            kestrel.Limits.MaxRequestBodySize = null;
            // One stream per agent; a few more allow for one that dials anew before the old stream is known to be dead.
            kestrel.Limits.Http2.MaxStreamsPerConnection = 8;
            kestrel.Limits.Http2.KeepAlivePingDelay = TimeSpan.FromSeconds(10);
            kestrel.Limits.Http2.KeepAlivePingTimeout = TimeSpan.FromSeconds(10);
        });
        var web = builder.Build();
        var server = new LinkServer(web);
        try
        {
            web.Use((http, next) =>
            {
                LinkPeer.Note(http, authority.Trust);
                return next(http);
            });
            web.MapGrpcService<HostLinkService>();
            web.MapGrpcService<EnrolmentService>();
            await web.StartAsync(cancellation);
            server.Endpoint = IPEndPoint.Parse(new Uri(web.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.Single()).Authority);
            return server;
        }
        catch
        {
            await server.DisposeAsync();
            throw;
        }
    }

    public async ValueTask DisposeAsync()
    {
        await _web.StopAsync(CancellationToken.None);
        await _web.DisposeAsync();
    }
}
