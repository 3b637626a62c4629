namespace Fleet.Scheduler.Hosts;

/// <summary>
/// What is known of the agent's side since its last Hello: which (vm, epoch) may be there, and which reservations were never
/// followed by a launch. Not stored; every Hello makes it anew. Times are those of a clock that nobody sets. Not safe for several threads.
/// </summary>
internal sealed class HostPresence
{
    private readonly HashSet<(string VmId, ulong Epoch)> _there = [];
    private readonly HashSet<(string VmId, ulong Epoch)> _confirmed = [];
    private readonly Dictionary<(string VmId, ulong Epoch), TimeSpan> _reservedAt = [];
    private readonly HashSet<(string VmId, ulong Epoch)> _unwanted = [];
    private readonly HashSet<(string VmId, ulong Epoch)> _removeSent = [];
    private readonly HashSet<(string VmId, ulong Epoch)> _removeWanted = [];
    private bool _heard;

    /// <summary>A stream opened: the agent has exactly these.</summary>
    public void Hello(IEnumerable<(string VmId, ulong Epoch)> there)
    {
        _heard = true;
        _there.Clear();
        _there.UnionWith(there);
    }

    /// <summary>The stream ended: nobody knows what happens there now.</summary>
    public void Lost() => _heard = false;

    public void Reserved(string vmId, ulong epoch, TimeSpan now) => _reservedAt[(vmId, epoch)] = now;

    /// <summary>A launch was sent: it may be there from now on.</summary>
    public void Launched(string vmId, ulong epoch)
    {
        _there.Add((vmId, epoch));
        Confirm(vmId, epoch);
    }

    /// <summary>Its microVM wants this reservation.</summary>
    public void Confirm(string vmId, ulong epoch)
    {
        _confirmed.Add((vmId, epoch));
        _reservedAt.Remove((vmId, epoch));
        _unwanted.Remove((vmId, epoch));
    }

    public bool IsConfirmed(string vmId, ulong epoch) => _confirmed.Contains((vmId, epoch));

    /// <summary>Its microVM has nothing to do with this reservation any more: it is to be removed until it is gone.</summary>
    public void Unwanted(string vmId, ulong epoch) => _unwanted.Add((vmId, epoch));

    public bool IsUnwanted(string vmId, ulong epoch) => _unwanted.Contains((vmId, epoch));

    /// <summary>Its microVM is being deleted, and the agent can't be told.</summary>
    public void RemoveWanted(string vmId, ulong epoch) => _removeWanted.Add((vmId, epoch));

    public bool IsRemoveWanted(string vmId, ulong epoch) => _removeWanted.Contains((vmId, epoch));

    /// <summary>The agent was told to remove it, and whoever wanted that asks again until it is gone.</summary>
    public void RemoveSent(string vmId, ulong epoch) => _removeSent.Add((vmId, epoch));

    public bool WasRemoveSent(string vmId, ulong epoch) => _removeSent.Contains((vmId, epoch));

    /// <summary>The agent speaks of it, though its Hello may have been written before it came.</summary>
    public void Seen(string vmId, ulong epoch) => _there.Add((vmId, epoch));

    /// <summary>The agent says that nothing of it is left.</summary>
    public void Removed(string vmId, ulong epoch) => _there.Remove((vmId, epoch));

    /// <summary>The agent certainly has nothing of it.</summary>
    public bool IsAbsent(string vmId, ulong epoch) => _heard && !_there.Contains((vmId, epoch));

    /// <summary>Nobody has said yet that this reservation is meant, and its microVM had the time to.</summary>
    public bool IsDoubtful(string vmId, ulong epoch, TimeSpan reservedBefore) =>
        !_confirmed.Contains((vmId, epoch))
        && !(_reservedAt.TryGetValue((vmId, epoch), out var at) && at > reservedBefore);

    public void Forget(string vmId, ulong epoch)
    {
        _there.Remove((vmId, epoch));
        _confirmed.Remove((vmId, epoch));
        _reservedAt.Remove((vmId, epoch));
        _unwanted.Remove((vmId, epoch));
        _removeSent.Remove((vmId, epoch));
        _removeWanted.Remove((vmId, epoch));
    }
}
