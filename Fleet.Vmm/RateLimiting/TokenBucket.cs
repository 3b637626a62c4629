namespace Fleet.Vmm.RateLimiting;

/// <summary>
/// A token bucket as Firecracker has them: a budget that refills evenly, a burst on top that never refills, and requests
/// larger than the whole bucket that go through at once and are paid for by a pause.
/// </summary>
/// <remarks>
/// Pure: times are ticks of 100 ns of any clock that does not go back. Two things differ from Firecracker so that the rate
/// over a long time is the one that was asked for: the pause after a large request refills nothing (it pays for what was
/// taken), and a refused request may come back as soon as its tokens are there, not a fixed 100 ms later; if it comes later
/// than that, the time between is not lost.
/// </remarks>
internal sealed class TokenBucket
{
    private readonly ulong _size;
    private readonly ulong _refill;
    private ulong _budget;
    private ulong _burst;

    // Up to here time has been turned into tokens. In the future while a large request is being paid for.
    private long _filledAt;

    // When whoever was refused last may come again; 0 for nobody.
    private long _readyAt;
    private long _admittedAt;

    public TokenBucket(BucketSettings settings, long now)
    {
        _size = settings.Size;
        _refill = (ulong)UInt128.Min((UInt128)settings.RefillMilliseconds * TimeSpan.TicksPerMillisecond, long.MaxValue / 4);
        _budget = settings.Size;
        _burst = settings.OneTimeBurst;
        _filledAt = now;
    }

    /// <summary>Whether so many tokens may be taken now; if not, <paramref name="readyAt"/> is when they may.</summary>
    public bool Admits(ulong tokens, long now, out long readyAt)
    {
        // Whoever was told a time and comes later takes at that time: a timer is always a little late, and a small bucket
        // would be full and lose what comes in between.
        if (_readyAt > 0 && _readyAt < now && Admits(tokens, _readyAt))
        {
            readyAt = now;
            return true;
        }

        if (Admits(tokens, now))
        {
            readyAt = now;
            return true;
        }

        // Nothing is left of budget and burst while a large request is being paid for.
        readyAt = _readyAt = _filledAt + (now >= _filledAt ? TimeFor(tokens - _burst - _budget) : tokens > _size ? 0 : TimeFor(tokens));
        return false;
    }

    /// <summary>Takes the tokens that <see cref="Admits(ulong, long, out long)"/> admitted last.</summary>
    public void Take(ulong tokens)
    {
        _readyAt = 0;
        if (tokens <= _burst)
        {
            _burst -= tokens;

            // Time in which the burst was lived on does not fill the budget as well.
            _filledAt = _admittedAt;
            return;
        }

        tokens -= _burst;
        _burst = 0;
        if (tokens <= _budget)
        {
            _budget -= tokens;
            return;
        }

        var debt = tokens - _budget;
        _budget = 0;
        _filledAt = _admittedAt + TimeFor(debt);
    }

    private bool Admits(ulong tokens, long at)
    {
        if (at < _filledAt)
        {
            return false;
        }

        _admittedAt = at;
        if (tokens <= _burst || tokens - _burst <= _budget)
        {
            return true;
        }

        Refill(at);
        var wanted = tokens - _burst;
        return wanted <= _budget || wanted > _size;
    }

    private void Refill(long now)
    {
        var elapsed = (ulong)(now - _filledAt);
        if (elapsed >= _refill)
        {
            _budget = _size;
            _filledAt = now;
            return;
        }

        // The remainder of the division stays in _filledAt: no time is lost to rounding.
        var tokens = (ulong)((UInt128)elapsed * _size / _refill);
        _filledAt += TimeFor(tokens);
        _budget = Math.Min(_size, _budget > _size - tokens ? _size : _budget + tokens);
    }

    // Rounded up, so that after that time the tokens are there; bounded to some thousand years.
    private long TimeFor(ulong tokens) =>
        (long)UInt128.Min(((UInt128)tokens * _refill + _size - 1) / _size, long.MaxValue / 4);
}
