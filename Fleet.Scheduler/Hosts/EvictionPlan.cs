namespace Fleet.Scheduler.Hosts;

/// <summary>
/// Which microVM of a host that is short is asked next to go elsewhere: the lowest class first, one at a time, and with pauses in which it shows whether
/// that was enough. Not stored: an actor that was recovered hears of the shortage anew. Not safe for several threads.
/// </summary>
internal sealed class EvictionPlan
{
    /// <summary>From one that goes to the next: what it used is free, and has been measured, by then.</summary>
    public static readonly TimeSpan Pause = TimeSpan.FromSeconds(30);

    /// <summary>One that found no room elsewhere is asked again after this.</summary>
    public static readonly TimeSpan AskAgain = TimeSpan.FromMinutes(1);

    /// <summary>One that gave no answer is asked again after this.</summary>
    public static readonly TimeSpan Patience = TimeSpan.FromSeconds(15);

    private readonly Dictionary<(string VmId, ulong Epoch), TimeSpan> _stays = [];
    private (string VmId, ulong Epoch)? _asked;
    private TimeSpan _askedAt;
    private bool _goes;
    private TimeSpan? _lastWent;

    /// <summary>The one to ask now; null: none.</summary>
    /// <param name="held">Those that are here.</param>
    /// <param name="forMemory">Memory is short; else CPU.</param>
    /// <param name="now">On a clock that nobody sets.</param>
    public Reservation? Next(IReadOnlyCollection<Reservation> held, bool forMemory, TimeSpan now)
    {
        foreach (var late in _stays.Where(one => now - one.Value >= AskAgain).Select(one => one.Key).ToList())
            _stays.Remove(late);
        var here = held.Where(one => !one.Vacated).ToList();
        if (_asked is { } asked)
        {
            if (here.Find(one => (one.VmId, one.Epoch) == asked) is { } open)
            {
                if (now - _askedAt < Patience)
                    return null;
                // What it said before may hold no more: a suspend that failed has it run on.
                (_askedAt, _goes) = (now, false);
                return open;
            }
            // It has gone, or ended by itself: room is made either way.
            _asked = null;
            _lastWent = now;
        }
        if (now - _lastWent < Pause)
            return null;
        // Last those that were sent about often enough. The lowest class first; of a class the largest in what is short, which makes the most room, so that the fewest have to go; of those
        // that are alike always the same one, whatever order they are held in.
        var next = here
            .Where(one => !_stays.ContainsKey((one.VmId, one.Epoch)))
            .OrderBy(one => one.Settled).ThenBy(one => one.Rank).ThenByDescending(one => forMemory ? one.MemoryMib : one.Cpus).ThenByDescending(one => one.VmId, StringComparer.Ordinal)
            .FirstOrDefault();
        if (next is not null)
            (_asked, _askedAt, _goes) = ((next.VmId, next.Epoch), now, false);
        return next;
    }

    /// <summary>It goes, or stays and so another is asked.</summary>
    public void Answered(string vmId, ulong epoch, bool goes, TimeSpan now)
    {
        if (_asked != (vmId, epoch) || _goes)
            return;
        _goes = goes;
        if (goes)
            return;
        _asked = null;
        _stays[(vmId, epoch)] = now;
    }
}
