using System.Collections.Concurrent;
using System.Diagnostics;
using System.Globalization;
using System.Net;
using System.Net.Http.Json;
using System.Text;
using Fleet.Chaos.Harness;

namespace Fleet.Benchmarks.Durable;

/// <summary>What one run of creates came to.</summary>
/// <param name="Seconds">In which they were begun.</param>
/// <param name="Milliseconds">Of each, ascending.</param>
internal sealed record CreateFigures(double Seconds, IReadOnlyList<double> Milliseconds)
{
    public double PerSecond => Milliseconds.Count / Seconds;

    public double Percentile(double share) => Milliseconds.Count == 0 ? double.NaN : Milliseconds[Math.Min(Milliseconds.Count - 1, (int)(share * Milliseconds.Count))];
}

/// <summary>What became of creates that were more than there was room for.</summary>
/// <param name="Refused">For want of room.</param>
/// <param name="AtOnce">Of these, by the answer to the create.</param>
/// <param name="Neither">Neither launched nor refused for want of room.</param>
internal sealed record RaceResult(int Refused, int AtOnce, int Neither);

/// <summary>Makes microVMs and notes when each is to be launched.</summary>
internal sealed class Creates : IDisposable
{
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private readonly DurableCell _cell;
    private readonly SemaphoreSlim _room;
    private readonly int _window;
    private readonly ConcurrentDictionary<string, long> _begun = new();
    private ConcurrentQueue<double> _done = new();
    private long _number;
    private long _refused;

    public Creates(DurableCell cell, int window)
    {
        (_cell, _window, _room) = (cell, window, new SemaphoreSlim(window));
        Api = new HttpClient(new SocketsHttpHandler { SslOptions = cell.Credentials.Tls(), MaxConnectionsPerServer = 64 })
        {
            BaseAddress = DurableCell.Api,
            DefaultRequestHeaders = { Authorization = cell.Credentials.Authorization },
            Timeout = Patience,
        };
        cell.Launches.Launched += Launched;
    }

    public HttpClient Api { get; }

    public long Refused => Volatile.Read(ref _refused);

    public int Open => _begun.Count;

    public async Task UntilHealthyAsync()
    {
        for (var clock = Stopwatch.StartNew(); !await IsHealthyAsync(); await Task.Delay(100))
        {
            if (clock.Elapsed > Patience)
                throw new BenchmarkException($"the scheduler does not come up: {_cell.Scheduler.LogTail()}");
        }
    }

    /// <param name="length">For how long creates are begun, or due.</param>
    /// <param name="perSecond">Null: as many as the window lets through, and those count that are launched by then. Else each is due at its time and counts from that on, whatever it has to wait for.</param>
    public async Task<CreateFigures> RunAsync(TimeSpan length, double? perSecond)
    {
        _done = new();
        var (begin, clock) = (Stopwatch.GetTimestamp(), Stopwatch.StartNew());
        for (long sent = 0; ; sent++)
        {
            var due = 0L;
            if (perSecond is { } rate)
            {
                if (sent / rate >= length.TotalSeconds)
                    break;
                due = begin + (long)(sent / rate * Stopwatch.Frequency);
                // Never before it is due; a timer takes whole milliseconds.
                while (due - Stopwatch.GetTimestamp() is > 0 and var early)
                    await Task.Delay((int)Math.Ceiling(early * 1000.0 / Stopwatch.Frequency));
            }
            else if (clock.Elapsed >= length)
            {
                break;
            }
            if (!await _room.WaitAsync(Patience))
                throw new BenchmarkException(string.Create(CultureInfo.InvariantCulture, $"no host was told to launch any of {_window} for {Patience.TotalSeconds} s; {_refused} creates were refused"));
            _ = CreateAsync(perSecond is null ? Stopwatch.GetTimestamp() : due);
        }
        var full = new CreateFigures(clock.Elapsed.TotalSeconds, [.. _done.Order()]);
        for (clock.Restart(); !_begun.IsEmpty && clock.Elapsed < Patience;)
            await Task.Delay(50);
        // Who is still waited for has taken that long at least.
        return perSecond is null ? full : full with { Milliseconds = [.. _done.Concat(_begun.Values.Select(begun => Stopwatch.GetElapsedTime(begun).TotalMilliseconds)).Order()] };
    }

