using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>CLOCK_BOOTTIME: nanoseconds since the host was switched on, its sleep included. All processes of a host read the same.</summary>
internal static unsafe partial class BootClock
{
    public const int Id = 7;

    public static long Now
    {
        get
        {
            var time = stackalloc long[2];

            // SAFETY: struct timespec is two 64-bit numbers on 64-bit Linux, and lives on this frame. The clock always exists.
            _ = clock_gettime(Id, time);
            return (time[0] * 1_000_000_000) + time[1];
        }
    }

    [LibraryImport("libc")]
    private static partial int clock_gettime(int clock, long* time);
}
