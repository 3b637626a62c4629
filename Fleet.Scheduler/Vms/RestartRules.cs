using Fleet.Scheduler.Cell;
using Fleet.Shared.Contracts;
using Fleet.Shared.Vms;

namespace Fleet.Scheduler.Vms;

/// <summary>Whether a microVM that has ended runs again, and when: its policy, and a pause that doubles with each restart.</summary>
public static class RestartRules
{
    /// <summary>The reason of an end that somebody asked for; such a one is never followed by a restart.</summary>
    public const string StopRequestedCode = "stop_requested";

    /// <summary>One that ran for so long had no trouble with its start: the pause begins anew.</summary>
    public static readonly TimeSpan LongRun = TimeSpan.FromMinutes(10);

    /// <summary>Whether its present run, if there is one, is that long when it ends at that time.</summary>
    public static bool RanLong(VmRecord record, DateTimeOffset at)
    {
        ArgumentNullException.ThrowIfNull(record);
        return record.RunningAt is { } since && at - since.ToDateTimeOffset() >= LongRun;
    }

    public static readonly TimeSpan FirstPause = TimeSpan.FromSeconds(1);

    public static readonly TimeSpan LongestPause = TimeSpan.FromMinutes(5);

    /// <summary>When it is to run again; null: not by itself.</summary>
    public static DateTimeOffset? RestartAt(VmRecord record)
    {
        ArgumentNullException.ThrowIfNull(record);
        // One that was never placed and has failed was not to wait, or could never be placed.
        if (record.StopWanted || record.EndedAt is null || record.Epoch == 0)
            return null;
        var wanted = record.Spec.Restart switch
        {
            RestartPolicy.Always => record.State is VmState.Stopped or VmState.Failed,
            RestartPolicy.OnFailure => record.State == VmState.Failed || (record.State == VmState.Stopped && record.Exit is { Status: not 0 }),
            _ => false,
        };
        return wanted ? record.EndedAt.ToDateTimeOffset() + Pause(record.Restarts) : null;
    }

    /// <summary>How much longer to wait. A time further ahead than any pause was noted by a clock that was wrong, and does not count.</summary>
    public static TimeSpan Wait(DateTimeOffset at, DateTimeOffset now) =>
        at - now is var left && left > TimeSpan.Zero && left <= LongestPause ? left : TimeSpan.Zero;

    /// <summary>1 s, 2 s, 4 s … 5 min.</summary>
    public static TimeSpan Pause(uint restarts) => DoublingPause.After(FirstPause, restarts, LongestPause);
}
