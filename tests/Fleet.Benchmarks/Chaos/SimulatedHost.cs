using System.Net;
using System.Net.Sockets;
using Fleet.Chaos.Harness;
using Fleet.Shared.Contracts;
using Grpc.Core;
using Grpc.Net.Client;

namespace Fleet.Benchmarks.Chaos;

/// <summary>What a host says that its machine has.</summary>
internal sealed record HostSize(uint Cpus, ulong MemoryMib)
{
    /// <summary>More than is filled where room is not what is measured.</summary>
    public static readonly HostSize Roomy = new(64, 65_536);
}

/// <summary>An agent that carries nothing: says Hello, beats as it is told to, and calls every microVM that it is to launch running at once.</summary>
internal sealed class SimulatedHost : IDisposable
{
    private readonly string _id;
    private readonly Action<string, LaunchVm>? _launched;
    private readonly GrpcChannel _channel;
    private readonly AsyncDuplexStreamingCall<HostMessage, SchedulerMessage> _call;
    private readonly SemaphoreSlim _turn = new(1);
    private Task _beating = Task.CompletedTask;
    private Task _listening = Task.CompletedTask;
    private long _leases;

    private SimulatedHost(string id, GrpcChannel channel, Action<string, LaunchVm>? launched) =>
        (_id, _channel, _call, _launched) = (id, channel, new HostLink.HostLinkClient(channel).Connect(), launched);

    public long Leases => Volatile.Read(ref _leases);

    public bool Ended => _listening.IsCompleted || _beating.IsCompleted;

    /// <param name="id">The host's.</param>
    /// <param name="size">Its machine's.</param>
    /// <param name="link">Of a scheduler.</param>
    /// <param name="credentials">That issue its certificate.</param>
    /// <param name="connect">Null: out of the network that this process is in.</param>
    /// <param name="launched">Told of every command to launch.</param>
    /// <param name="cancellation">Ends the link.</param>
    public static async Task<SimulatedHost> OpenAsync(
        string id, HostSize size, Uri link, CellCredentials credentials, Func<DnsEndPoint, CancellationToken, Task<Socket>>? connect, Action<string, LaunchVm>? launched, CancellationToken cancellation)
    {
        var certificate = credentials.OfHost(id);
        var handler = new SocketsHttpHandler { SslOptions = credentials.Tls(() => certificate) };
        if (connect is not null)
            handler.ConnectCallback = async (context, connecting) => new NetworkStream(await connect(context.DnsEndPoint, connecting), ownsSocket: true);
        var host = new SimulatedHost(id, GrpcChannel.ForAddress(link, new GrpcChannelOptions { HttpHandler = handler, DisposeHttpClient = true }), launched);
        await host._call.RequestStream.WriteAsync(
            new HostMessage
            {
                Hello = new Hello
                {
                    HostId = id, AgentVersion = "0", BootId = "boot", AgentInstance = Guid.NewGuid().ToString("n"), Fenced = true,
                    Inventory = new Inventory { Cpus = size.Cpus, MemoryMib = size.MemoryMib, AutoDriver = "simulated", Kernel = "6", Architecture = "x86_64", Drivers = { new DriverStatus { Name = "simulated", Usable = true } } },
                },
            },
            cancellation);
        if (!await host._call.ResponseStream.MoveNext(cancellation) || host._call.ResponseStream.Current.Welcome is not { } welcome)
            throw new BenchmarkException($"{id} was not welcome");
        host._listening = host.ListenAsync(cancellation);
        host._beating = host.BeatAsync(TimeSpan.FromMilliseconds(welcome.HeartbeatMs), cancellation);
        return host;
    }

    public void Dispose()
    {
        _call.Dispose();
        _channel.Dispose();
    }

    private async Task ListenAsync(CancellationToken cancellation)
    {
        try
        {
            while (await _call.ResponseStream.MoveNext(cancellation))
            {
                var message = _call.ResponseStream.Current;
                if (message.Lease is not null)
                    Interlocked.Increment(ref _leases);
                if (message.Launch is not { } launch)
                    continue;
                _launched?.Invoke(_id, launch);
                await SendAsync(new HostMessage { Report = new VmReport { VmId = launch.VmId, Epoch = launch.Epoch, Sequence = 1, State = HostVmState.Running, Driver = "simulated", LimitsRevision = launch.LimitsRevision } }, cancellation);
            }
        }
        catch (Exception over) when (over is RpcException or OperationCanceledException or InvalidOperationException)
        {
            // Ended says so.
        }
    }

    private async Task BeatAsync(TimeSpan every, CancellationToken cancellation)
    {
        try
        {
            for (var beat = 1UL; ; beat++)
            {
                await Task.Delay(every, cancellation);
                await SendAsync(new HostMessage { Heartbeat = new Heartbeat { Sequence = beat } }, cancellation);
            }
        }
        catch (Exception over) when (over is RpcException or OperationCanceledException or InvalidOperationException)
        {
            // Ended says so.
        }
    }

    /// <summary>A stream takes one message at a time.</summary>
    private async Task SendAsync(HostMessage message, CancellationToken cancellation)
    {
        await _turn.WaitAsync(cancellation);
        try
        {
            await _call.RequestStream.WriteAsync(message, cancellation);
        }
        finally
        {
            _turn.Release();
        }
    }
}
