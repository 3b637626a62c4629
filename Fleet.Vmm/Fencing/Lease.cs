using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Fencing;

/// <summary>Until when a guest may run, and until when the VMM may wait for more; milliseconds of the host's CLOCK_BOOTTIME.</summary>
/// <param name="LapsesAt">From then on no instruction of the guest is run and nothing is done for it.</param>
/// <param name="EndsAt">From then on there is no way back: the VMM ends. Not before <paramref name="LapsesAt"/>.</param>
internal readonly record struct LeaseTimes(ulong LapsesAt, ulong EndsAt);

/// <summary>
/// The right to run the guest. Whoever places a microVM again counts on it: when the lease has lapsed the guest stands still,
/// whatever became of the agent, the event loop or the host in between. Without a lease the guest runs as long as it likes.
/// </summary>
/// <remarks>
/// CLOCK_BOOTTIME, because it goes on while the host sleeps and nobody can set it. Written on the event loop, read by any
/// thread. A lease only ever gets longer: a request that was overtaken by a later one takes nothing back.
/// </remarks>
internal sealed class Lease
{
    /// <summary>How long past the end the vCPUs wait for the event loop to end the machine in order, before they end the process.</summary>
    private const long Patience = 2_000_000_000;

    private const long Never = long.MaxValue;
    private const ulong NanosecondsPerMillisecond = 1_000_000;

    private long _lapsesAt = Never;
    private long _endsAt = Never;

    public bool IsGiven => Volatile.Read(ref _lapsesAt) != Never;

    /// <summary>Nanoseconds of the boot clock.</summary>
    public long LapsesAt => Volatile.Read(ref _lapsesAt);

    public long EndsAt => Volatile.Read(ref _endsAt);

    public bool HasLapsed => HasPassed(LapsesAt);

    /// <summary>There is no way back.</summary>
    public bool IsOver => HasPassed(EndsAt);

    /// <summary>It is over for so long that whoever had to end the machine hangs.</summary>
    public bool IsLongOver => EndsAt is var end and not Never && HasPassed(end + Patience);

    /// <summary>Gives it, or makes it longer; false when the one there is lasts as long or longer.</summary>
    public bool Extend(LeaseTimes times)
    {
        var lapses = (long)(times.LapsesAt * NanosecondsPerMillisecond);
        if (IsGiven && lapses <= _lapsesAt)
        {
            return false;
        }

        // The end first: nobody may find a lapse behind it.
        Volatile.Write(ref _endsAt, (long)(times.EndsAt * NanosecondsPerMillisecond));
        Volatile.Write(ref _lapsesAt, lapses);
        return true;
    }

    private static bool HasPassed(long time) => time != Never && KernelClock.BootNow >= time;
}
