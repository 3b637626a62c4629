namespace Fleet.Host.Link;

/// <summary>When the last heartbeats of a stream were sent, on the machine's boot clock: a lease counts from there. For several threads.</summary>
internal sealed class SentBeats(TimeSpan hello)
{
    /// <summary>Beyond so many unanswered ones an answer is too old to be of use.</summary>
    private const int Kept = 64;

    private readonly Lock _gate = new();
    private readonly (ulong Sequence, TimeSpan At)[] _beats = new (ulong, TimeSpan)[Kept];

    private ulong _heard;

    /// <summary>Which of them the last lease answered.</summary>
    public ulong Heard
    {
        get => Interlocked.Read(ref _heard);
        set => Interlocked.Exchange(ref _heard, value);
    }

    /// <summary>To be called before the heartbeat is sent.</summary>
    public void Note(ulong sequence, TimeSpan at)
    {
        lock (_gate)
            _beats[sequence % Kept] = (sequence, at);
    }

    /// <summary>Sequence 0 is Hello; null: not known, or not any more.</summary>
    public TimeSpan? Of(ulong sequence)
    {
        if (sequence == 0)
            return hello;
        lock (_gate)
            return _beats[sequence % Kept] is var beat && beat.Sequence == sequence ? beat.At : null;
    }
}
