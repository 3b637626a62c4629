using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;
using static Fleet.Vmm.Jail.ArgumentTest;
using static Fleet.Vmm.Jail.CallRule;

namespace Fleet.Vmm.Jail;

/// <summary>The kinds of thread of a VMM, each with a filter of its own.</summary>
[Flags]
internal enum ThreadKinds
{
    /// <summary>Every thread until the guest runs: has all that any of them needs later, and what builds a machine.</summary>
    Start = 1,

    /// <summary>The event loop while the guest runs: API and devices.</summary>
    Loop = 2,

    /// <summary>A vCPU.</summary>
    Vcpu = 4,

    /// <summary>The runtime's finalizer.</summary>
    Finalizer = 8,

    All = Start | Loop | Vcpu | Finalizer,
    Working = Start | Loop | Vcpu,
    Serving = Start | Loop,
}

/// <summary>What threads can do, and by which system calls.</summary>
/// <param name="Name">One or two words.</param>
/// <param name="Kinds">Which threads can.</param>
/// <param name="Rules">How.</param>
internal sealed record Capability(string Name, ThreadKinds Kinds, CallRule[] Rules);

/// <summary>
/// The allow lists. What stands nowhere here ends the process: above all execve, fork, ptrace, process_vm_readv, kill, mount,
/// setns, unshare, chroot, bpf, perf_event_open, memory that is executable, sockets that are not Unix sockets.
/// </summary>
internal static class ThreadFilters
{
    private const int NotPermitted = 1;
    private const int NoSuchCall = 38;

    private const uint Executable = 4;
    private const uint UnixFamily = 1;
    private const uint SocketLevel = 1;
    private const uint SocketTypeMask = 0xf;

    /// <summary>CLONE_VM | FS | FILES | SIGHAND | THREAD | SYSVSEM | SETTLS | PARENT_SETTID | CHILD_CLEARTID: a thread of glibc, nothing else.</summary>
    internal const uint ThreadFlags = 0x3d0f00;

    /// <summary>SIGABRT, the runtime's SIGRTMIN and the vCPUs' kick.</summary>
    private static readonly uint[] OwnSignals = [6, 34, ThreadKick.Signal];

    /// <summary>SIGILL, SIGABRT, SIGBUS, SIGFPE, SIGSEGV: put back to their default by what dies of them.</summary>
    private static readonly uint[] FatalSignals = [4, 6, 7, 8, 11];

    // F_GETFD, F_SETFD, F_GETFL, F_SETFL, F_DUPFD_CLOEXEC: none that locks, leases, or makes the kernel send signals.
    private static readonly uint[] DescriptorCommands = [1, 2, 3, 4, 1030];

    // DONTNEED, FREE, REMOVE, DONTFORK, HUGEPAGE, NOHUGEPAGE, DONTDUMP, DODUMP, POPULATE_READ, POPULATE_WRITE.
    private static readonly uint[] Advices = [4, 8, 9, 10, 14, 15, 16, 17, 22, 23];

