namespace Fleet.Scheduler.Prediction;

/// <summary>Which figure of a slot counts: CPU waits a little when it is short, memory can't.</summary>
public enum Fold
{
    /// <summary>The 90th percentile of the slot's samples.</summary>
    P90,

    /// <summary>The highest of them.</summary>
    Max,
}

/// <summary>
/// What was used of a limit over the last 24 hours, as shares from 0 to 1: samples are folded to slots of five minutes, each with its 90th
/// percentile and its maximum. At most <see cref="Bytes"/> of memory, and next to none in the first five minutes. Not safe for several threads.
/// </summary>
public sealed class UsageSeries
{
    /// <summary>Slots that are kept: 24 hours, so that a daily peak is seen once.</summary>
    public const int Kept = 288;

    /// <summary>Slots without which nothing is predicted: two hours.</summary>
    public const int WarmUp = 24;

    /// <summary>Samples that a slot needs, 100 s of its 300 s. With fewer it is as missing: the peak was as likely between them.</summary>
    public const int LeastSamples = 10;

    /// <summary>Memory of one full series, about.</summary>
    public const int Bytes = (2 * sizeof(ushort) * Kept) + (sizeof(ushort) * MostSamples) + 96;

    public static readonly TimeSpan Slot = TimeSpan.FromMinutes(5);

    /// <summary>Between two samples; one that follows sooner tells the same again.</summary>
    public static readonly TimeSpan LeastGap = TimeSpan.FromSeconds(5);

    /// <summary>Slots after the newest one in which the series still speaks of now.</summary>
    private const long StaleAfter = 3;

    private const int MostSamples = 60;
    private const ushort Missing = ushort.MaxValue;
    private const double Scale = ushort.MaxValue - 1;

    private readonly ushort[] _open = new ushort[MostSamples];
    private ushort[]? _p90;
    private ushort[]? _max;
    private long _openSlot = -1;
    private int _openCount;
    private TimeSpan _lastAt = TimeSpan.MinValue;
    private long _newest = -1;
    private object? _memoOf;
    private double _memo;

    /// <summary>Slots that have a figure.</summary>
    public int Count { get; private set; }

    /// <summary>The newest slot that has a figure; -1: none.</summary>
    public long Newest => _newest;

    /// <summary>Of a time, on the clock that all times here are told by.</summary>
    public static long SlotOf(TimeSpan at) => at.Ticks / Slot.Ticks;

    /// <summary>Takes one sample. False, and nothing changes, when it is repeated, older than the last one, of the future, or no number.</summary>
    /// <param name="share">Used of the limit; what is above the limit or below zero counts as that.</param>
    /// <param name="at">When it was taken, not negative, on a clock that nobody sets.</param>
    /// <param name="now">By the same clock.</param>
    public bool Add(double share, TimeSpan at, TimeSpan now)
    {
        if (!double.IsFinite(share) || at < TimeSpan.Zero || at > now || (_openSlot >= 0 && at - _lastAt < LeastGap))
            return false;
        Roll(at);
        _lastAt = at;
        _openSlot = SlotOf(at);
        // A slot of 300 s has room for every sample that keeps the gap.
        _open[_openCount++] = Pack(share);
        return true;
    }

    /// <summary>Folds the samples so far when their slot is over; without it a series that gets no sample any more would keep its last slot open.</summary>
    public void Roll(TimeSpan now)
    {
        if (_openCount == 0 || SlotOf(now) <= _openSlot)
            return;
        if (_openCount >= LeastSamples)
        {
            var samples = _open.AsSpan(0, _openCount);
            samples.Sort();
            Store(_openSlot, samples[(int)Math.Ceiling(0.9 * samples.Length) - 1], samples[^1]);
        }
        _openCount = 0;
    }

    /// <summary>Takes a slot that was folded elsewhere; one that is not newer than the newest changes nothing.</summary>
    public void Put(long slot, double p90, double max)
    {
        if (slot > _newest && double.IsFinite(p90) && double.IsFinite(max))
            Store(slot, Pack(p90), Pack(max));
    }

    /// <summary>There is enough history to predict by, and it reaches to now.</summary>
    public bool IsWarm(TimeSpan now) => Count >= WarmUp && SlotOf(now) - _newest <= StaleAfter;

    /// <summary>Copies what is kept of the newest slots, oldest first, without those that are missing.</summary>
    /// <param name="fold">Which figure.</param>
    /// <param name="into">Of <see cref="Kept"/> entries; the rest of it stays as it is.</param>
    /// <param name="slots">How many slots back, missing ones included.</param>
    /// <returns>Entries written.</returns>
    public int CopyTo(Span<double> into, Fold fold, int slots = Kept)
    {
        if ((fold == Fold.P90 ? _p90 : _max) is not { } ring)
            return 0;
        var written = 0;
        for (var slot = Math.Max(0, _newest - Math.Min(slots, Kept) + 1); slot <= _newest; slot++)
        {
            if (ring[slot % Kept] is var packed and not Missing)
                into[written++] = packed / Scale;
        }
        return written;
    }

    /// <summary>One slot's figure; null: it has none, or is not kept.</summary>
    public double? At(long slot, Fold fold) =>
        slot >= 0 && slot <= _newest && _newest - slot < Kept && (fold == Fold.P90 ? _p90 : _max) is { } ring && ring[slot % Kept] is var packed and not Missing
            ? packed / Scale
            : null;

    /// <summary>The highest maximum that is kept; 0: there is none.</summary>
    public double Highest
    {
        get
        {
            ushort highest = 0;
            foreach (var packed in _max ?? [])
            {
                if (packed != Missing)
                    highest = Math.Max(highest, packed);
            }
            return highest / Scale;
        }
    }

    /// <summary>What <paramref name="compute"/> makes of the series, computed once until a slot is added. For one owner at a time.</summary>
    internal double Memo(object owner, Func<UsageSeries, double> compute)
    {
        if (!ReferenceEquals(_memoOf, owner))
            (_memo, _memoOf) = (compute(this), owner);
        return _memo;
    }

    // Rounded up: a share is never told lower than it was.
    private static ushort Pack(double share) => (ushort)Math.Ceiling(Math.Clamp(share, 0, 1) * Scale);

    private void Store(long slot, ushort p90, ushort max)
    {
        if (_p90 is null || _max is null || slot - _newest >= Kept)
        {
            _p90 ??= new ushort[Kept];
            _max ??= new ushort[Kept];
            Array.Fill(_p90, Missing);
            Array.Fill(_max, Missing);
            Count = 0;
        }
        else
        {
            // What stood in the places up to the new slot is a day old.
            for (var passed = _newest + 1; passed <= slot; passed++)
            {
                if (_p90[passed % Kept] != Missing)
                    Count--;
                _p90[passed % Kept] = _max[passed % Kept] = Missing;
            }
        }
        _p90[slot % Kept] = p90;
        _max[slot % Kept] = max;
        Count++;
        _newest = slot;
        _memoOf = null;
    }
}
