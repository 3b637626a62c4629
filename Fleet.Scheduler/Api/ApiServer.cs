using System.Net;
using System.Reflection;
using System.Security.Cryptography.X509Certificates;
using Fleet.Scheduler.Access;
using Fleet.Scheduler.Admin;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Http;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Hosting;
using Microsoft.Extensions.Logging;

namespace Fleet.Scheduler.Api;

/// <summary>The HTTP API on its own port. Disposing it cuts the streams and waits at most <see cref="StopBound"/>.</summary>
internal sealed class ApiServer : IAsyncDisposable
{
    /// <summary>Requests under way have this long to end.</summary>
    public static readonly TimeSpan StopBound = TimeSpan.FromSeconds(1);

    // A body above the API's own bound is refused by us with a problem; this is where the server itself hangs up.
    private const int ServerMaxBody = 2 * Exchange.MaxBody;
    private const int MaxConnections = 4096;

    private readonly WebApplication _web;
    private readonly CancellationTokenSource _stopping;

    private ApiServer(WebApplication web, CancellationTokenSource stopping)
    {
        _web = web;
        _stopping = stopping;
    }

    /// <summary>Version of the program, as health tells it.</summary>
    public static string Version { get; } =
        typeof(ApiServer).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()!.InformationalVersion.Split('+')[0];

    /// <summary>Where it really listens.</summary>
    public IPEndPoint Endpoint { get; private set; } = new(IPAddress.None, 0);

    /// <param name="endpoint">Where to listen.</param>
    /// <param name="certificate">What it shows; null: HTTP in clear text.</param>
    /// <param name="context">What requests work with.</param>
    /// <param name="log">Where to.</param>
    /// <param name="cancellation">Ends the start.</param>
    /// <exception cref="IOException">The port is in use.</exception>
    public static async Task<ApiServer> StartAsync(
        IPEndPoint endpoint, Func<X509Certificate2>? certificate, ApiContext context, ILoggerFactory log, CancellationToken cancellation)
    {
        var stopping = new CancellationTokenSource();
        var api = context with { Stopping = stopping.Token };
        var builder = WebApplication.CreateSlimBuilder(new WebApplicationOptions { ApplicationName = "fleet" });
        builder.Configuration.Sources.Clear();
        builder.Services.AddSingleton(log);
        builder.Services.Configure<HostOptions>(o => o.ShutdownTimeout = StopBound);
        builder.Services.AddRouting();
        ApiDescription.Add(builder.Services);
        builder.WebHost.UseKestrelCore().ConfigureKestrel(kestrel => Limit(kestrel, endpoint, certificate));
        var web = builder.Build();
        var server = new ApiServer(web, stopping);
        try
        {
            var pipeline = new ApiPipeline(api);
            web.Use(pipeline.InvokeAsync);
            web.UseRouting();
            web.UseWebSockets(new WebSocketOptions { KeepAliveInterval = TimeSpan.FromSeconds(15), KeepAliveTimeout = TimeSpan.FromSeconds(30) });
            web.Use(pipeline.AuthoriseAsync);
            new VmEndpoints(api).Map(web);
            new GangEndpoints(api).Map(web);
            new VolumeEndpoints(api).Map(web);
            new RateLimitEndpoints(api).Map(web);
            new ConsoleEndpoints(api).Map(web);
            new LogEndpoint(api).Map(web);
            new ExecEndpoint(api).Map(web);
            new PlacementEndpoints(api).Map(web);
            new HostEndpoints(api).Map(web);
            new ChangeEndpoints(api).Map(web);
            new AdminEndpoints(api).Map(web);
            new TokenEndpoints(api).Map(web);
            web.MapGroup("").WithTags("health").MapGet("/v1/health", (Delegate)(Func<HttpContext, Task>)(http => HealthAsync(http, api))).Describe(new("health", "Says whether the node is ready")
            {
                Audience = Audience.Anybody,
                Answer = typeof(HealthBody),
            });
            web.MapGroup("").WithTags("health").MapGet("/v1/authority", (Delegate)(Func<HttpContext, Task>)(http => AuthorityAsync(http, api))).Describe(new("authority", "Gives the cell's root certificate, by which its nodes are known")
            {
                Audience = Audience.Anybody,
                Answer = typeof(byte[]),
                AnswerType = "application/pkix-cert",
            });
            new MetricsEndpoint(api.Figures).Map(web);
            web.MapOpenApi("/openapi/v1.json").WithMetadata(new Operation("openapi", "This document") { Audience = Audience.Tenants });
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
        if (_stopping.IsCancellationRequested)
            return;
        await _stopping.CancelAsync();
        await _web.StopAsync(CancellationToken.None);
        await _web.DisposeAsync();
    }

    private static void Limit(KestrelServerOptions kestrel, IPEndPoint endpoint, Func<X509Certificate2>? certificate)
    {
        kestrel.AddServerHeader = false;
        kestrel.Listen(endpoint, listen =>
        {
            listen.Protocols = HttpProtocols.Http1;
            if (certificate is not null)
                listen.UseHttps(https => https.ServerCertificateSelector = (_, _) => certificate());
        });
        kestrel.Limits.MaxConcurrentConnections = MaxConnections;
        kestrel.Limits.MaxRequestBodySize = ServerMaxBody;
        kestrel.Limits.MaxRequestHeaderCount = 64;
        kestrel.Limits.MaxRequestHeadersTotalSize = 16 * 1024;
        kestrel.Limits.MaxRequestLineSize = 8 * 1024;
        kestrel.Limits.RequestHeadersTimeout = TimeSpan.FromSeconds(15);
        kestrel.Limits.KeepAliveTimeout = TimeSpan.FromMinutes(2);
        kestrel.Limits.MinRequestBodyDataRate = new MinDataRate(bytesPerSecond: 240, gracePeriod: TimeSpan.FromSeconds(5));
        kestrel.Limits.MinResponseDataRate = new MinDataRate(bytesPerSecond: 240, gracePeriod: TimeSpan.FromSeconds(10));
    }

    private static Task AuthorityAsync(HttpContext http, ApiContext api)
    {
        _ = new Query(http);
        http.Response.ContentType = "application/pkix-cert";
        http.Response.ContentLength = api.Authority.Length;
        return http.Response.Body.WriteAsync(api.Authority, http.RequestAborted).AsTask();
    }

    private static async Task HealthAsync(HttpContext http, ApiContext api)
    {
        _ = new Query(http);
        if (await api.Ready(http.RequestAborted) is { } reason)
            throw RequestRefused.Unavailable(reason);
        await Exchange.WriteJsonAsync(http, StatusCodes.Status200OK, 
            // What runs here is nobody's business who has no token.
            http.Features.Get<Principal>() is null ? new HealthBody("ok", null, null) : new HealthBody("ok", Version, Environment.ProcessId), ApiJson.Wire.HealthBody);
    }
}
