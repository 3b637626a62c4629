namespace Fleet.Scheduler.Hosts;

/// <summary>
/// For how long this process stood still in all (stopped, or on a machine that hung). What hosts sent meanwhile is not read yet when it goes on, so that time
/// does not count against their leases; to give a host up later than it could be is always safe. Thread-safe.
/// </summary>
internal sealed class Pulse : IDisposable
{
    private static readonly TimeSpan Beat = TimeSpan.FromMilliseconds(250);

    /// <summary>A beat that is later than this is more than a busy machine.</summary>
    private static readonly TimeSpan Late = TimeSpan.FromSeconds(1);

    private readonly Lock _lock = new();
    private readonly TimeProvider _clock;
    private readonly ITimer _timer;
    private long _last;
    private TimeSpan _stood;

    /// <param name="clock">By its timestamps.</param>
    public Pulse(TimeProvider clock)
    {
        _clock = clock;
        _last = clock.GetTimestamp();
        _timer = clock.CreateTimer(static pulse => _ = ((Pulse)pulse!).StoodStill, this, Beat, Beat);
    }

    /// <summary>Until now; only grows.</summary>
    public TimeSpan StoodStill
    {
        get
        {
            lock (_lock)
            {
                // Asked before the beat that is due: the answer is the same.
                var now = _clock.GetTimestamp();
                if (_clock.GetElapsedTime(_last, now) is var gap && gap > Late)
                    _stood += gap;
                _last = now;
                return _stood;
            }
        }
    }

    public void Dispose() => _timer.Dispose();
}
