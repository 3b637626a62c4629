namespace Fleet.Scheduler.Journal;

/// <summary>
/// How far a reader of the journal may go: up to the first number that is missing, and beyond that only where a mark is past that was made
/// after the numbers behind it had been seen. Pure.
/// </summary>
internal sealed class SettledWindow(long last)
{
    private long _settledTo;
    private long _markedTo;

    /// <summary>The last number that was taken.</summary>
    public long Last { get; private set; } = last;

    /// <summary>What must be past before the reader may go on behind the gap; null when it waits for nothing.</summary>
    public long? Mark { get; private set; }

    /// <summary>A mark was made after a read that ended with <paramref name="seenTo"/>.</summary>
    public void Marked(long mark, long seenTo)
    {
        Mark = mark;
        _markedTo = seenTo;
    }

    /// <summary>What is still missing below the numbers seen when the mark was made will never come.</summary>
    public void MarkIsPast()
    {
        _settledTo = _markedTo;
        Mark = null;
    }

    /// <summary>Takes those of the numbers, which rise and lie above <see cref="Last"/>, that nothing can come before any more; says how many.</summary>
    public int Take(IReadOnlyList<long> numbers)
    {
        var taken = 0;
        while (taken < numbers.Count && (numbers[taken] == Last + 1 || numbers[taken] <= _settledTo))
            Last = numbers[taken++];
        return taken;
    }

    /// <summary>Takes all of them: gaps mean nothing.</summary>
    public int TakeAll(IReadOnlyList<long> numbers)
    {
        if (numbers.Count > 0)
            Last = numbers[^1];
        return numbers.Count;
    }
}
