using System.Collections.Immutable;

namespace Fleet.Scheduler.Placement;

/// <summary>
/// Members of groups that were sent to a host whose view does not show them yet: they count there at once, so that several that are created together
/// don't all take the same zone. Not safe for several threads.
/// </summary>
internal sealed class PlacementTrials(PlacementEngine engine)
{
    private readonly Dictionary<string, string> _hostOf = new(StringComparer.Ordinal);
    private readonly Dictionary<string, Dictionary<string, Trial>> _byHost = new(StringComparer.Ordinal);

    /// <param name="Groups">That it is a member of.</param>
    /// <param name="Version">Of the host's record that has it; 0: the host has not answered.</param>
    /// <param name="Since">When it was sent there.</param>
    private sealed record Trial(ImmutableArray<string> Groups, ulong Version, TimeSpan Since);

    /// <summary>The microVM is sent to that host, and to no other any more.</summary>
    public void Begin(string vmId, string host, ImmutableArray<string> groups, TimeSpan now)
    {
        End(vmId);
        if (groups.IsEmpty || engine.Find(host) is null)
            return;
        _hostOf[vmId] = host;
        if (!_byHost.TryGetValue(host, out var there))
            _byHost[host] = there = new(StringComparer.Ordinal);
        there[vmId] = new Trial(groups, 0, now);
        Count(host, groups, 1);
    }

    /// <summary>The host took it, which its view shows from that version on.</summary>
    public void Reserved(string vmId, ulong version)
    {
        if (_hostOf.TryGetValue(vmId, out var host))
            _byHost[host][vmId] = _byHost[host][vmId] with { Version = version };
    }

    /// <summary>The microVM goes nowhere.</summary>
    public void End(string vmId)
    {
        if (!_hostOf.Remove(vmId, out var host))
            return;
        var there = _byHost[host];
        there.Remove(vmId, out var trial);
        if (there.Count == 0)
            _byHost.Remove(host);
        Count(host, trial!.Groups, -1);
    }

    /// <summary>Before the host's view of that version counts: what it shows need not be counted here.</summary>
    public void Seen(string host, ulong version)
    {
        if (!_byHost.TryGetValue(host, out var there))
            return;
        foreach (var shown in there.Where(one => one.Value.Version > 0 && one.Value.Version <= version).Select(one => one.Key).ToList())
            End(shown);
    }

    /// <summary>Before the host is forgotten.</summary>
    public void Gone(string host)
    {
        if (!_byHost.TryGetValue(host, out var there))
            return;
        foreach (var vmId in there.Keys.ToList())
            End(vmId);
    }

    /// <summary>Of whoever asked and was never heard of again.</summary>
    public void DropOlder(TimeSpan before)
    {
        foreach (var vmId in _byHost.Values.SelectMany(there => there).Where(one => one.Value.Since < before).Select(one => one.Key).ToList())
            End(vmId);
    }

    private void Count(string host, ImmutableArray<string> groups, int by)
    {
        if (engine.Find(host) is not { } placed)
            return;
        foreach (var group in groups)
            engine.Count(placed, group, by);
    }
}
