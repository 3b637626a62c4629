using Fleet.Scheduler.Cell;

namespace Fleet.Scheduler.Vms;

/// <summary>How often a microVM gives way to those of higher classes before it does so no more.</summary>
public static class PreemptionRules
{
    /// <summary>The reason of a microVM that gives way.</summary>
    public const string PreemptedCode = "preempted";

    /// <summary>In a row, with no long run in between: who waits that often gets its turn, and a storm of others can't push it about for ever.</summary>
    public const uint Most = 3;

    /// <summary>Whether its next place is its own, whoever comes.</summary>
    public static bool IsSettled(VmRecord record)
    {
        ArgumentNullException.ThrowIfNull(record);
        return record.Preemptions >= Most;
    }

    /// <summary>The count with the one that begins at <paramref name="at"/>: after a long run it begins anew.</summary>
    public static uint Next(VmRecord record, DateTimeOffset at)
    {
        ArgumentNullException.ThrowIfNull(record);
        return record.RunningAt is { } since && at - since.ToDateTimeOffset() >= RestartRules.LongRun ? 1 : record.Preemptions + 1;
    }
}
