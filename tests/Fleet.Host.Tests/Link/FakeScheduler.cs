using System.Collections.Concurrent;
using System.Net;
using System.Security.Cryptography.X509Certificates;
using System.Security.Cryptography;
using System.Threading.Channels;
using Fleet.Shared.Access;
using Fleet.Shared.Contracts;
using Google.Protobuf;
using Grpc.Core;
using Microsoft.AspNetCore.Builder;
using Microsoft.AspNetCore.Hosting.Server.Features;
using Microsoft.AspNetCore.Hosting.Server;
using Microsoft.AspNetCore.Hosting;
using Microsoft.AspNetCore.Server.Kestrel.Core;
using Microsoft.AspNetCore.Server.Kestrel.Https;
using Microsoft.Extensions.DependencyInjection;
using Microsoft.Extensions.Logging;

namespace Fleet.Host.Tests.Link;

/// <summary>The control plane's end of the link, in the hands of a test.</summary>
internal sealed class FakeScheduler : IAsyncDisposable
{
    private readonly WebApplication _app;

    private FakeScheduler(WebApplication app, TestAuthority authority)
    {
        _app = app;
        Authority = authority;
    }

    public TestAuthority Authority { get; }

    /// <summary>What a host that asks for a certificate is answered with; null: it gets one.</summary>
    public Refusal? Refusal { get; set; }

    /// <summary>Tokens that were shown, in order.</summary>
    public ConcurrentQueue<string> Tokens { get; } = new();

    /// <summary>Certificates that were renewed.</summary>
    public int Renewals { get; private set; }

    public Uri Address => new(_app.Services.GetRequiredService<IServer>().Features.Get<IServerAddressesFeature>()!.Addresses.Single());

    /// <summary>Streams that agents opened, each after its Hello.</summary>
    public Channel<AgentStream> Streams { get; } = Channel.CreateUnbounded<AgentStream>();

    /// <summary>What a Hello is answered with.</summary>
    public Func<Hello, SchedulerMessage> Answer { get; set; } = _ => new SchedulerMessage { Welcome = new Welcome { HeartbeatMs = 60_000 } };

    /// <summary>False: heartbeats stay without an answer.</summary>
    public bool Alive { get; set; } = true;

    public static async Task<FakeScheduler> StartAsync()
    {
        var builder = WebApplication.CreateSlimBuilder();
        builder.Logging.ClearProviders();
        var authority = new TestAuthority();
        builder.WebHost.UseKestrelHttpsConfiguration().ConfigureKestrel(kestrel => kestrel.Listen(IPAddress.Loopback, 0, listen =>
        {
            listen.Protocols = HttpProtocols.Http2;
            listen.UseHttps(https =>
            {
                https.ServerCertificate = authority.Node();
                https.ClientCertificateMode = ClientCertificateMode.AllowCertificate;
                https.ClientCertificateValidation = (shown, _, _) => new NodeTrust(authority.Root, TimeProvider.System).Identify(shown, CertificateRole.Host).Holder is not null;
            });
        }));
        builder.Services.AddGrpc();
        FakeScheduler? scheduler = null;
        builder.Services.AddSingleton(_ => new Service(scheduler!));
        builder.Services.AddSingleton(_ => new Joining(scheduler!));
        var app = builder.Build();
        app.MapGrpcService<Service>();
        app.MapGrpcService<Joining>();
        scheduler = new FakeScheduler(app, authority);
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
        Authority.Dispose();
    }

    private sealed class Joining(FakeScheduler owner) : Enrolment.EnrolmentBase
    {
        public override Task<Authority> ReadAuthority(ReadAuthorityRequest request, ServerCallContext context) =>
            Task.FromResult(new Authority { Certificate = ByteString.CopyFrom(owner.Authority.Root.RawData) });

        public override Task<EnrolHostReply> EnrolHost(EnrolHostRequest request, ServerCallContext context)
        {
            owner.Tokens.Enqueue(request.Token);
            return Task.FromResult(Answer(request.HostId, request.Key));
        }

        public override Task<EnrolHostReply> RenewHost(RenewHostRequest request, ServerCallContext context)
        {
            owner.Renewals++;
            return Task.FromResult(Answer(CertificateSubject.Read(context.GetHttpContext().Connection.ClientCertificate!)!.Name, request.Key));
        }

        private EnrolHostReply Answer(string hostId, ByteString key)
        {
            if (owner.Refusal is { } refusal)
                return new EnrolHostReply { Refusal = refusal };
            var request = CertificateRequest.LoadSigningRequest(key.ToByteArray(), HashAlgorithmName.SHA256);
            using var certificate = owner.Authority.Host(hostId, request.PublicKey);
            return new EnrolHostReply { Certificate = ByteString.CopyFrom(certificate.RawData) };
        }
    }

    private sealed class Service(FakeScheduler owner) : HostLink.HostLinkBase
    {
        public override async Task Connect(IAsyncStreamReader<HostMessage> requestStream, IServerStreamWriter<SchedulerMessage> responseStream, ServerCallContext context)
        {
            await context.WriteResponseHeadersAsync([]);
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
