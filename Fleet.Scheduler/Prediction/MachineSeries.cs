namespace Fleet.Scheduler.Prediction;

/// <summary>
/// What all microVMs of one host used together over the last 24 hours, with whose limits that was a share of: those that come and go change what it
/// says of those that are there. Not safe for several threads.
/// </summary>
public sealed class MachineSeries
{
    // One more than slots are kept: the open one has a place of its own. Neither of the two is there before it is needed: most hosts are told of nothing.
    private SlotLimits[] _limits = [];
    private readonly UsageSeries _shares = new();
    private readonly List<(Consumer Consumer, long Newest)> _historyOf = [];
    private double[] _history = [];
    private (Fold Fold, long Newest) _historyAt = (Fold.P90, long.MinValue);

    /// <summary>Limits of those that were seen in a slot.</summary>
    /// <param name="Changed">They were not the same all the time.</param>
    private readonly record struct SlotLimits(long Slot, double Most, bool Changed);

    /// <summary>The newest slot that has a figure; -1: none.</summary>
    public long Newest => _shares.Newest;

    /// <summary>Takes one sample, as <see cref="UsageSeries.Add"/>.</summary>
    /// <param name="used">By all that were seen.</param>
    /// <param name="limits">Of the same, more than 0.</param>
    /// <param name="at">When it was taken.</param>
    /// <param name="now">By the same clock.</param>
    public bool Add(double used, double limits, TimeSpan at, TimeSpan now)
    {
        if (!_shares.Add(used / limits, at, now))
            return false;
        Note(UsageSeries.SlotOf(at), limits);
        return true;
    }

    /// <summary>Takes a slot that was folded elsewhere; one that is not newer than the newest changes nothing.</summary>
    /// <param name="slot">Which.</param>
    /// <param name="share">Used of the limits.</param>
    /// <param name="limits">Of those that were there, more than 0.</param>
    public void Put(long slot, double share, double limits)
    {
        if (slot <= Newest)
            return;
        _shares.Put(slot, share, share);
        Note(slot, limits);
    }

    /// <summary>As <see cref="UsageSeries.Roll"/>.</summary>
    public void Roll(TimeSpan now) => _shares.Roll(now);

    /// <summary>As <see cref="UsageSeries.IsWarm"/>.</summary>
    public bool IsWarm(TimeSpan now) => _shares.IsWarm(now);

    /// <summary>
    /// What <paramref name="present"/> used of the sum of their limits, oldest first, as far as their history goes: of the slots in which half of them,
    /// by limit, or more were seen. Where nobody else was there it is what was measured; where others were, at most what was measured and at most the
    /// sum of each one's own highest; who was not seen in a slot counts in it as at its own highest.
    /// </summary>
    /// <param name="present">Each with a series, and limits above 0 together.</param>
    /// <param name="into">Of <see cref="UsageSeries.Kept"/> entries; the rest of it stays as it is.</param>
    /// <param name="fold">Which figure of what was measured.</param>
    /// <param name="slots">How many slots back, missing ones included.</param>
    /// <returns>Entries written.</returns>
    public int CopyTo(IReadOnlyList<Consumer> present, Span<double> into, Fold fold, int slots = UsageSeries.Kept)
    {
        ArgumentNullException.ThrowIfNull(present);
        if (!IsRemembered(present, fold))
            Remember(present, fold);
        var written = 0;
        foreach (var share in _history.AsSpan(UsageSeries.Kept - Math.Min(slots, UsageSeries.Kept)))
        {
            if (!double.IsNaN(share))
                into[written++] = share;
        }
        return written;
    }

    private void Note(long slot, double limits)
    {
        if (_limits.Length == 0)
            _limits = new SlotLimits[UsageSeries.Kept + 1];
        ref var noted = ref _limits[slot % _limits.Length];
        noted = noted.Slot == slot && noted.Most > 0
            ? new(slot, Math.Max(noted.Most, limits), noted.Changed || noted.Most != limits)
            : new(slot, limits, Changed: false);
    }

    // Each reservation asks anew, and mostly of the same ones.
    private bool IsRemembered(IReadOnlyList<Consumer> present, Fold fold)
    {
        if (_historyAt != (fold, Newest) || _historyOf.Count != present.Count)
            return false;
        for (var i = 0; i < present.Count; i++)
        {
            if (_historyOf[i] != (present[i], present[i].Series!.Newest))
                return false;
        }
        return true;
    }

    private void Remember(IReadOnlyList<Consumer> present, Fold fold)
    {
        Span<double> seen = stackalloc double[UsageSeries.Kept]; // limits of those that were there
        Span<double> most = stackalloc double[UsageSeries.Kept]; // what these used at most
        Span<double> unseen = stackalloc double[UsageSeries.Kept]; // what those count as that were not
        seen.Clear();
        most.Clear();
        unseen.Clear();
        if (_history.Length == 0)
            _history = new double[UsageSeries.Kept];
        var first = Newest - UsageSeries.Kept + 1;
        var limits = 0.0;
        _historyOf.Clear();
        foreach (var one in present)
        {
            var series = one.Series!;
            var highest = one.Limit * series.Highest;
            limits += one.Limit;
            _historyOf.Add((one, series.Newest));
            for (var i = 0; i < UsageSeries.Kept; i++)
            {
                // Its maximum, also where less than that counts of the machine: percentiles of several do not add up to one of all.
                if (series.At(first + i, Fold.Max) is { } share)
                {
                    seen[i] += one.Limit;
                    most[i] += one.Limit * share;
                }
                else
                {
                    unseen[i] += highest;
                }
            }
        }
        for (var i = 0; i < UsageSeries.Kept; i++)
        {
            // Slots begin at 0, and after a gap the open one may stand in the place of the oldest.
            var there = first + i < 0 || _limits.Length == 0 ? default : _limits[(first + i) % _limits.Length];
            if (seen[i] * 2 < limits || there.Slot != first + i || _shares.At(first + i, fold) is not { } share)
            {
                _history[i] = double.NaN;
                continue;
            }
            var alone = !there.Changed && seen[i] >= there.Most * (1 - Rounding);
            _history[i] = ((alone ? share : Math.Min(share * (there.Most / seen[i]), most[i] / seen[i])) * (seen[i] / limits)) + (unseen[i] / limits);
        }
        _historyAt = (fold, Newest);
    }

    // Sums of limits that need not be whole numbers.
    private const double Rounding = 1e-9;
}
