using Fleet.Shared.GuestChannel;

namespace Fleet.Host.Logs;

/// <summary>
/// How fast commands' output is taken: so much of one microVM, and so much of all on this host together. What comes faster waits in its guest, and in the end
/// the command does. Costs are those of <see cref="StreamLedger.Cost"/>, so that many small pieces are bounded too. Thread-safe.
/// </summary>
internal sealed class LogPace(TimeProvider clock)
{
    /// <summary>A microVM's, each second.</summary>
    public const int PerVm = 32 << 20;

    /// <summary>All of a host's: 32,000 pieces at the most, which keep less than one CPU busy.</summary>
    public const int PerHost = 64 << 20;

    /// <summary>Before anybody waits: what was not used of the last second.</summary>
    private static readonly TimeSpan Burst = TimeSpan.FromSeconds(1);

    private readonly Line _all = new(PerHost);

    /// <summary>One microVM's part of it.</summary>
    public Func<int, TimeSpan> NewVm()
    {
        var own = new Line(PerVm);
        return cost =>
        {
            var now = clock.GetElapsedTime(0);
            var (mine, ours) = (own.Take(cost, now), _all.Take(cost, now));
            return mine > ours ? mine : ours;
        };
    }

    private sealed class Line(int bytesPerSecond)
    {
        private readonly Lock _gate = new();
        private TimeSpan _busyUntil = TimeSpan.MinValue;

        public TimeSpan Take(int cost, TimeSpan now)
        {
            lock (_gate)
            {
                if (_busyUntil < now - Burst) _busyUntil = now - Burst;
                _busyUntil += TimeSpan.FromSeconds((double)cost / bytesPerSecond);
                return _busyUntil > now ? _busyUntil - now : TimeSpan.Zero;
            }
        }
    }
}
