using System.Diagnostics;
using System.Runtime.InteropServices;

namespace Fleet.Chaos.Network;

/// <summary>What of the kernel a chaos run needs beyond the framework.</summary>
internal static unsafe partial class Kernel
{
    private const int BootClock = 7;

    /// <summary>Milliseconds of CLOCK_BOOTTIME, on which all of a run's times are.</summary>
    public static long BootMs
    {
        get
        {
            TimeSpec now;
            // SAFETY: the kernel fills the structure, which is on this frame.
            _ = clock_gettime(BootClock, &now);
            return (now.Seconds * 1000) + (now.Nanoseconds / 1_000_000);
        }
    }

    public const int Stop = 19;
    public const int Continue = 18;
    public const int End = 15;
    public const int KillNow = 9;

    /// <summary>False when there is no such process.</summary>
    public static bool Signal(int pid, int signal) => kill(pid, signal) == 0;

    /// <summary>Runs a program to its end.</summary>
    /// <exception cref="InvalidOperationException">It failed; the message has what it said.</exception>
    public static string Run(string program, params string[] arguments)
    {
        using var process = Process.Start(new ProcessStartInfo(program, arguments) { RedirectStandardOutput = true, RedirectStandardError = true })!;
        var error = process.StandardError.ReadToEndAsync();
        var output = process.StandardOutput.ReadToEnd();
        process.WaitForExit();
        return process.ExitCode == 0
            ? output
            : throw new InvalidOperationException($"{program} {string.Join(' ', arguments)} failed: {error.Result.Trim()}");
    }

    private struct TimeSpec
    {
        public long Seconds;
        public long Nanoseconds;
    }

    [LibraryImport("libc")]
    private static partial int clock_gettime(int clock, TimeSpec* time);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int kill(int pid, int signal);
}
