using System.Net;
using Fleet.Scheduler.Sessions;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Node;

/// <summary>The port that agents dial: gRPC over HTTP/2 in clear text, and nothing else.</summary>
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
    public static async Task<LinkServer> StartAsync(IPEndPoint endpoint, HostLinkService service, ILoggerFactory log, CancellationToken cancellation)
    {
        var builder = WebApplication.CreateSlimBuilder(new WebApplicationOptions { ApplicationName = "fleet" });
        builder.Configuration.Sources.Clear();
        builder.Services.AddSingleton(log);
        builder.Services.Configure<HostOptions>(o => o.ShutdownTimeout = StopBound);
        builder.Services.AddSingleton(service);
        builder.Services.AddGrpc(grpc =>
        {
            grpc.MaxReceiveMessageSize = MaxMessage;
            grpc.EnableDetailedErrors = false;
        });
        builder.WebHost.ConfigureKestrel(kestrel =>
        {
            kestrel.AddServerHeader = false;
            kestrel.Listen(endpoint, listen => listen.Protocols = HttpProtocols.Http2);
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
            web.MapGrpcService<HostLinkService>();
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
