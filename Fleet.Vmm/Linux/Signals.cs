using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace Fleet.Vmm.Linux;

/// <summary>
/// Ending signals as events on the loop. They are blocked and read through a signalfd, so that no handler ever
/// interrupts anything and no thread of the runtime is needed to carry them.
/// </summary>
internal static unsafe partial class Signals
{
    public const int HangUp = 1;
    public const int Interrupt = 2;
    public const int Terminate = 15;
    public const int CpuTimeExceeded = 24;

    internal const int BrokenPipe = 13;
    internal const int FileSizeExceeded = 25;
    internal const int Block = 0;
    internal const int NonBlocking = 0x800;
    internal const int CloseOnExec = 0x80000;
    private const nint Ignore = 1;

    /// <summary>sizeof(struct signalfd_siginfo); signalfd(2).</summary>
    internal const int InfoSize = 128;

    // The JIT runtime has threads of its own that we can't reach; only a build for tests runs there.
    private static readonly List<PosixSignalRegistration> Registrations = [];

    /// <summary>
    /// Ignores SIGPIPE and SIGXFSZ (writes then fail with EPIPE and EFBIG), blocks the ending signals in every thread
    /// there is, and returns a signalfd for them (once per process). Call it before other threads are made: they inherit the mask.
    /// </summary>
    public static int OpenEndingSignals()
    {
        _ = signal(BrokenPipe, Ignore);
        _ = signal(FileSizeExceeded, Ignore);
        if (RuntimeFeature.IsDynamicCodeSupported)
        {
            return OpenThroughRuntime();
        }

        BlockHere();

        // It has every signal open: the kernel would end the process through it.
        FinalizerThread.Run(BlockHere);

        var ending = EndingSignals();

        // SAFETY: the kernel reads the set during the call only.
        var fd = signalfd(-1, &ending, NonBlocking | CloseOnExec);
        return fd >= 0 ? fd : throw SystemCallException.Last("signalfd");
    }

    /// <summary>The next signal's number, 0 when there is none.</summary>
    public static int Next(int signalFd)
    {
        var info = stackalloc byte[InfoSize];

        // SAFETY: a signalfd hands out whole entries of InfoSize bytes; ssi_signo is the first word.
        return Descriptors.read(signalFd, info, InfoSize) == InfoSize ? *(int*)info : 0;
    }

    /// <summary>A pipe that carries what a signalfd would; the runtime's signal thread writes it.</summary>
    private static int OpenThroughRuntime()
    {
        var ends = stackalloc int[2];

        // SAFETY: the kernel fills the two numbers.
        if (pipe2(ends, NonBlocking | CloseOnExec) < 0)
        {
            throw SystemCallException.Last("pipe2");
        }

        var writer = ends[1];
        foreach (var number in (ReadOnlySpan<int>)[HangUp, Interrupt, Terminate, CpuTimeExceeded])
        {
            Registrations.Add(PosixSignalRegistration.Create((PosixSignal)number, context =>
            {
                context.Cancel = true;
                Span<byte> info = stackalloc byte[InfoSize];
                info.Clear();
                info[0] = (byte)number;
                _ = Descriptors.WriteAll(writer, info);
            }));
        }

        return ends[0];
    }

    private static void BlockHere()
    {
        var ending = EndingSignals();

        // SAFETY: the set is read during the call only; the old mask is not asked for.
        var failed = pthread_sigmask(Block, &ending, null);
        if (failed != 0)
        {
            throw new SystemCallException("pthread_sigmask", failed);
        }
    }

    private static SignalSet EndingSignals()
    {
        // SAFETY: all four are bits of the first word.
        SignalSet set = default;
        set.Bits[0] = 1UL << (HangUp - 1) | 1UL << (Interrupt - 1) | 1UL << (Terminate - 1) | 1UL << (CpuTimeExceeded - 1);
        return set;
    }

    /// <summary>sigset_t of glibc: 1024 bits, signal n is bit n - 1.</summary>
    private struct SignalSet
    {
        public fixed ulong Bits[16];
    }

    [LibraryImport("libc")]
    private static partial int pthread_sigmask(int how, SignalSet* set, SignalSet* old);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int signalfd(int fd, SignalSet* set, int flags);

    [LibraryImport("libc", SetLastError = true)]
    private static partial int pipe2(int* ends, int flags);

    [LibraryImport("libc")]
    private static partial nint signal(int number, nint handler);
}
