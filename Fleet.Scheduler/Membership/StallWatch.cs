namespace Fleet.Scheduler.Membership;

/// <summary>
/// Ends a node that stood still (a stopped process, a machine that hung) for so long that the others are about to give it up. If it went on just then, it
/// would call all of them unreachable while they call it so, and the split-brain resolver, which can't tell who is right, would end one more of them.
/// Its actors come up elsewhere and its process starts anew, as they would have in any case a second later.
/// </summary>
internal sealed class StallWatch : IDisposable
{
    /// <summary>
    /// The others call a node unreachable after 2.5 s and decide after 3 s more (cluster.conf). Who is back within this is reachable again before they
    /// decide, and that starts their wait anew.
    /// </summary>
    public static readonly TimeSpan Longest = TimeSpan.FromSeconds(4);

    /// <summary>Shorter than the ticks of the cluster's own timers: this has to come first when the process goes on.</summary>
    private static readonly TimeSpan Tick = TimeSpan.FromMilliseconds(50);

    private readonly ManualResetEventSlim _stop = new();
    private readonly Thread _thread;

    /// <param name="clock">By its timestamps, which nobody sets.</param>
    /// <param name="stalled">Told how long it was; is to end the process before anything else of it is heard of.</param>
    public StallWatch(TimeProvider clock, Action<TimeSpan> stalled)
    {
        // A thread of its own: the pool's are the first to wait when a machine is busy.
        _thread = new Thread(() => Watch(clock, stalled, _stop.Wait)) { IsBackground = true, Name = "stall-watch", Priority = ThreadPriority.Highest };
        _thread.Start();
    }

    /// <summary>Looks until told to stop, or until it has told of a stall.</summary>
    /// <param name="clock">Tells how long a wait took.</param>
    /// <param name="stalled">Told of the first stall.</param>
    /// <param name="wait">Waits that long; true: stop.</param>
    internal static void Watch(TimeProvider clock, Action<TimeSpan> stalled, Func<TimeSpan, bool> wait)
    {
        for (var before = clock.GetTimestamp(); !wait(Tick);)
        {
            var now = clock.GetTimestamp();
            if (clock.GetElapsedTime(before, now) is var took && took > Longest)
            {
                stalled(took);
                return;
            }
            before = now;
        }
    }

    public void Dispose()
    {
        _stop.Set();
        _thread.Join();
        _stop.Dispose();
    }
}
