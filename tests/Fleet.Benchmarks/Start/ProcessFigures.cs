using System.Globalization;
using System.Runtime.InteropServices;

namespace Fleet.Benchmarks.Start;

/// <summary>What a process has used, from the kernel's own books.</summary>
internal static partial class ProcessFigures
{
    /// <summary>User and system time of every thread the process ever had, in ms.</summary>
    public static double CpuMs(int pid)
    {
        var error = clock_getcpuclockid(pid, out var clock);
        if (error != 0 || clock_gettime(clock, out var time) != 0)
            throw new BenchmarkException($"no CPU clock of process {pid} (error {error}): has it ended?");
        return (time.Seconds * 1000.0) + (time.Nanoseconds / 1e6);
    }

    /// <summary>
    /// Resident and private MiB of every map that is not guest memory, as Firecracker measures its overhead
    /// (tests/host_tools/memory.py there): guest memory is the map of just the guest's size.
    /// </summary>
    public static (double Resident, double Private) MemoryBeyondGuestMib(int pid, int guestMib)
    {
        var (resident, unshared, _) = Read(pid, guestMib);
        return (resident, unshared);
    }

    /// <summary>MiB of the guest's memory that are there.</summary>
    public static double GuestMib(int pid, int guestMib) => Read(pid, guestMib).Guest;

    private static (double Resident, double Private, double Guest) Read(int pid, int guestMib)
    {
        long resident = 0, unshared = 0, guest = 0, guestMaps = 0;
        var isGuest = false;
        foreach (var line in File.ReadLines($"/proc/{pid}/smaps"))
        {
            var key = line.Split(' ', 2)[0];
            if (!key.EndsWith(':'))
            {
                var range = key.Split('-');
                var size = long.Parse(range[1], NumberStyles.HexNumber, CultureInfo.InvariantCulture) - long.Parse(range[0], NumberStyles.HexNumber, CultureInfo.InvariantCulture);
                isGuest = size == (long)guestMib << 20;
                guestMaps += isGuest ? 1 : 0;
                continue;
            }

            if (key is "Rss:" && isGuest)
                guest += Kib(line);
            else if (key is "Rss:")
                resident += Kib(line);
            else if (!isGuest && (key is "Private_Clean:" or "Private_Dirty:"))
                unshared += Kib(line);
        }

        if (guestMaps != 1)
            throw new BenchmarkException($"expected one map of {guestMib} MiB in process {pid}, found {guestMaps}: can't tell guest memory from the rest");
        return (resident / 1024.0, unshared / 1024.0, guest / 1024.0);
    }

    private static long Kib(string line) =>
        long.Parse(line.Split(' ', StringSplitOptions.RemoveEmptyEntries)[1], CultureInfo.InvariantCulture);

    [LibraryImport("libc")]
    private static partial int clock_getcpuclockid(int pid, out int clock);

    [LibraryImport("libc")]
    private static partial int clock_gettime(int clock, out TimeSpec time);

    [StructLayout(LayoutKind.Sequential)]
    private struct TimeSpec
    {
        public long Seconds;
        public long Nanoseconds;
    }
}
