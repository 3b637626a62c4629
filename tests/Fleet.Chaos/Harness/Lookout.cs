using System.Text.Json;
using Fleet.Chaos.Checking;
using Fleet.Chaos.Network;
using Fleet.Scheduler.Cell;

namespace Fleet.Chaos.Harness;

/// <summary>
/// Asks every node of the control plane again and again which node carries which actors, and since when the actors of hosts count their silence: by that the checker
/// knows which faults bear on a microVM. What can't be had is not known.
/// </summary>
internal sealed class Lookout(ChaosFleet fleet)
{
    private static readonly TimeSpan Pause = TimeSpan.FromSeconds(2);

    /// <summary>The same start of a host's actor, told with a tenth of a second's precision by an answer that took its time.</summary>
    private const long SameStartMs = 3_000;

    private readonly Lock _gate = new();
    private readonly Dictionary<(string Region, string Shard), List<Sighting>> _sightings = [];
    private readonly Dictionary<string, List<Recount>> _recounts = [];

    public IReadOnlyList<Sighting> Sightings => [.. _sightings.Values.SelectMany(seen => seen)];

    public IReadOnlyList<Recount> Recounts => [.. _recounts.Values.SelectMany(seen => seen)];

    public Task RunAsync(CancellationToken cancellation) => Task.WhenAll(Enumerable.Range(0, fleet.Options.Schedulers).Select(async node =>
    {
        while (!cancellation.IsCancellationRequested)
        {
            await LookAsync(node);
            await Task.Delay(Pause, CancellationToken.None);
        }
    }));

    private async Task LookAsync(int node)
    {
        foreach (var region in new[] { ShardRegions.Vms, ShardRegions.Hosts })
        {
            var asked = Kernel.BootMs;
            foreach (var row in await fleet.Api.CommandAsync(node, "cluster-sharding", "list-shards", region) ?? [])
            {
                if (fleet.SchedulerAt(row.GetProperty("node").GetString()!) is { } carrier)
                    See(region, row.GetProperty("shard").GetString()!, carrier, asked);
            }
        }

        foreach (var row in await fleet.Api.CommandAsync(node, "lease", "list") ?? [])
        {
            // One that has granted counts from that; one whose time is over counts no more.
            if (row.GetProperty("granted_s_ago").ValueKind == JsonValueKind.Null && row.GetProperty("left_s") is { ValueKind: JsonValueKind.Number } left && left.GetDouble() > 0)
                Hear(row.GetProperty("host").GetString()!, Kernel.BootMs - (long)((row.GetProperty("lease_s").GetDouble() - left.GetDouble()) * 1000));
        }
    }

    private void See(string region, string shard, string carrier, long atMs)
    {
        lock (_gate)
        {
            if (!_sightings.TryGetValue((region, shard), out var seen))
                _sightings[(region, shard)] = seen = [];
            // Answers of several nodes may come in another order than they were asked for.
            if (seen.Count > 0 && seen[^1].Process == carrier)
                seen[^1] = seen[^1] with { ToMs = Math.Max(seen[^1].ToMs, atMs) };
            else if (seen.Count == 0 || seen[^1].ToMs < atMs)
                seen.Add(new(region, shard, carrier, atMs, atMs));
        }
    }

    private void Hear(string host, long atMs)
    {
        lock (_gate)
        {
            if (!_recounts.TryGetValue(host, out var heard))
                _recounts[host] = heard = [];
            if (heard.Count == 0 || atMs - heard[^1].AtMs > SameStartMs)
                heard.Add(new(host, atMs));
        }
    }
}
