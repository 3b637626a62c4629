namespace Fleet.Vmm.RateLimiting;

/// <summary>
/// What one queue of a device may carry: operations and bytes, each with a bucket of its own or none. Both must have room,
/// or nothing is taken from either.
/// </summary>
/// <remarks>Allocates nothing per request. Not for two threads at once: the transport's lock is held.</remarks>
internal sealed class RateLimiter
{
    private readonly TimeProvider _clock;
    private TokenBucket? _bytes;
    private TokenBucket? _operations;
    private long _waitingSince = -1;

    public RateLimiter(LimiterSettings settings, TimeProvider clock)
    {
        _clock = clock;
        Settings = new LimiterSettings(null, null);
        Update(settings);
    }

    /// <summary>In force, bursts as they were configured.</summary>
    public LimiterSettings Settings { get; private set; }

    /// <summary>Requests that had to wait.</summary>
    public ulong Throttled { get; private set; }

    /// <summary>Ticks of 100 ns that a request waited at the limiter, all together.</summary>
    public ulong ThrottledTime { get; private set; }

    /// <summary>Requests that passed.</summary>
    public ulong PassedOperations { get; private set; }

    /// <summary>Bytes that passed.</summary>
    public ulong PassedBytes { get; private set; }

    /// <summary>Takes one operation of so many bytes; if that is not allowed yet, how long it should wait before it asks again.</summary>
    public bool TryTake(ulong bytes, out TimeSpan wait)
    {
        var now = Now;
        var operationsAt = now;
        var bytesAt = now;
        if (!((_operations?.Admits(1, now, out operationsAt) ?? true) & (_bytes?.Admits(bytes, now, out bytesAt) ?? true)))
        {
            wait = TimeSpan.FromTicks(Math.Max(operationsAt, bytesAt) - now);
            if (_waitingSince < 0)
            {
                _waitingSince = now;
                Throttled++;
            }

            return false;
        }

        _operations?.Take(1);
        _bytes?.Take(bytes);
        if (_waitingSince >= 0)
        {
            ThrottledTime += (ulong)(now - _waitingSince);
            _waitingSince = -1;
        }

        PassedOperations++;
        PassedBytes += bytes;
        wait = TimeSpan.Zero;
        return true;
    }

    /// <summary>Puts full buckets in the place of those that are said; one that limits nothing takes its bucket away.</summary>
    public void Update(LimiterSettings update)
    {
        _bytes = Replace(_bytes, update.Bandwidth);
        _operations = Replace(_operations, update.Operations);
        var merged = Settings.With(update);
        Settings = new LimiterSettings(
            merged.Bandwidth is { Limits: true } ? merged.Bandwidth : null,
            merged.Operations is { Limits: true } ? merged.Operations : null);
    }

    /// <summary>Whoever waited waits no more: the driver has let go of the queue.</summary>
    public void Forget() => _waitingSince = -1;

    private long Now => _clock.GetElapsedTime(0).Ticks;

    private TokenBucket? Replace(TokenBucket? old, BucketSettings? settings) => settings switch
    {
        null => old,
        { Limits: true } known => new TokenBucket(known, Now),
        _ => null,
    };
}
