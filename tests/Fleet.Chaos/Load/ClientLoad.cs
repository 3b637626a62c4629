using System.Collections.Concurrent;
using System.Globalization;
using System.Text.Json.Nodes;
using Fleet.Chaos.Checking;
using Fleet.Chaos.Faults;
using Fleet.Chaos.Harness;
using Fleet.Chaos.Network;

namespace Fleet.Chaos.Load;

/// <summary>What the load does.</summary>
/// <param name="PerSecond">New requests a second, retries not counted.</param>
/// <param name="Population">About how many microVMs exist.</param>
/// <param name="Kernel">Of the guests under kvm; null: none are.</param>
internal sealed record LoadOptions(double PerSecond, int Population, string? Kernel);

/// <summary>
/// A constant rate of creates, stops, deletes, reads, suspends and resumes over all scheduler nodes. Each is repeated until a node answers it, at the next node, creates
/// under one idempotency key; and each try is written down with its answer.
/// </summary>
internal sealed class ClientLoad(ApiClient api, LoadOptions options, ulong seed)
{
    private static readonly TimeSpan RetryPause = TimeSpan.FromMilliseconds(300);

    /// <summary>Beyond this many that nobody answers no new one is begun.</summary>
    private const int MostOpen = 200;

    private readonly SeededRandom _random = new(seed ^ 0x10adUL);
    private readonly ConcurrentQueue<ClientRequest> _log = new();
    private readonly ConcurrentDictionary<Task, byte> _open = new();
    private readonly Lock _gate = new();
    private readonly List<string> _alive = [];
    private readonly List<string> _suspended = [];
    private long _giveUpMs = long.MaxValue;
    private int _created;

    public IReadOnlyCollection<ClientRequest> Log => _log;

    /// <summary>microVMs whose create was begun.</summary>
    public int Created => _created;

    /// <summary>Runs until it is cancelled; what is open then goes on until <see cref="FinishAsync"/>.</summary>
    public async Task RunAsync(CancellationToken cancellation)
    {
        using var pace = new PeriodicTimer(TimeSpan.FromSeconds(1 / options.PerSecond));
        try
        {
            while (await pace.WaitForNextTickAsync(cancellation))
            {
                if (_open.Count < MostOpen)
                    Track(Task.Run(NextAsync, CancellationToken.None));
            }
        }
        catch (OperationCanceledException)
        {
            // The run is over.
        }
    }

    /// <summary>Waits until every request is answered; gives up after that time.</summary>
    public async Task FinishAsync(TimeSpan patience)
    {
        Volatile.Write(ref _giveUpMs, Network.Kernel.BootMs + (long)patience.TotalMilliseconds);
        await Task.WhenAll(_open.Keys);
    }

    /// <summary>Creates one that nothing happens to, and returns its id once it is acknowledged.</summary>
    public async Task<string> CreateAsync()
    {
        var number = Interlocked.Increment(ref _created);
        var key = string.Create(CultureInfo.InvariantCulture, $"c{seed:x}-{number}");
        var spec = new JsonObject { ["name"] = key, ["cpus"] = 1, ["memory_mib"] = 32 };
        if (options.Kernel is { } kernel && number % 2 == 0)
        {
            spec["driver"] = "kvm";
            spec["boot"] = new JsonObject { ["kernel_path"] = kernel };
        }
        else
        {
            spec["driver"] = "simulated";
            spec["simulated"] = new JsonObject { ["boot_ms"] = 5 };
        }

        return await SendAsync(Verb.Create, HttpMethod.Post, "/v1/vms", key, null, spec) ?? "";
    }

    private async Task NextAsync()
    {
        double choice;
        string? vm = null;
        bool create;
        lock (_gate)
        {
            choice = _random.Fraction();
            if (_alive.Count > 0)
                vm = _alive[(int)_random.Below(_alive.Count)];
            // Around the wanted number as many come as go.
            create = vm is null || choice < 0.45 * Math.Min(2, (double)options.Population / Math.Max(1, _alive.Count));
            if (!create && choice >= 0.6)
            {
                _alive.Remove(vm!);
                _suspended.Remove(vm!);
            }

            if (!create && choice is >= 0.53 and < 0.56 && _suspended.Count > 0)
                vm = _suspended[(int)_random.Below(_suspended.Count)];
        }

        if (create)
        {
            if (await CreateAsync() is { Length: > 0 } id)
            {
                lock (_gate)
                    _alive.Add(id);
            }
        }
        else if (choice < 0.5)
            await SendAsync(Verb.Stop, HttpMethod.Post, $"/v1/vms/{vm}/stop", "", vm, new JsonObject { ["grace_seconds"] = 1 });
        else if (choice < 0.53)
            await PutAsync(vm!, Verb.Suspend, "suspend", _suspended);
        else if (choice < 0.56)
            await PutAsync(vm!, Verb.Resume, "resume", null);
        else if (choice < 0.6)
            await SendAsync(Verb.Read, HttpMethod.Get, $"/v1/vms/{vm}", "", vm, null);
        else
            await SendAsync(Verb.Delete, HttpMethod.Delete, $"/v1/vms/{vm}", "", vm, null);
    }

    /// <summary>One that is suspended is among those that are alive as well: it is stopped and deleted like any other.</summary>
    private async Task PutAsync(string vm, Verb verb, string path, List<string>? among)
    {
        if (await SendAsync(verb, HttpMethod.Post, $"/v1/vms/{vm}/{path}", "", vm, null) is null)
            return;
        lock (_gate)
        {
            _suspended.Remove(vm);
            among?.Add(vm);
        }
    }

    private async Task<string?> SendAsync(Verb verb, HttpMethod method, string path, string key, string? vm, JsonNode? body)
    {
        for (var node = (int)(Network.Kernel.BootMs % api.Nodes); ; node = (node + 1) % api.Nodes)
        {
            var sent = Network.Kernel.BootMs;
            var answer = await api.SendAsync(node, method, path, body?.DeepClone(), key.Length > 0 ? key : null);
            var id = vm ?? answer.Text("id");
            _log.Enqueue(new(verb, key, id, sent, answer.Status == 0 ? null : Network.Kernel.BootMs, answer.Status)
            {
                Detail = string.Create(CultureInfo.InvariantCulture, $"node {node} {answer.Text("code")}"),
            });
            // Everything else is an answer; these two say that it should be asked again.
            if (answer.Status is not (0 or >= 500))
                return answer.Status is >= 200 and < 300 ? id : null;
            if (Network.Kernel.BootMs > Volatile.Read(ref _giveUpMs))
                return null;
            await Task.Delay(RetryPause);
        }
    }

    private void Track(Task work)
    {
        _open.TryAdd(work, 0);
        _ = work.ContinueWith(done => _open.TryRemove(done, out _), CancellationToken.None, TaskContinuationOptions.ExecuteSynchronously, TaskScheduler.Default);
    }
}
