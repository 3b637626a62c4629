using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>
/// The signal that gets a vCPU thread out of KVM_RUN, and the one it sleeps on while parked. It is blocked in the
/// thread and open only inside KVM_RUN, so no handler ever runs: a C# handler would abort the process as soon as it
/// interrupted managed code.
/// </summary>
internal static unsafe partial class ThreadKick
{
    /// <summary>SIGRTMIN + 1 as glibc counts; SIGRTMIN itself (34) is the runtime's, for suspending threads.</summary>
    public const int Signal = 35;

    private const int Block = 0;

    /// <summary>CPUCLOCK_PERTHREAD_MASK | CPUCLOCK_SCHED of the kernel's clock ids that name a thread.</summary>
    private const int ThreadCpuClock = 6;

    /// <summary>Closes the calling thread to the kick; returns its mask without the kick, for KVM_SET_SIGNAL_MASK.</summary>
    public static ulong BlockHere()
    {
        // SAFETY: both sets are on this frame and as large as glibc's sigset_t; here as below the kick is a bit of the first word.
        SignalSet kick = default;
        SignalSet before = default;
        kick.Bits[0] = 1UL << (Signal - 1);
        var failed = pthread_sigmask(Block, &kick, &before);
        return failed == 0 ? before.Bits[0] & ~kick.Bits[0] : throw new SystemCallException("pthread_sigmask", failed);
    }

    /// <summary>Takes a pending kick of the calling thread, if there is one.</summary>
    public static void Drain()
    {
        SignalSet kick = default;
        kick.Bits[0] = 1UL << (Signal - 1);
        var now = stackalloc long[2];
        now[0] = 0;
        now[1] = 0;

        // SAFETY: set and time live on this frame; no information is asked for. Nothing pending is EAGAIN, and as good.
        _ = sigtimedwait(&kick, null, now);
    }

    /// <summary>Sleeps until the calling thread is kicked. May also return without a kick: the caller looks again.</summary>
    public static void Await()
    {
        SignalSet kick = default;
        kick.Bits[0] = 1UL << (Signal - 1);

        // SAFETY: the set lives on this frame; null time means for ever.
        _ = sigtimedwait(&kick, null, null);
    }

    /// <summary>Kicks a thread of this process that has blocked the signal; false when it has ended, or the user's queue of signals is full.</summary>
    public static bool TryKick(int thread) => tgkill(getpid(), thread, Signal) == 0;

    public static int CurrentThread() => gettid();

    /// <summary>Nanoseconds of CPU that a thread of this process has used; -1 when it has ended.</summary>
    public static long CpuTime(int thread) => KernelClock.Read((~thread << 3) | ThreadCpuClock);

    /// <summary>sigset_t of glibc: 1024 bits, signal n is bit n - 1.</summary>
    private struct SignalSet
    {
        public fixed ulong Bits[16];
    }

    [LibraryImport("libc")]
    private static partial int pthread_sigmask(int how, SignalSet* set, SignalSet* old);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int sigtimedwait(SignalSet* set, void* information, long* time);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int tgkill(int process, int thread, int signal);

    [LibraryImport("libc")]
    private static partial int getpid();

    [LibraryImport("libc")]
    private static partial int gettid();
}
