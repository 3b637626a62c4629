namespace Fleet.Scheduler.Sessions;

/// <summary>
/// Console input that is on its way to one host: so much of each microVM and of all together, until the agent says that it took
/// it. Orders go by the same stream, and no writer may fill it before them. Not safe for several threads.
/// </summary>
internal sealed class InputWindow
{
    /// <summary>Messages of one microVM; at 4 KiB each more than a serial port takes in seconds.</summary>
    public const int MostOfOne = 64;

    /// <summary>Messages of all: a quarter of what may wait for a slow agent.</summary>
    public const int MostOfAll = 1024;

    private readonly Dictionary<string, int> _underWay = new(StringComparer.Ordinal);
    private int _all;

    /// <summary>Takes a place for one message; false when there is none.</summary>
    public bool TryEnter(string vmId)
    {
        var before = _underWay.GetValueOrDefault(vmId);
        if (before >= MostOfOne || _all >= MostOfAll)
            return false;
        _underWay[vmId] = before + 1;
        _all++;
        return true;
    }

    /// <summary>The agent took so many. It runs beside strangers' code: what it never got it can't give back.</summary>
    public void Leave(string vmId, uint messages)
    {
        if (!_underWay.TryGetValue(vmId, out var before))
            return;
        var left = (int)Math.Max(0, before - messages);
        _all -= before - left;
        if (left == 0)
            _underWay.Remove(vmId);
        else
            _underWay[vmId] = left;
    }
}
