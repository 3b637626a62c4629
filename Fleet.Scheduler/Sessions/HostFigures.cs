using System.Collections.Concurrent;
using Fleet.Shared.Contracts;

namespace Fleet.Scheduler.Sessions;

/// <summary>What the rate limiters of the hosts did, and what is used there, whose agents have their stream on this node. Kept in memory only: the agents tell it again.</summary>
internal sealed class HostFigures
{
    private readonly ConcurrentDictionary<string, Told> _hosts = new(StringComparer.Ordinal);

    private sealed record Told(object Stream, IReadOnlyList<LimiterFigure> Limiters, UsageSample? Usage, PressureReport? Pressure);

    /// <summary>Replaces what that host told before.</summary>
    /// <param name="hostId">The host.</param>
    /// <param name="stream">Whoever takes it away again when the stream ends; the newest of a host counts.</param>
    /// <param name="limiters">All of them.</param>
    public void Put(string hostId, object stream, IReadOnlyList<LimiterFigure> limiters) =>
        _hosts[hostId] = Of(hostId, stream) with { Limiters = limiters };

    /// <summary>Replaces the sample that this host told before.</summary>
    public void Put(string hostId, object stream, UsageSample usage) => _hosts[hostId] = Of(hostId, stream) with { Usage = usage };

    /// <summary>Replaces what this host told before of what it does about pressure.</summary>
    public void Put(string hostId, object stream, PressureReport pressure) => _hosts[hostId] = Of(hostId, stream) with { Pressure = pressure };

    /// <summary>The stream ended. What a newer one told stays.</summary>
    public void Remove(string hostId, object stream)
    {
        if (_hosts.TryGetValue(hostId, out var told) && ReferenceEquals(told.Stream, stream))
            _hosts.TryRemove(KeyValuePair.Create(hostId, told));
    }

    public IReadOnlyList<LimiterFigure> Of(string hostId, string vmId) =>
        _hosts.TryGetValue(hostId, out var told) ? [.. told.Limiters.Where(limiter => limiter.VmId == vmId)] : [];

    /// <summary>What the microVM used in the last sample; null: it is not in it.</summary>
    public VmUse? UseOf(string hostId, string vmId) =>
        _hosts.TryGetValue(hostId, out var told) ? told.Usage?.Vms.FirstOrDefault(vm => vm.VmId == vmId) : null;

    /// <summary>Every host's figures, in the order of hosts. Sample and pressure are null until one came.</summary>
    public IReadOnlyList<(string HostId, IReadOnlyList<LimiterFigure> Limiters, UsageSample? Usage, PressureReport? Pressure)> All() =>
        [.. _hosts.OrderBy(host => host.Key, StringComparer.Ordinal).Select(host => (host.Key, host.Value.Limiters, host.Value.Usage, host.Value.Pressure))];

    // What another stream of that host told says nothing of this one.
    private Told Of(string hostId, object stream) =>
        _hosts.TryGetValue(hostId, out var told) && ReferenceEquals(told.Stream, stream) ? told : new(stream, [], null, null);
}
