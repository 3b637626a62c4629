using System.Collections.Concurrent;
using System.Net;
using System.Threading.Channels;
using Fleet.Shared.Contracts;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace Fleet.Host.Tests.Link;

/// <summary>The control plane's end of the link, in the hands of a test.</summary>
internal sealed class FakeScheduler : IAsyncDisposable
{
    private readonly WebApplication _app;

    private FakeScheduler(WebApplication app) => _app = app;

    public Uri Address => new(_app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.Single());

    /// <summary>Streams that agents opened, each after its Hello.</summary>
    public Channel<AgentStream> Streams { get; } = Channel.CreateUnbounded<AgentStream>();

    /// <summary>What a Hello is answered with.</summary>
    public Func<Hello, SchedulerMessage> Answer { get; set; } = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 5000 } };

    /// <summary>False: heartbeats stay without an answer.</summary>
    public bool Alive { get; set; } = true;

    public static async Task<FakeScheduler> StartAsync()
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        builder.WebHost.ConfigureKestrel(kestrel => kestrel.Listen(IPAddress.Loopback, 0, listen => listen.Protocols = HttpProtocols.Http2));
        builder.Services.AddGrpc();
        FakeScheduler? scheduler = null;
        builder.Services.AddSingleton(_ => new Service(scheduler!));
        var app = builder.Build();
        app.MapGrpcService<Service>();
        scheduler = new FakeScheduler(app);
        await app.StartAsync();
        return scheduler;
    }

    public async Task<AgentStream> NextAsync()
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(20));
        return await Streams.Reader.ReadAsync(limit.Token);
    }

    public async ValueTask DisposeAsync()
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(1));
        await _app.StopAsync(limit.Token);
        await _app.DisposeAsync();
    }

    private sealed class Service(FakeScheduler owner) : HostLink.HostLinkBase
    {
        public override async Task Connect(IAsyncStreamReader<HostMessage> requestStream, IServerStreamWriter<SchedulerMessage> responseStream, ServerCallContext context)
        {
            if (!await requestStream.MoveNext(context.CancellationToken))
                return;
            var hello = requestStream.Current.Hello;
            var answer = owner.Answer(hello);
            await responseStream.WriteAsync(answer);
            if (answer.BodyCase == SchedulerMessage.BodyOneofCase.Refusal)
                return;
            var stream = new AgentStream(hello, responseStream);
            await owner.Streams.Writer.WriteAsync(stream);
            try
            {
                while (await requestStream.MoveNext(stream.Cut.Token))
                {
                    var message = requestStream.Current;
                    if (message.BodyCase == HostMessage.BodyOneofCase.Heartbeat && owner.Alive)
                        await stream.SendAsync(new SchedulerMessage { Heartbeat = new HeartbeatAck { Sequence = message.Heartbeat.Sequence } });
                    await stream.Incoming.Writer.WriteAsync(message);
                }
            }
            catch (Exception cut) when (cut is OperationCanceledException or IOException or RpcException)
            {
                // The test cut the stream, or the agent went away.
            }

            stream.Incoming.Writer.TryComplete();
        }
    }
}

/// <summary>One stream of an agent.</summary>
#pragma warning disable CA1001 // Lives as long as the test; neither member holds anything of the system.
internal sealed class AgentStream(Hello hello, IServerStreamWriter<SchedulerMessage> writer)
#pragma warning restore CA1001
{
    private readonly SemaphoreSlim _gate = new(1);

    public Hello Hello { get; } = hello;

    public Channel<HostMessage> Incoming { get; } = Channel.CreateUnbounded<HostMessage>();

    public CancellationTokenSource Cut { get; } = new();

    public async Task SendAsync(SchedulerMessage message)
    {
        await _gate.WaitAsync();
        try
        {
            await writer.WriteAsync(message);
        }
        finally
        {
            _gate.Release();
        }
    }

    /// <summary>The next message that fits; others are passed over.</summary>
    public async Task<HostMessage> ExpectAsync(Func<HostMessage, bool> fits)
    {
        using var limit = new CancellationTokenSource(TimeSpan.FromSeconds(20));
        while (true)
        {
            var message = await Incoming.Reader.ReadAsync(limit.Token);
            if (fits(message))
                return message;
        }
    }

    public async Task<VmReport> ExpectReportAsync(string vmId, HostVmState state, ulong epoch = 1) =>
        (await ExpectAsync(message => message.Report is { } report && report.VmId == vmId && report.State == state && report.Epoch == epoch)).Report;

    public Task AckAsync(VmReport report) => SendAsync(new SchedulerMessage { ReportAck = new VmReportAck { VmId = report.VmId, Epoch = report.Epoch, Sequence = report.Sequence } });
}