    private async Task CreateAsync(long begun)
    {
        var name = string.Create(CultureInfo.InvariantCulture, $"vm-{Interlocked.Increment(ref _number)}");
        _begun[name] = begun;
        try
        {
            using var body = Body(name);
            using var answer = await Api.PostAsync("/v1/vms", body);
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

    // By its name, which the answer to its create may come behind.
    private void Launched(string name)
    {
        if (!_begun.TryRemove(name, out var begun))
            return;
        _done.Enqueue(Stopwatch.GetElapsedTime(begun).TotalMilliseconds);
        _room.Release();
    }

    /// <summary>Clients that each ask for the next microVM as soon as the one before is answered; none of them is to wait for room.</summary>
    public async Task<RaceResult> RaceAsync(int microVms, int clients)
    {
        await UntilRefusalsAreCertainAsync();
        var (asked, atOnce) = (0, 0);
        var acknowledged = new ConcurrentBag<Uri>();
        await Task.WhenAll(Enumerable.Range(0, clients).Select(_ => Task.Run(async () =>
        {
            while (Interlocked.Increment(ref asked) is var number && number <= microVms)
            {
                try
                {
                    using var body = Body(string.Create(CultureInfo.InvariantCulture, $"racer-{number}"), queue: false);
                    using var answer = await Api.PostAsync("/v1/vms", body);
                    if (answer.IsSuccessStatusCode)
                        acknowledged.Add(answer.Headers.Location!);
                    else if (await IsFullAsync(answer))
                        Interlocked.Increment(ref atOnce);
                }
                catch (Exception failed) when (failed is HttpRequestException or OperationCanceledException)
                {
                    // Neither launched nor refused, unless a host tells otherwise.
                }
            }
        })));
        var refused = atOnce;
        foreach (var vm in acknowledged)
        {
            if (await WasRefusedAsync(vm))
                refused++;
        }
        return new(refused, atOnce, microVms - refused - _cell.Launches.Count);
    }

    // A node that just started does not say that there is no room, for it may not know every host.
    private async Task UntilRefusalsAreCertainAsync()
    {
        for (var clock = Stopwatch.StartNew(); ; await Task.Delay(100))
        {
            using var body = Body("too-big", queue: false, cpus: 32);
            using var answer = await Api.PostAsync("/v1/vms", body);
            if (await IsFullAsync(answer))
                return;
            if (answer.StatusCode != HttpStatusCode.ServiceUnavailable || clock.Elapsed > 2 * Patience)
                throw new BenchmarkException($"a microVM that has room nowhere is answered {(int)answer.StatusCode}: {await answer.Content.ReadAsStringAsync()}");
        }
    }

    // Of one that was acknowledged, when it is settled.
    private async Task<bool> WasRefusedAsync(Uri vm)
    {
        var id = vm.OriginalString[(vm.OriginalString.LastIndexOf('/') + 1)..];
        for (var clock = Stopwatch.StartNew(); !_cell.Launches.Has(id) && clock.Elapsed < Patience; await Task.Delay(50))
        {
            if (await Api.GetFromJsonAsync<VmBody>(vm) is { State: "failed", Reason.Code: NoCapacity })
                return true;
        }
        return false;
    }

    private const string NoCapacity = "no_capacity";

    // Of a microVM, and of an answer that is an error.
    private sealed record ReasonBody(string? Code);

    private sealed record VmBody(string? State, ReasonBody? Reason);

    private static async Task<bool> IsFullAsync(HttpResponseMessage answer) =>
        answer.StatusCode == HttpStatusCode.Conflict && await answer.Content.ReadFromJsonAsync<ReasonBody>() is { Code: NoCapacity };

    /// <summary>Creates as many as it can, ends the scheduler by kill -9 in the middle, starts it again, and counts those that were acknowledged and are not there.</summary>
    public async Task<int> LostByKillAsync()
    {
        var acknowledged = new ConcurrentBag<Uri>();
        var clients = Enumerable.Range(0, 64).Select(_ => CreateUntilRefusedAsync(acknowledged)).ToArray();
        await Task.Delay(TimeSpan.FromSeconds(3));
        _cell.Scheduler.Kill();
        await Task.WhenAll(clients);
        if (acknowledged.IsEmpty)
            throw new BenchmarkException("nothing was acknowledged before the kill");
        _cell.Scheduler.Start();
        await UntilHealthyAsync();
        var lost = 0;
        await Parallel.ForEachAsync(acknowledged, new ParallelOptions { MaxDegreeOfParallelism = 16 }, async (vm, _) =>
        {
            var clock = Stopwatch.StartNew();
            HttpStatusCode said;
            do
            {
                using var answer = await Api.GetAsync(vm, CancellationToken.None);
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
                using var answer = await Api.PostAsync("/v1/vms", body);
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

    private static StringContent Body(string name, bool queue = true, ulong cpus = LedgerCheck.Cpus) => new(
        string.Create(CultureInfo.InvariantCulture, $$"""{"name":"{{name}}","cpus":{{cpus}},"memory_mib":{{LedgerCheck.MemoryMib}},"queue":{{(queue ? "true" : "false")}}}"""), Encoding.UTF8, "application/json");

    private async Task<bool> IsHealthyAsync()
    {
        try
        {
            using var answer = await Api.GetAsync("/v1/health");
            return answer.StatusCode == HttpStatusCode.OK;
        }
        catch (HttpRequestException)
        {
            return false;
        }
    }

    public void Dispose()
    {
        _cell.Launches.Launched -= Launched;
        Api.Dispose();
    }
}
