using System.Collections.Concurrent;
using Fleet.Shared.Contracts;

namespace Fleet.Benchmarks.Durable;

/// <summary>What hosts were told to launch. Thread-safe.</summary>
internal sealed class Launches
{
    private readonly ConcurrentDictionary<string, string> _homes = new(StringComparer.Ordinal);
    private readonly ConcurrentDictionary<(string Host, string VmId), bool> _seen = new();
    private readonly ConcurrentDictionary<string, int> _byHost = new(StringComparer.Ordinal);
    private long _doubles;

    /// <summary>Told the name of each microVM when a host is told to launch it.</summary>
    public event Action<string>? Launched;

    /// <summary>microVMs that another host was told to launch too.</summary>
    public long Doubles => Volatile.Read(ref _doubles);

    /// <summary>microVMs that some host was told to launch.</summary>
    public int Count => _homes.Count;

    public bool Has(string vmId) => _homes.ContainsKey(vmId);

    /// <summary>microVMs that this host was told to launch.</summary>
    public int On(string host) => _byHost.GetValueOrDefault(host);

    public void Note(string host, LaunchVm launch)
    {
        // A host may be told again what it was told.
        if (_seen.TryAdd((host, launch.VmId), true))
        {
            _byHost.AddOrUpdate(host, 1, (_, count) => count + 1);
            if (!_homes.TryAdd(launch.VmId, host))
                Interlocked.Increment(ref _doubles);
        }
        Launched?.Invoke(launch.Spec.Name);
    }
}
