using System.Globalization;
using System.Net.Sockets;
using Fleet.Chaos.Harness;
using Fleet.Shared.Contracts;
using Grpc.Core;
using Grpc.Net.Client;

namespace Fleet.Benchmarks.Chaos;

/// <summary>What the leases of many hosts cost the scheduler: one process that holds all their links, each a connection of its own.</summary>
internal static class LeaseBenchmark
{
    private static readonly TimeSpan Measured = TimeSpan.FromSeconds(30);

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options) =>
        ChaosFleet.Missing is { } missing ? throw new BenchmarkException(missing) : MeasureAsync((int)options.Number("hosts", 2_000)).GetAwaiter().GetResult();

    private static async Task<IReadOnlyList<Measurement>> MeasureAsync(int hosts)
    {
        await using var fleet = await ChaosFleet.StartAsync(new FleetOptions { Hosts = 0 });
        using var over = new CancellationTokenSource();
        var links = new List<Link>();
        try
        {
            for (var at = 0; at < hosts; at++)
                links.Add(await Link.OpenAsync(fleet, at, over.Token));
            // Beats are spread by when each connected; what came with connecting is over after a while.
            await Task.Delay(TimeSpan.FromSeconds(15));
            var (before, leases) = (CpuSeconds(fleet), links.Sum(link => link.Leases));
            await Task.Delay(Measured);
            var (after, renewed) = (CpuSeconds(fleet), links.Sum(link => link.Leases) - leases);
            var (user, system) = (after.User - before.User, after.System - before.System);
            var cpu = user + system;
            return
            [
                new("hosts", hosts, ""),
                new("leases_per_s", renewed / Measured.TotalSeconds, "1/s"),
                new("cpu_percent_of_core", 100 * cpu / Measured.TotalSeconds, "%", "bound", 10),
                new("cpu_percent_in_kernel", 100 * system / Measured.TotalSeconds, "%"),
                new("cpu_us_per_lease", cpu * 1_000_000 / Math.Max(1, renewed), "us"),
                new("links_lost", links.Count(link => link.Ended), ""),
            ];
        }
        finally
        {
            await over.CancelAsync();
            foreach (var link in links)
                link.Dispose();
        }
    }

    /// <summary>CPU time of the scheduler, which the kernel counts in 100ths of a second.</summary>
    private static (double User, double System) CpuSeconds(ChaosFleet fleet)
    {
        var words = File.ReadAllText($"/proc/{fleet.Schedulers[0].Pid}/stat").Split(") ")[^1].Split(' ');
        return (long.Parse(words[11], CultureInfo.InvariantCulture) / 100.0, long.Parse(words[12], CultureInfo.InvariantCulture) / 100.0);
    }

    /// <summary>An agent without microVMs: says Hello, and beats as it is told to.</summary>
    private sealed class Link : IDisposable
    {
        private readonly GrpcChannel _channel;
        private readonly AsyncDuplexStreamingCall<HostMessage, SchedulerMessage> _call;
        private Task _beating = Task.CompletedTask;
        private Task _listening = Task.CompletedTask;
        private long _leases;

        private Link(GrpcChannel channel) => (_channel, _call) = (channel, new HostLink.HostLinkClient(channel).Connect());

        public long Leases => Volatile.Read(ref _leases);

        public bool Ended => _listening.IsCompleted || _beating.IsCompleted;

        public static async Task<Link> OpenAsync(ChaosFleet fleet, int number, CancellationToken cancellation)
        {
            var certificate = fleet.Credentials.OfHost(string.Create(CultureInfo.InvariantCulture, $"host-{number}"));
            var link = new Link(GrpcChannel.ForAddress(fleet.LinkAddress, new GrpcChannelOptions
            {
                HttpHandler = new SocketsHttpHandler
                {
                    ConnectCallback = async (context, connecting) => new NetworkStream(await fleet.ConnectAsync(context.DnsEndPoint, connecting), ownsSocket: true),
                    SslOptions = fleet.Credentials.Tls(() => certificate),
                },
            }));
            await link._call.RequestStream.WriteAsync(
                new HostMessage
                {
                    Hello = new Hello
                    {
                        HostId = string.Create(CultureInfo.InvariantCulture, $"host-{number}"), AgentVersion = "0", BootId = "boot", AgentInstance = Guid.NewGuid().ToString("n"), Fenced = true,
                        Inventory = new Inventory { Cpus = 8, MemoryMib = 16_384, AutoDriver = "simulated", Kernel = "6", Architecture = "x86_64", Drivers = { new DriverStatus { Name = "simulated", Usable = true } } },
                    },
                },
                cancellation);
            if (!await link._call.ResponseStream.MoveNext(cancellation) || link._call.ResponseStream.Current.Welcome is not { } welcome)
                throw new BenchmarkException($"host-{number} was not welcome");
            link._listening = link.ListenAsync(cancellation);
            link._beating = link.BeatAsync(TimeSpan.FromMilliseconds(welcome.HeartbeatMs), cancellation);
            return link;
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
                    if (_call.ResponseStream.Current.Lease is not null)
                        Interlocked.Increment(ref _leases);
                }
            }
            catch (Exception over) when (over is RpcException or OperationCanceledException)
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
                    await _call.RequestStream.WriteAsync(new HostMessage { Heartbeat = new Heartbeat { Sequence = beat } }, cancellation);
                }
            }
            catch (Exception over) when (over is RpcException or OperationCanceledException or InvalidOperationException)
            {
                // Ended says so.
            }
        }
    }
}
