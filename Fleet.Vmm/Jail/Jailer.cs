using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using System.Text;
using Fleet.Vmm.Api;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Jail;

/// <summary>
/// <c>fleet-vmm jail</c>: builds the walls around this process one by one, then makes a child in a pid namespace of its own
/// that becomes the VMM, and ends. The child's parent is the one who started us: it can wait for the VMM as for its own child.
/// </summary>
/// <remarks>
/// The working directory stays where it was until the VMM's identity stands in the pid file: at every moment one finds either
/// a process that works in the microVM's directory, or who its VMM is.
/// </remarks>
internal sealed unsafe partial class Jailer(JailOptions options)
{
    private const int StandardError = 2;
    private const int DuplicateAbove = 1030; // F_DUPFD_CLOEXEC
    private const int Backlog = HttpServer.MostConnections;
    private const int NoFollow = Descriptors.NoFollow;
    private const uint OwnerReadWrite = 0x180;

    /// <summary>Descriptors of ours stand above those that are passed.</summary>
    private const int OwnDescriptors = JailOptions.PassedLimit * 2;

    private static readonly (string Name, ulong Limit)[] DefaultLimits =
        [("no-file", 2048), ("core", 0), ("nproc", 64), ("memlock", 8 << 20), ("msgqueue", 0)];

    private readonly ulong _began = KernelClock.Microseconds(KernelClock.Monotonic);
    private readonly ControlGroups _groups = new();
    private readonly List<string> _sockets = [];

    /// <summary>Runs the command; returns the exit code.</summary>
    public static int Run(ReadOnlySpan<string> arguments)
    {
        JailOptions options;
        try
        {
            options = JailOptions.Parse(arguments);
        }
        catch (ArgumentFaultException fault)
        {
            Tell($"fleet-vmm jail: {fault.Message} For more information try: fleet-vmm jail --help\n");
            return ExitCode.Arguments;
        }

        if (options.WantsHelp || options.WantsVersion)
        {
            _ = Descriptors.WriteAll(1, Encoding.UTF8.GetBytes(options.WantsHelp ? JailOptions.Help(VmmProcess.Version) : $"fleet-vmm v{VmmProcess.Version}\n"));
            return ExitCode.Ok;
        }

        var jailer = new Jailer(options);
        try
        {
            jailer.Start();
            return ExitCode.Ok;
        }
        catch (Exception failure) when (failure is JailException or SystemCallException)
        {
            jailer._groups.Leave();
            jailer.RemoveSockets();
            Tell($"fleet-vmm jail: {failure.Message} Nothing was started.\n");
            return ExitCode.GenericError;
        }
    }

    private void Start()
    {
        // Whatever the caller left open is none of the VMM's business.
        JailCalls.Check(JailCalls.syscall(JailCalls.CloseRangeCall, 3, int.MaxValue, 0, 0, 0), "close_range");
        var program = Own(JailCalls.open(options.Program ?? "/proc/self/exe", Descriptors.ReadOnly | Descriptors.CloseOnExec, 0), "The program " + (options.Program ?? "fleet-vmm"));
        var pidFile = options.PidFile is { } path ? Own(JailCalls.open(path, Descriptors.WriteOnly | Descriptors.Create | Descriptors.Truncate | NoFollow | Descriptors.CloseOnExec, OwnerReadWrite), path) : -1;
        var processes = Own(JailCalls.open("/proc", JailCalls.PathOnly | Descriptors.OnlyDirectory | JailCalls.CloseOnExec, 0), "/proc");
        var boot = pidFile < 0 ? [] : Descriptors.ReadFile("/proc/sys/kernel/random/boot_id", 64);
        var passed = options.Passed.ConvertAll(file => (file.Number, Fd: Own(Open(file), file.Path)));
        var network = options.NetworkNamespace is { } name ? Own(JailCalls.open(name, Descriptors.ReadOnly | Descriptors.CloseOnExec, 0), name) : -1;
        if (options.Daemonize)
        {
            Detach();
        }

        _groups.Enter(options.ControlGroupVersion, options.ParentControlGroup, options.Id, options.ControlGroupValues);
        if (network >= 0)
        {
            JailCalls.Check(JailCalls.setns(network, JailCalls.NewNetwork), $"setns {options.NetworkNamespace}");
        }

        const int Always = JailCalls.NewMounts | JailCalls.NewIpc | JailCalls.NewUts | JailCalls.NewPids | JailCalls.NewControlGroups;
        try
        {
            JailCalls.Check(JailCalls.unshare(Always | (network < 0 ? JailCalls.NewNetwork : 0)), "unshare");
        }
        catch (SystemCallException failure)
        {
            throw new JailException("The namespaces could not be made", failure);
        }

        new JailRoot(options).Enter();
        foreach (var (number, fd) in passed)
        {
            // Without close-on-exec: these are the VMM's.
            JailCalls.Check(JailCalls.dup2(fd, number), "dup2");
        }

        SetLimits();
        Privileges.Drop(options.User, options.Group);
        StartChild(program, pidFile, processes, boot);
    }

