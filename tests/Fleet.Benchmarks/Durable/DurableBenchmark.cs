using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Text;
using Fleet.Benchmarks.Chaos;
using Fleet.Chaos.Harness;
using Fleet.Shared.Contracts;
using Fleet.Tests;

namespace Fleet.Benchmarks.Durable;

/// <summary>
/// Creates through the HTTP API, each until a host is told to launch it: the reservation is on the disk by then. One scheduler, its journal in
/// SQLite or PostgreSQL, and thousands of simulated hosts with a connection each; load, hosts, scheduler and database share the machine.
/// </summary>
internal static class DurableBenchmark
{
    /// <summary>Its ports are its own there.</summary>
    private const string Address = "127.71.0.10";

    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    public static IReadOnlyList<Measurement> Run(BenchmarkOptions options)
    {
        if (ChaosFleet.Missing is { } missing)
            throw new BenchmarkException(missing);
        var (hosts, seconds, window) = ((int)options.Number("hosts", 5_000), (int)options.Number("seconds", 60), (int)options.Number("window", 400));
        return [.. MeasureAsync("sqlite", hosts, seconds, window).GetAwaiter().GetResult(), .. MeasureAsync("postgres", hosts, seconds, window).GetAwaiter().GetResult()];
    }

    private static async Task<IReadOnlyList<Measurement>> MeasureAsync(string journal, int hosts, int seconds, int window)
    {
        var folder = Path.Combine(Path.GetTempPath(), $"fleet-durable-{Guid.NewGuid():n}");
        Directory.CreateDirectory(folder);
        try
        {
            await using var postgres = journal == "postgres" ? await PostgresServer.StartAsync(folder: Path.Combine(folder, "postgres")) : null;
            var database = postgres is null ? null : string.Create(CultureInfo.InvariantCulture, $"postgresql://fleet@127.0.0.1:{postgres.Port}/postgres");
            var data = Path.Combine(folder, "scheduler");
            Directory.CreateDirectory(data, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
            using var credentials = new CellCredentials(data);
            using var scheduler = new FleetProcess("scheduler", ["dotnet", ChaosFleet.Program, .. Commands.Scheduler(data, Address, TimeSpan.FromSeconds(60), database)], Path.Combine(folder, "scheduler.out"));
            scheduler.Start();
            using var load = new Creates(credentials, window);
            for (var clock = Stopwatch.StartNew(); !await load.IsHealthyAsync(); await Task.Delay(100))
            {
                if (clock.Elapsed > Patience)
                    throw new BenchmarkException($"the scheduler does not come up: {scheduler.LogTail()}");
            }

            using var over = new CancellationTokenSource();
            var links = new ConcurrentBag<SimulatedHost>();
            try
            {
                await Parallel.ForEachAsync(Enumerable.Range(0, hosts), new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (at, _) => links.Add(await SimulatedHost.OpenAsync(
                    string.Create(CultureInfo.InvariantCulture, $"host-{at}"), new Uri($"https://{Address}:{Commands.LinkPort}"), credentials, null, load.Launched, over.Token)));
                // Code that is hot is compiled anew in the first seconds.
                await load.RunAsync(TimeSpan.FromSeconds(10), null);
                var full = await load.RunAsync(TimeSpan.FromSeconds(seconds), null);
                var half = await load.RunAsync(TimeSpan.FromSeconds(Math.Min(seconds, 30)), full.PerSecond / 2);
                return
                [
                    new($"{journal}_per_s", full.PerSecond, "/s", "bound", 4_000),
                    new($"{journal}_p50_full_ms", full.Percentile(0.5), "ms"),
                    new($"{journal}_p50_ms", half.Percentile(0.5), "ms"),
                    new($"{journal}_p99_ms", half.Percentile(0.99), "ms", "bound", 250),
                    new($"{journal}_refused", load.Refused, ""),
                    new($"{journal}_never_launched", load.Open, ""),
                    new($"{journal}_double_allocations", load.Doubles, ""),
                    new($"{journal}_links_lost", links.Count(link => link.Ended), ""),
                ];
            }
            finally
            {
                await over.CancelAsync();
                foreach (var link in links)
                    link.Dispose();
            }
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    private sealed record Figures(double Seconds, IReadOnlyList<double> Milliseconds)
    {
        public double PerSecond => Milliseconds.Count / Seconds;

        public double Percentile(double share) => Milliseconds.Count == 0 ? double.NaN : Milliseconds[Math.Min(Milliseconds.Count - 1, (int)(share * Milliseconds.Count))];
    }

    /// <summary>Makes microVMs and notes when each is to be launched.</summary>
    private sealed class Creates : IDisposable
    {
        private readonly HttpClient _http;
        private readonly SemaphoreSlim _room;
        private readonly int _window;
        private readonly ConcurrentDictionary<string, long> _begun = new();
        private readonly ConcurrentDictionary<string, string> _homes = new();
        private ConcurrentQueue<double> _done = new();
        private long _number;
        private long _refused;
        private long _doubles;

        public Creates(CellCredentials credentials, int window)
        {
            (_window, _room) = (window, new SemaphoreSlim(window));
            _http = new HttpClient(new SocketsHttpHandler { SslOptions = credentials.Tls(), MaxConnectionsPerServer = 64 })
            {
                BaseAddress = new Uri($"https://{Address}:{Commands.ApiPort}"),
                DefaultRequestHeaders = { Authorization = credentials.Authorization },
                Timeout = Patience,
            };
        }

        public long Refused => Volatile.Read(ref _refused);

        public long Doubles => Volatile.Read(ref _doubles);

        public int Open => _begun.Count;

        public async Task<bool> IsHealthyAsync()
        {
            try
            {
                using var answer = await _http.GetAsync("/v1/health");
                return answer.StatusCode == HttpStatusCode.OK;
            }
            catch (HttpRequestException)
            {
                return false;
            }
        }

        /// <summary>A host is told to launch one: by its name, which the answer to its create may come behind.</summary>
        public void Launched(string host, LaunchVm launch)
        {
            var home = _homes.GetOrAdd(launch.VmId, host);
            if (home != host)
                Interlocked.Increment(ref _doubles);
            if (!_begun.TryRemove(launch.Spec.Name, out var begun))
                return;
            _done.Enqueue(Stopwatch.GetElapsedTime(begun).TotalMilliseconds);
            _room.Release();
        }

        /// <param name="length">For how long creates are begun.</param>
        /// <param name="perSecond">Null: as many as the window lets through.</param>
        public async Task<Figures> RunAsync(TimeSpan length, double? perSecond)
        {
            _done = new();
            var clock = Stopwatch.StartNew();
            for (long sent = 0; clock.Elapsed < length; sent++)
            {
                if (perSecond is { } rate && sent / rate - clock.Elapsed.TotalSeconds is > 0 and var early)
                    await Task.Delay(TimeSpan.FromSeconds(early));
                if (!await _room.WaitAsync(Patience))
                    throw new BenchmarkException(string.Create(CultureInfo.InvariantCulture, $"no host was told to launch any of {_window} for {Patience.TotalSeconds} s; {_refused} creates were refused"));
                _ = CreateAsync();
            }
            var figures = new Figures(clock.Elapsed.TotalSeconds, [.. _done.Order()]);
            for (clock.Restart(); !_begun.IsEmpty && clock.Elapsed < Patience; )
                await Task.Delay(50);
            return figures;
        }

        private async Task CreateAsync()
        {
            var name = string.Create(CultureInfo.InvariantCulture, $"vm-{Interlocked.Increment(ref _number)}");
            _begun[name] = Stopwatch.GetTimestamp();
            try
            {
                using var body = new StringContent(string.Create(CultureInfo.InvariantCulture, $$"""{"name":"{{name}}","cpus":1,"memory_mib":64}"""), Encoding.UTF8, "application/json");
                using var answer = await _http.PostAsync("/v1/vms", body);
                if (answer.IsSuccessStatusCode)
                    return;
            }
            catch (Exception failed) when (failed is HttpRequestException or OperationCanceledException)
            {
                // Counted as refused.
            }
            Interlocked.Increment(ref _refused);
            if (_begun.TryRemove(name, out _))
                _room.Release();
        }

        public void Dispose() => _http.Dispose();
    }
}
