using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Text;
using Fleet.Benchmarks.Chaos;
using Fleet.Benchmarks.Start;
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
        // --postgres 0 leaves that half out.
        string[] journals = options.Number("postgres", 1) == 0 ? ["sqlite"] : ["sqlite", "postgres"];
        return [.. journals.SelectMany(journal => MeasureAsync(journal, hosts, seconds, window).GetAwaiter().GetResult())];
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
            await load.UntilHealthyAsync(scheduler);

            using var over = new CancellationTokenSource();
            var links = new ConcurrentBag<SimulatedHost>();
            try
            {
                await Parallel.ForEachAsync(Enumerable.Range(0, hosts), new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (at, _) => links.Add(await SimulatedHost.OpenAsync(
                    string.Create(CultureInfo.InvariantCulture, $"host-{at}"), new Uri($"https://{Address}:{Commands.LinkPort}"), credentials, null, load.Launched, over.Token)));
                // Code that is hot is compiled anew in the first seconds.
                await load.RunAsync(TimeSpan.FromSeconds(10), null);
                var (schedulerMs, loadMs) = (ProcessFigures.CpuMs(scheduler.Pid), ProcessFigures.CpuMs(Environment.ProcessId));
                var full = await load.RunAsync(TimeSpan.FromSeconds(seconds), null);
                (schedulerMs, loadMs) = (ProcessFigures.CpuMs(scheduler.Pid) - schedulerMs, ProcessFigures.CpuMs(Environment.ProcessId) - loadMs);
                var half = await load.RunAsync(TimeSpan.FromSeconds(Math.Min(seconds, 30)), full.PerSecond / 2);
                var linksLost = links.Count(link => link.Ended);
                var lost = await load.LostByKillAsync(scheduler);
                return
                [
                    new($"{journal}_per_s", full.PerSecond, "/s", "bound", 4_000),
                    // All that the process does meanwhile, heartbeats of its hosts too.
                    new($"{journal}_scheduler_cpu_us", 1000 * schedulerMs / full.Milliseconds.Count, "us"),
                    new($"{journal}_load_cpu_us", 1000 * loadMs / full.Milliseconds.Count, "us"),
                    new($"{journal}_p50_full_ms", full.Percentile(0.5), "ms"),
                    new($"{journal}_p50_ms", half.Percentile(0.5), "ms"),
                    new($"{journal}_p99_ms", half.Percentile(0.99), "ms", "bound", 250),
                    new($"{journal}_refused", load.Refused, ""),
                    new($"{journal}_never_launched", load.Open, ""),
                    new($"{journal}_double_allocations", load.Doubles, ""),
                    new($"{journal}_links_lost", linksLost, ""),
                    new($"{journal}_lost_by_kill", lost, ""),
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

        public async Task UntilHealthyAsync(FleetProcess scheduler)
        {
            for (var clock = Stopwatch.StartNew(); !await IsHealthyAsync(); await Task.Delay(100))
            {
                if (clock.Elapsed > Patience)
                    throw new BenchmarkException($"the scheduler does not come up: {scheduler.LogTail()}");
            }
        }

        /// <summary>Creates as many as it can, ends the scheduler by kill -9 in the middle, starts it again, and counts those that were acknowledged and are not there.</summary>
        public async Task<int> LostByKillAsync(FleetProcess scheduler)
        {
            var acknowledged = new ConcurrentBag<Uri>();
            var clients = Enumerable.Range(0, 64).Select(_ => CreateUntilRefusedAsync(acknowledged)).ToArray();
            await Task.Delay(TimeSpan.FromSeconds(3));
            scheduler.Kill();
            await Task.WhenAll(clients);
            if (acknowledged.IsEmpty)
                throw new BenchmarkException("nothing was acknowledged before the kill");
            scheduler.Start();
            await UntilHealthyAsync(scheduler);
            var lost = 0;
            await Parallel.ForEachAsync(acknowledged, new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (vm, _) =>
            {
                var clock = Stopwatch.StartNew();
                HttpStatusCode said;
                do
                {
                    using var answer = await _http.GetAsync(vm, CancellationToken.None);
                    said = answer.StatusCode;
                }
                while (said == HttpStatusCode.ServiceUnavailable && clock.Elapsed < Patience);
                if (said != HttpStatusCode.OK)
                    Interlocked.Increment(ref lost);
            });
            return lost;
        }

        private async Task CreateUntilRefusedAsync(ConcurrentBag<Uri> acknowledged)
        {
            try
            {
                while (true)
                {
                    using var body = Body(string.Create(CultureInfo.InvariantCulture, $"killed-{Interlocked.Increment(ref _number)}"));
                    using var answer = await _http.PostAsync("/v1/vms", body);
                    if (!answer.IsSuccessStatusCode)
                        return;
                    acknowledged.Add(answer.Headers.Location!);
                }
            }
            catch (Exception killed) when (killed is HttpRequestException or OperationCanceledException)
            {
                // Not acknowledged.
            }
        }

        private static StringContent Body(string name) =>
            new(string.Create(CultureInfo.InvariantCulture, $$"""{"name":"{{name}}","cpus":1,"memory_mib":64}"""), Encoding.UTF8, "application/json");

        private async Task<bool> IsHealthyAsync()
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
                using var body = Body(name);
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