    private static int Own(int fd, string what)
    {
        if (fd < 0)
        {
            throw new JailException($"{what} can't be opened", SystemCallException.Last("open"));
        }

        var own = JailCalls.fcntl(fd, DuplicateAbove, OwnDescriptors);
        _ = Descriptors.close(fd);
        return (int)JailCalls.Check(own, "fcntl");
    }

    /// <summary>One that nobody listens on would stand in the way of the next try. The working directory is still the caller's.</summary>
    private void RemoveSockets()
    {
        foreach (var path in _sockets)
        {
            _ = Descriptors.unlink(path);
        }
    }

    private int Open(PassedFile file)
    {
        try
        {
            switch (file.Kind)
            {
                case PassedKind.Read:
                    return Descriptors.OpenRegularFile(file.Path);
                case PassedKind.Edit:
                    var edited = Descriptors.OpenRegularFile(file.Path, Descriptors.ReadWrite);
                    // The lock is the open file's, and so the VMM's as long as it lives: nobody else may write to it meanwhile.
                    return JailCalls.flock(edited, JailCalls.LockAlone) == 0 ? edited : throw SystemCallException.Last("flock");
                case PassedKind.Tap:
                    return TapInterface.Open(file.Path);
                case PassedKind.Listen:
                    var socket = Sockets.Listen(file.Path, Backlog);
                    _sockets.Add(file.Path);
                    return socket;
                case PassedKind.Write:
                    return JailCalls.open(file.Path, Descriptors.WriteOnly | Descriptors.Create | Descriptors.Truncate | NoFollow | Descriptors.NonBlocking | Descriptors.CloseOnExec, OwnerReadWrite);
                default:
                    return JailCalls.open(file.Path, Descriptors.ReadWrite | Descriptors.Create | Descriptors.Append | NoFollow | Descriptors.NonBlocking | Descriptors.CloseOnExec, OwnerReadWrite);
            }
        }
        catch (Exception failure) when (failure is SystemCallException or NotARegularFileException)
        {
            throw new JailException($"{file.Path} can't be opened for the VMM: {failure.Message}.");
        }
    }

    private static void Detach()
    {
        // Fails for who leads a session already, and that is as good.
        _ = JailCalls.setsid();
        var nowhere = (int)JailCalls.Check(JailCalls.open("/dev/null", Descriptors.ReadWrite | Descriptors.CloseOnExec, 0), "open /dev/null");
        for (var stream = 0; stream <= 2; stream++)
        {
            JailCalls.Check(JailCalls.dup2(nowhere, stream), "dup2");
        }
    }

    private void SetLimits()
    {
        foreach (var (name, limit) in DefaultLimits)
        {
            var number = Array.Find(JailOptions.Resources, known => known.Name == name).Number;
            if (!options.Limits.Exists(asked => asked.Resource == number))
            {
                Limit(number, limit);
            }
        }

        foreach (var (resource, limit) in options.Limits)
        {
            Limit(resource, limit);
        }
    }

    private static void Limit(int resource, ulong limit)
    {
        // SAFETY: struct rlimit is two 64-bit numbers, soft and hard.
        var limits = stackalloc ulong[2] { limit, limit };
        JailCalls.Check(JailCalls.setrlimit(resource, limits), "setrlimit");
    }

