using System.Runtime.InteropServices;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Machines;

namespace Fleet.Vmm.Jail;

/// <summary>
/// Puts the seccomp filters on this process: one on all threads before anything from outside is read, tighter ones on each
/// when the guest is about to run. A filter can't be taken off, and is inherited by new threads.
/// </summary>
internal sealed unsafe partial class Confinement : IConfinement
{
    private const int NoNewPrivileges = 38; // PR_SET_NO_NEW_PRIVS
    private const nint SetFilter = 1; // SECCOMP_SET_MODE_FILTER
    private const nint AllThreads = 1; // SECCOMP_FILTER_FLAG_TSYNC

    private readonly uint _pid = (uint)Environment.ProcessId;
    private bool _begun;

    /// <summary>
    /// From now on this process can only do what a VMM does. Before this: signals are set up. Throws <see cref="SystemCallException"/>.
    /// </summary>
    public void Begin()
    {
        if (prctl(NoNewPrivileges, 1, 0, 0, 0) < 0)
        {
            throw SystemCallException.Last("prctl");
        }

        Install(ThreadKinds.Start, AllThreads);
        _begun = true;
    }

    public void EnterVcpu()
    {
        if (_begun)
        {
            Install(ThreadKinds.Vcpu, 0);
        }
    }

    public void GuestRuns()
    {
        if (_begun)
        {
            FinalizerThread.Run(() => Install(ThreadKinds.Finalizer, 0));
            Install(ThreadKinds.Loop, 0);
        }
    }

    private void Install(ThreadKinds kind, nint flags)
    {
        var filter = ThreadFilters.Build(kind, _pid);

        // SAFETY: struct sock_fprog is the count, padding and the address; the kernel copies the program during the call.
        fixed (BpfInstruction* first = filter)
        {
            var program = stackalloc nint[2];
            program[0] = filter.Length;
            program[1] = (nint)first;
            if (syscall(CallNumbers.Seccomp, SetFilter, flags, (nint)program) != 0)
            {
                throw SystemCallException.Last("seccomp");
            }
        }
    }

    [LibraryImport("libc", SetLastError = true)]
    private static partial int prctl(int option, nint second, nint third, nint fourth, nint fifth);

    [LibraryImport("libc", SetLastError = true)]
    private static partial nint syscall(nint number, nint operation, nint flags, nint argument);
}
