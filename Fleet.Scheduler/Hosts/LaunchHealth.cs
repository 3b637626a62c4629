using Fleet.Scheduler.Cell;

namespace Fleet.Scheduler.Hosts;

/// <summary>When a host on which launches fail is left alone, and for how long.</summary>
/// <param name="Failures">So many different microVMs in a row, with no launch between that worked.</param>
/// <param name="Window">A failure counts for so long.</param>
/// <param name="FirstPause">Until the first trial; doubles with each trial that fails.</param>
/// <param name="LongestPause">The longest of these.</param>
public sealed record QuarantineTerms(int Failures, TimeSpan Window, TimeSpan FirstPause, TimeSpan LongestPause)
{
    public static readonly QuarantineTerms Default = new(3, TimeSpan.FromMinutes(10), TimeSpan.FromMinutes(1), TimeSpan.FromMinutes(30));

    /// <summary>How long to wait after so many failed trials.</summary>
    public TimeSpan Pause(uint failedTrials) => DoublingPause.After(FirstPause, failedTrials, LongestPause);
}

/// <summary>
/// One host's launches: which are under way, and of which microVMs they failed lately. Not stored: an actor that was recovered
/// counts anew. Times are those of a clock that nobody sets. Not safe for several threads.
/// </summary>
internal sealed class LaunchHealth(QuarantineTerms terms)
{
    private readonly HashSet<(string VmId, ulong Epoch)> _underWay = [];
    private readonly Dictionary<string, TimeSpan> _failed = new(StringComparer.Ordinal);

    /// <summary>The one launch that a quarantined host is given.</summary>
    public (string VmId, ulong Epoch)? Trial { get; private set; }

    /// <summary>Launches of so many different microVMs failed, and none worked since.</summary>
    public int Failures => _failed.Count;

    /// <summary>Enough to leave the host alone.</summary>
    public bool IsBad => _failed.Count >= terms.Failures;

    public void Try(string vmId, ulong epoch) => Trial = (vmId, epoch);

    /// <summary>The launch was ordered.</summary>
    public void Began(string vmId, ulong epoch) => _underWay.Add((vmId, epoch));

    /// <summary>The guest runs. False when this says nothing new: it was known to run.</summary>
    public bool Worked(string vmId, ulong epoch)
    {
        if (!_underWay.Remove((vmId, epoch)))
            return false;
        _failed.Clear();
        EndTrial(vmId, epoch);
        return true;
    }

    /// <summary>The launch failed by what the host is or has. True when it was the trial.</summary>
    public bool Failed(string vmId, ulong epoch, TimeSpan now)
    {
        if (_underWay.Remove((vmId, epoch)))
            Blame(vmId, now);
        return EndTrial(vmId, epoch);
    }

    /// <summary>Other hosts launched it: it was this host's fault.</summary>
    public void Blame(string vmId, TimeSpan now)
    {
        foreach (var old in _failed.Where(failure => now - failure.Value > terms.Window).Select(failure => failure.Key).ToList())
            _failed.Remove(old);
        // More of them say nothing more.
        if (_failed.Count < terms.Failures * 2)
            _failed[vmId] = now;
    }

    /// <summary>It failed on other hosts as well. False when it did not count here.</summary>
    public bool Excuse(string vmId) => _failed.Remove(vmId);

    /// <summary>Nothing of this launch is here any more, however it went. True when it was the trial.</summary>
    public bool Over(string vmId, ulong epoch)
    {
        _underWay.Remove((vmId, epoch));
        return EndTrial(vmId, epoch);
    }

    /// <summary>An operator says that all is well.</summary>
    public void Forget()
    {
        _failed.Clear();
        Trial = null;
    }

    private bool EndTrial(string vmId, ulong epoch)
    {
        if (Trial != (vmId, epoch))
            return false;
        Trial = null;
        return true;
    }
}
