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
    /// <param name="record">Of the microVM.</param>
    /// <param name="at">When it leaves the place that it has, if it has one.</param>
    /// <param name="givesWay">It leaves that because it has to give way.</param>
    public static bool IsSettled(VmRecord record, DateTimeOffset at, bool givesWay) => (givesWay ? Next(record, at) : Kept(record, at)) >= Most;

    /// <summary>The count when a run ends at <paramref name="at"/>, if there is one: after a long run it begins anew.</summary>
    public static uint Kept(VmRecord record, DateTimeOffset at)
    {
        ArgumentNullException.ThrowIfNull(record);
        return RestartRules.RanLong(record, at) ? 0 : record.Preemptions;
    }

    /// <summary>The same with the giving way that ends it.</summary>
    public static uint Next(VmRecord record, DateTimeOffset at) => Kept(record, at) + 1;
}
