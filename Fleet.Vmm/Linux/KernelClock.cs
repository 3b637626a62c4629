using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>clock_gettime(2).</summary>
internal static unsafe partial class KernelClock
{
    /// <summary>CLOCK_MONOTONIC.</summary>
    public const int Monotonic = 1;

    /// <summary>CLOCK_PROCESS_CPUTIME_ID.</summary>
    public const int ProcessCpu = 2;

    /// <summary>CLOCK_BOOTTIME: since the host was switched on, its sleep included. All processes of a host read the same.</summary>
    public const int Boot = 7;

    /// <summary>Nanoseconds of <see cref="Boot"/>.</summary>
    public static long BootNow => Read(Boot);

    /// <summary>Nanoseconds; -1 when there is no such clock, as that of a thread which has ended.</summary>
    public static long Read(int clock)
    {
        var time = stackalloc long[2];

        // SAFETY: struct timespec is two 64-bit numbers on 64-bit Linux, and lives on this frame.
        return clock_gettime(clock, time) == 0 ? (time[0] * 1_000_000_000) + time[1] : -1;
    }

    /// <summary>Microseconds; 0 when there is no such clock.</summary>
    public static ulong Microseconds(int clock) => (ulong)Math.Max(0, Read(clock)) / 1000;

    [LibraryImport("libc")]
    private static partial int clock_gettime(int clock, long* time);
}
