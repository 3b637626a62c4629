using System.Runtime.CompilerServices;

namespace Fleet.Vmm.Linux;

/// <summary>The runtime's own thread, older than Main: signal masks and filters that threads inherit don't reach it. A finalizer is the one piece of our code that runs there.</summary>
internal static class FinalizerThread
{
    /// <summary>Runs it there and waits. What it throws comes out here.</summary>
    public static void Run(Action work)
    {
        var errand = new Errand(work);

        // Once is enough unless a stale register keeps the object alive.
        for (var attempt = 0; attempt < 10 && !errand.IsDone; attempt++)
        {
            LeaveGarbage(errand);
            GC.Collect(0);
            GC.WaitForPendingFinalizers();
        }

        if (errand.Failure is { } failure)
        {
            throw failure;
        }

        if (!errand.IsDone)
        {
            throw new InvalidOperationException("The finalizer thread did not do what was asked of it.");
        }
    }

    [MethodImpl(MethodImplOptions.NoInlining)]
    private static void LeaveGarbage(Errand errand) => _ = new Messenger(errand);

    private sealed class Errand(Action work)
    {
        private int _taken;
        private volatile bool _done;

        public bool IsDone => _done;

        public SystemCallException? Failure { get; private set; }

        public void Run()
        {
            if (Interlocked.Exchange(ref _taken, 1) != 0)
            {
                return;
            }

            try
            {
                work();
            }
            catch (SystemCallException failure)
            {
                Failure = failure;
            }

            _done = true;
        }
    }

    private sealed class Messenger(Errand errand)
    {
        ~Messenger() => errand.Run();
    }
}