    /// <summary>The table. <paramref name="pid"/> is the process's own, as it sees itself.</summary>
    public static Capability[] Capabilities(uint pid) =>
    [
        new("run the guest", ThreadKinds.Start | ThreadKinds.Vcpu,
        [
            Allow(CallNumbers.Ioctl, OneOf(1, KvmCalls.Run)),
            Allow(CallNumbers.Ioctl, OneOf(1, KvmCalls.GetMpState, KvmCalls.GetVcpuEvents, KvmCalls.KvmClockControl, KvmCalls.SetSignalMask)),
            Allow(CallNumbers.RtSigtimedwait),
        ]),
        new("interrupt the guest", ThreadKinds.Working,
        [
            Allow(CallNumbers.Ioctl, OneOf(1, KvmCalls.IrqLine)),
            Allow(CallNumbers.Ioctl, OneOf(1, KvmCalls.GetRegs, KvmCalls.GetSregs)),
        ]),
        new("read and write what is open", ThreadKinds.Working,
        [
            Allow(CallNumbers.Read),
            Allow(CallNumbers.Write),
            Allow(CallNumbers.Readv),
            Allow(CallNumbers.Writev),
            Allow(CallNumbers.Pread64),
            Allow(CallNumbers.Pwrite64),
            Allow(CallNumbers.Preadv),
            Allow(CallNumbers.Pwritev),
            Allow(CallNumbers.Fdatasync),
            Allow(CallNumbers.Fsync),
            Allow(CallNumbers.Poll),
            Allow(CallNumbers.IoUringEnter),
            Allow(CallNumbers.Getrandom),
        ]),
        new("wait for devices and timers", ThreadKinds.Working,
        [
            Allow(CallNumbers.EpollWait),
            Allow(CallNumbers.EpollCtl),
            Allow(CallNumbers.TimerfdSettime),
            Allow(CallNumbers.Ioctl, OneOf(1, (uint)TapInterface.SetOffload)),
        ]),
        new("memory, collector, locks, clocks", ThreadKinds.All,
        [
            Allow(CallNumbers.Futex),
            Allow(CallNumbers.Mmap, Without(2, Executable)),
            Allow(CallNumbers.Mprotect, Without(2, Executable)),
            Allow(CallNumbers.Munmap),
            Allow(CallNumbers.Mremap),
            Allow(CallNumbers.Madvise, OneOf(2, Advices)),
            Allow(CallNumbers.Brk),
            Allow(CallNumbers.Close),
            Allow(CallNumbers.Membarrier, OneOf(0, 0, 8, 16)),
            Allow(CallNumbers.SchedYield),
            Allow(CallNumbers.SchedGetaffinity),
            Allow(CallNumbers.ClockGettime),
            Allow(CallNumbers.ClockNanosleep),
            Allow(CallNumbers.Nanosleep),
            Allow(CallNumbers.RestartSyscall),
            Allow(CallNumbers.Getpid),
            Allow(CallNumbers.Gettid),
            Allow(CallNumbers.Tgkill, OneOf(0, pid), OneOf(2, OwnSignals)),
            Allow(CallNumbers.RtSigprocmask),
            Allow(CallNumbers.RtSigreturn),
            Allow(CallNumbers.RtSigaction, OneOf(0, FatalSignals)),
            Allow(CallNumbers.Prlimit64, OneOf(0, 0), OneOf(2, 0), HighIsZero(2)),
            Allow(CallNumbers.Exit),
            Allow(CallNumbers.ExitGroup),

            // The collector asks how large the machine is and lives without an answer.
            Fail(CallNumbers.Getrusage, NotPermitted),
        ]),
        new("start threads", ThreadKinds.Start,
        [
            Allow(CallNumbers.Clone, OneOf(0, ThreadFlags)),

            // Its flags stand in memory, out of a filter's sight; glibc takes clone instead.
            Fail(CallNumbers.Clone3, NoSuchCall),
            Allow(CallNumbers.SetRobustList),
            Allow(CallNumbers.Rseq),
            Allow(CallNumbers.Prctl, OneOf(0, 15)),
            Allow(CallNumbers.Seccomp, OneOf(0, 1)),
        ]),
        new("open and replace files of the jail", ThreadKinds.Serving,
        [
            Allow(CallNumbers.Openat),
            Allow(CallNumbers.Newfstatat),
            Allow(CallNumbers.Fstat),
            Allow(CallNumbers.Lseek),
            Allow(CallNumbers.Ftruncate),
            Allow(CallNumbers.Rename),
            Allow(CallNumbers.Renameat2),
            Allow(CallNumbers.Unlink),
            Allow(CallNumbers.Dup),
            Allow(CallNumbers.Fcntl, OneOf(1, DescriptorCommands)),
        ]),

        // The collector opens /proc/meminfo and asks how large the machine is on whatever thread it runs, and lives without.
        new("no files", ThreadKinds.Vcpu | ThreadKinds.Finalizer, [Fail(CallNumbers.Openat, NotPermitted), Fail(CallNumbers.Newfstatat, NotPermitted), Fail(CallNumbers.Sysinfo, NotPermitted)]),
        new("make event counters and timers", ThreadKinds.Serving, [Allow(CallNumbers.Eventfd2), Allow(CallNumbers.TimerfdCreate)]),
        new("stop the guest when its lease lapses", ThreadKinds.Serving,
        [
            Allow(CallNumbers.TimerCreate, OneOf(0, KernelClock.Boot)),
            Allow(CallNumbers.TimerSettime),
            Allow(CallNumbers.TimerDelete),
        ]),
        new("Unix sockets: API, vsock, page fault handler", ThreadKinds.Serving,
        [
            Allow(CallNumbers.Socket, OneOf(0, UnixFamily), Masked(1, SocketTypeMask, 1, 2)),
            Allow(CallNumbers.Connect),
            Allow(CallNumbers.Bind),
            Allow(CallNumbers.Listen),
            Allow(CallNumbers.Fchmod),
            Allow(CallNumbers.Accept4),
            Allow(CallNumbers.Sendto),
            Allow(CallNumbers.Recvfrom),
            Allow(CallNumbers.Sendmsg),
            Allow(CallNumbers.Recvmsg),
            Allow(CallNumbers.Shutdown),
            Allow(CallNumbers.Getsockname),
            Allow(CallNumbers.Getsockopt, OneOf(1, SocketLevel)),

            // SO_SNDBUF, SO_RCVBUF, SO_SNDTIMEO.
            Allow(CallNumbers.Setsockopt, OneOf(1, SocketLevel), OneOf(2, 7, 8, 21)),
        ]),
        // A ring is made with its disk, before the guest runs, and restricts itself: its operations pass by these filters.
        new("io_uring of disks", ThreadKinds.Start, [Allow(CallNumbers.IoUringSetup), Allow(CallNumbers.IoUringRegister)]),
        new("taps", ThreadKinds.Serving, [Allow(CallNumbers.Ioctl, OneOf(1, (uint)TapInterface.SetInterface, (uint)TapInterface.SetHeaderSize, RequestNumbers.InterfaceIndex))]),
        new("the console's terminal", ThreadKinds.Serving,
        [
            Allow(CallNumbers.Ioctl, OneOf(1, RequestNumbers.TerminalGet, RequestNumbers.TerminalSet, RequestNumbers.TerminalGroup)),
            Allow(CallNumbers.Getpgrp),
        ]),
        new("build a machine", ThreadKinds.Start,
        [
            Allow(CallNumbers.Ioctl, OneOf(1,
                KvmCalls.GetApiVersion, KvmCalls.CreateVm, KvmCalls.CheckExtension, KvmCalls.GetVcpuMmapSize, KvmCalls.GetSupportedCpuid,
                KvmCalls.CreateVcpu, KvmCalls.SetTssAddress, KvmCalls.CreateIrqChip, KvmCalls.CreatePit2, KvmCalls.IrqFd, KvmCalls.IoEventFd,
                KvmCalls.SetRegs, KvmCalls.SetSregs, KvmCalls.SetMsrs, KvmCalls.SetFpu, KvmCalls.GetLapic, KvmCalls.SetLapic, KvmCalls.SetCpuid2,
                KvmCalls.GetMsrIndexList, RequestNumbers.KvmSetIdentityMapAddress, RequestNumbers.KvmEnableCapability, RequestNumbers.KvmSetGsiRouting,
                KvmCalls.GetCpuid2)),
        ]),
        new("restore a snapshot", ThreadKinds.Start,
        [
            Allow(CallNumbers.Ioctl, OneOf(1,
                KvmCalls.SetIrqChip, KvmCalls.SetClock, KvmCalls.SetPit2, KvmCalls.SetMpState,
                KvmCalls.SetVcpuEvents, KvmCalls.SetDebugRegs, KvmCalls.SetXsave, KvmCalls.SetXcrs, KvmCalls.SetTscKhz,
                RequestNumbers.UserfaultApi, RequestNumbers.UserfaultRegister, RequestNumbers.UserfaultNew)),
            Allow(CallNumbers.Userfaultfd),
        ]),
        new("take a snapshot, track memory", ThreadKinds.Serving,
        [
            Allow(CallNumbers.Ioctl, OneOf(1,
                KvmCalls.SetUserMemoryRegion, KvmCalls.CheckExtension, KvmCalls.GetCpuid2, KvmCalls.GetLapic, KvmCalls.GetMpState, KvmCalls.GetVcpuEvents, KvmCalls.KvmClockControl,
                RequestNumbers.KvmGetDirtyLog, KvmCalls.GetIrqChip, KvmCalls.GetClock, KvmCalls.GetPit2, KvmCalls.GetMsrs,
                RequestNumbers.KvmGetFpu, KvmCalls.GetDebugRegs, KvmCalls.GetXsave, RequestNumbers.KvmGetXsave2, KvmCalls.GetXcrs,
                KvmCalls.GetTscKhz)),
            // Whether pages may be swapped out, which mincore takes for untouched.
            Allow(CallNumbers.Sysinfo),
            Allow(CallNumbers.Mincore),
            Allow(CallNumbers.Msync),
        ]),
    ];

    /// <summary>The filter of one kind of thread.</summary>
    public static BpfInstruction[] Build(ThreadKinds kind, uint pid)
    {
        var rules = new List<CallRule>();
        foreach (var capability in Capabilities(pid))
        {
            if ((capability.Kinds & kind) != 0)
            {
                rules.AddRange(capability.Rules);
            }
        }

        return SystemCallFilter.Build(rules);
    }
}