    private void StartChild(int program, int pidFile, int processes, byte[] boot)
    {
        var ends = stackalloc int[2];
        JailCalls.Check(JailCalls.pipe2(ends, JailCalls.CloseOnExec), "pipe2");
        using var arguments = new NativeStrings(["fleet-vmm", "--id", options.Id, "--start-time-us", $"{_began}", "--start-time-cpu-us", "0", "--parent-cpu-time-us", $"{KernelClock.Microseconds(KernelClock.ProcessCpu)}", .. options.Arguments]);
        using var environment = new NativeStrings([]);
        using var texts = new NativeStrings(["/", ""]);
        using var complaint = new NativeStrings(["fleet-vmm jail: the program could not be executed in the jail, which has no libraries: it must be static, and executable. errno "]);
        var child = Fork();
        if (child == 0)
        {
            BecomeVmm(ends[0], ends[1], program, texts.First, arguments.First, environment.First, *complaint.First);
        }

        JailCalls.Check(child, "clone");
        if (pidFile >= 0)
        {
            WritePidFile(pidFile, processes, boot, (int)child);
        }

        byte go = 1;
        _ = Descriptors.write(ends[1], &go, 1);
    }

    // When this fails the pipe closes without a word, and the child ends without having been a VMM.
    private static void WritePidFile(int pidFile, int processes, byte[] boot, int child)
    {
        // SAFETY: never told more room than the buffer has.
        var stat = stackalloc byte[1024];
        var fd = JailCalls.openat(processes, $"{child}/stat", Descriptors.ReadOnly | Descriptors.CloseOnExec, 0);
        var length = fd < 0 ? -1 : Descriptors.read(fd, stat, 1024);
        if (length <= 0)
        {
            throw new JailException($"Who the VMM is can't be read from /proc/{child}/stat", SystemCallException.Last("read"));
        }

        if (!Descriptors.WriteAll(pidFile, (byte[])[.. boot, .. new ReadOnlySpan<byte>(stat, (int)length)]))
        {
            throw new JailException("The pid file could not be written", SystemCallException.Last("write"));
        }
    }

    /// <summary>
    /// A copy of this process with the same parent: 0 in the copy. The copy has this one thread of ours and none of the runtime's:
    /// it may make system calls and nothing else, so nothing there allocates, throws or waits for another thread.
    /// </summary>
    private static nint Fork() => clone(JailCalls.CloneCall, JailCalls.SameParent | JailCalls.ChildSignal, 0, 0, 0, 0);

    // SAFETY: in the copy of the process every pointer points to the copy of what it pointed to; the callers' memory is native and lives on.
    private static void BecomeVmm(int go, int unused, int program, byte** texts, byte** arguments, byte** environment, byte* complaint)
    {
        byte word = 0;
        _ = clone(CallNumbers.Close, unused, 0, 0, 0, 0);
        if (clone(CallNumbers.Read, go, (nint)(&word), 1, 0, 0) == 1)
        {
            // The root is the jail's by now, and this the last hold on the host's files.
            if (clone(80, (nint)texts[0], 0, 0, 0, 0) == 0)
            {
                _ = clone(JailCalls.ExecveAtCall, program, (nint)texts[1], (nint)arguments, (nint)environment, JailCalls.EmptyPath);
            }

            var error = Marshal.GetLastSystemError();
            var length = 0;
            while (complaint[length] != 0)
            {
                length++;
            }

            var digits = stackalloc byte[4] { (byte)('0' + (error / 100 % 10)), (byte)('0' + (error / 10 % 10)), (byte)('0' + (error % 10)), (byte)'\n' };
            _ = clone(CallNumbers.Write, StandardError, (nint)complaint, length, 0, 0);
            _ = clone(CallNumbers.Write, StandardError, (nint)digits, 4, 0, 0);
        }

        while (true)
        {
            _ = clone(CallNumbers.ExitGroup, ExitCode.GenericError, 0, 0, 0, 0);
        }
    }

    /// <summary>syscall(2) without the runtime's transitions: the copy of a process has nobody to wait for.</summary>
    [LibraryImport("libc", EntryPoint = "syscall")]
    [SuppressGCTransition]
    private static partial nint clone(nint number, nint first, nint second, nint third, nint fourth, nint fifth);

    private static void Tell(string text) => _ = Descriptors.WriteAll(StandardError, Encoding.UTF8.GetBytes(text));
}
