using System.Text;
using Fleet.Host.Consoles;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Host.Drivers.Processes;

/// <summary>Why there is no VMM to take over.</summary>
internal enum VmmAbsence
{
    /// <summary>None was ever started in the directory.</summary>
    NeverStarted,

    /// <summary>It ended while nobody watched.</summary>
    Gone,

    /// <summary>The machine was started anew since.</summary>
    MachineRebooted,
}

/// <summary>
/// One VMM as a process. It outlives the agent: it leads its own session, its streams are files in the microVM's
/// directory, and it wrote down who it is before it became the VMM, so that there is no moment at which it runs and a
/// restarted agent could miss it.
/// </summary>
internal sealed class VmmProcess
{
    // $0 names the launcher in error messages; $1 is the file size limit in blocks of 512 bytes or "unlimited", the rest the VMM and its
    // arguments, which the shell passes on and never reads. Signals ignored and limits survive exec.
    private const string Launcher = """
        trap '' XFSZ
        ulimit -S -f "$1" || exit 125
        shift
        read -r boot </proc/sys/kernel/random/boot_id || exit 125
        read -r stat </proc/$$/stat || exit 125
        printf '%s\n%s\n' "$boot" "$stat" >vmm.pid || exit 125
        exec "$@"
        """;

    private static readonly TimeSpan NamingTimeout = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan EndingTimeout = TimeSpan.FromSeconds(10);
    private static readonly TimeSpan NamingPause = TimeSpan.FromMilliseconds(20);

    private readonly SafeFileHandle _pidfd;

    private VmmProcess(int pid, SafeFileHandle pidfd, Task<ProcessEnd> ended)
    {
        Pid = pid;
        _pidfd = pidfd;
        Ended = ended;
    }

    public int Pid { get; }

    /// <summary>Completes when the process is gone; never faults.</summary>
    public Task<ProcessEnd> Ended { get; }

    /// <summary>The same, for those who only wait.</summary>
    public Task Gone => Ended;

    /// <summary>Starts a VMM with the microVM's directory as its working directory.</summary>
    /// <param name="program">Absolute path.</param>
    /// <param name="locked">
    /// Files that it has to itself as long as it lives: it does not begin while another holds one. With any, no limit on the size of files.
    /// </param>
    /// <exception cref="LaunchFailedException"><c>vmm_failed</c>: not even the launcher could be started.</exception>
    public static VmmProcess Start(string directory, string program, IReadOnlyList<string> arguments, IReadOnlyList<string>? locked = null)
    {
        try
        {
            string input = Path.Combine(directory, VmmFiles.ConsoleInput);
            File.Delete(input);
            Posix.MakeFifo(input);
            string blocks = locked is { Count: > 0 } ? "unlimited" : (ConsoleLog.Limit / 512).ToString(System.Globalization.CultureInfo.InvariantCulture);
            // flock(1) opens the file, locks it, and becomes the program: the lock is the VMM's, and ends with it.
            var locks = (locked ?? []).SelectMany(file => (string[])["flock", "--nonblock", "--no-fork", "--conflict-exit-code", "75", file]);
            int pid = Spawn.Start(
                directory, "/bin/sh", ["-c", Launcher, "fleet-launch", blocks, .. locks, program, .. arguments],
                new SpawnStreams(VmmFiles.ConsoleInput, ConsoleLog.FileName, VmmFiles.Log));
            var (pidfd, ended) = ProcessWatch.Catch(pid);
            return new VmmProcess(pid, pidfd, ended);
        }
        catch (IOException e)
        {
            throw new LaunchFailedException("vmm_failed", $"The VMM could not be started in {directory}: {e.Message}.", e);
        }
    }

    /// <summary>
    /// Starts a VMM by a jailer, a program that builds walls, writes the pid file, makes a sibling that becomes the VMM, and ends.
    /// Waits for the jailer's end; the VMM is then this process's child as one of <see cref="Start"/> is.
    /// </summary>
    /// <exception cref="LaunchFailedException"><c>vmm_failed</c>: there is no jail, and so no VMM; the message is the jailer's.</exception>
    public static async Task<VmmProcess> StartJailedAsync(string directory, string program, IReadOnlyList<string> arguments)
    {
        try
        {
            string input = Path.Combine(directory, VmmFiles.ConsoleInput);
            File.Delete(input);
            Posix.MakeFifo(input);
            int jailer = Spawn.Start(directory, program, arguments, new SpawnStreams(VmmFiles.ConsoleInput, ConsoleLog.FileName, VmmFiles.Log));
            var (jailerFd, jailed) = ProcessWatch.Catch(jailer);
            // The machine's time: a jailer that hangs must not outlast a clock that stands still.
            await ((Task)jailed).WaitAsync(NamingTimeout).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
            if (!jailed.IsCompleted) Posix.Signal(jailerFd, Posix.SigKill);
            var end = await jailed.ConfigureAwait(false);
            string path = Path.Combine(directory, VmmFiles.Pid);
            var identity = File.Exists(path) ? ProcessIdentity.Parse(File.ReadAllText(path, Encoding.Latin1)) : null;
            if (end.ExitCode != 0 && identity is null)
            {
                throw new LaunchFailedException("vmm_failed", $"The VMM could not be jailed, and was not started: {LastWords(directory) ?? $"its jailer ended by signal {end.Signal}"}");
            }
            if (identity is null) throw new IOException($"the jailer wrote no {VmmFiles.Pid}");
            var (pidfd, ended) = ProcessWatch.Catch(identity.Pid);
            return new VmmProcess(identity.Pid, pidfd, ended);
        }
        catch (IOException e)
        {
            throw new LaunchFailedException("vmm_failed", $"The VMM could not be started in {directory}: {e.Message}.", e);
        }
    }

    /// <summary>Finds the VMM that was started in a directory; null when it does not run, and why.</summary>
    public static VmmProcess? TryAdopt(string directory, out VmmAbsence absence)
    {
        absence = VmmAbsence.NeverStarted;
        string path = Path.Combine(directory, VmmFiles.Pid);
        if (!File.Exists(path)) return null;
        if (ProcessIdentity.Parse(File.ReadAllText(path, Encoding.Latin1)) is not { } identity) return null;
        absence = VmmAbsence.MachineRebooted;
        if (identity.BootId != ProcessIdentity.CurrentBoot()) return null;
        absence = VmmAbsence.Gone;
        if (Posix.TryOpenPidfd(identity.Pid) is not { } pidfd) return null;
        // Asked only now: the pidfd holds on to one process, and this tells whether it is the right one.
        if (identity.IsAlive()) return new VmmProcess(identity.Pid, pidfd, ProcessWatch.WhenEnded(pidfd));
        pidfd.Dispose();
        return null;
    }

    /// <summary>
    /// The same, and certain of it: an agent may have been killed so shortly after it started a VMM that this has not
    /// written down yet who it is. Such a one is waited for.
    /// </summary>
    public static async Task<(VmmProcess? Process, VmmAbsence Absence)> AdoptAsync(
        string directory, TimeProvider clock, CancellationToken cancellation)
    {
        long began = clock.GetTimestamp();
        while (true)
        {
            var process = TryAdopt(directory, out var absence);
            if (process is not null || absence != VmmAbsence.NeverStarted || !ProcessIdentity.WorksIn(directory)) return (process, absence);
            if (clock.GetElapsedTime(began) > NamingTimeout)
            {
                throw new IOException($"A process works in {directory} and does not write down in {VmmFiles.Pid} who it is; end it by hand");
            }
            await Task.Delay(NamingPause, clock, cancellation).ConfigureAwait(false);
        }
    }

    /// <summary>Ends whatever VMM runs in a directory that no record tells of, and waits until it is gone.</summary>
    /// <returns>Whether there was one.</returns>
    /// <exception cref="IOException">It does not end.</exception>
    public static async Task<bool> EndStrayAsync(string directory, TimeProvider clock, CancellationToken cancellation)
    {
        if ((await AdoptAsync(directory, clock, cancellation).ConfigureAwait(false)).Process is not { } stray) return false;
        stray.Signal(Posix.SigKill);
        await stray.Gone.WaitAsync(EndingTimeout, clock, cancellation).ConfigureAwait(ConfigureAwaitOptions.SuppressThrowing);
        return stray.Ended.IsCompleted ? true : throw new IOException($"The VMM {stray.Pid} in {directory} does not end after SIGKILL; look for it in state D");
    }

    /// <summary>Sends a signal; nothing when the VMM is gone.</summary>
    public void Signal(int signal)
    {
        try
        {
            Posix.Signal(_pidfd, signal);
        }
        catch (ObjectDisposedException)
        {
            // Gone and reaped: the handle is closed with that.
            return;
        }
    }

    /// <summary>Lets the VMM write its files up to <paramref name="bytes"/>; nothing when it is gone.</summary>
    public void LimitFileSize(ulong bytes)
    {
        // The pid is still this VMM's unless it ended in this very moment; a stranger's soft limit would then be lowered
        // only within what it may raise again itself. Asked for only when the console was trimmed.
        if (!Ended.IsCompleted) Posix.SetFileSizeLimit(Pid, bytes);
    }

    /// <summary>The last line of what the VMM said on standard error, at most 300 characters; null when it said nothing.</summary>
    public static string? LastWords(string directory)
    {
        string path = Path.Combine(directory, VmmFiles.Log);
        if (!File.Exists(path)) return null;
        using var file = File.OpenHandle(path, FileMode.Open, FileAccess.Read, FileShare.ReadWrite | FileShare.Delete);
        long length = RandomAccess.GetLength(file);
        var tail = new byte[(int)Math.Min(length, 4096)];
        int read = RandomAccess.Read(file, tail, length - tail.Length);
        var line = Encoding.UTF8.GetString(tail, 0, read).Split('\n').LastOrDefault(l => !string.IsNullOrWhiteSpace(l))?.Trim();
        if (line is null) return null;
        var printable = string.Concat(line.Select(c => char.IsControl(c) ? '?' : c));
        return printable.Length <= 300 ? printable : printable[..300];
    }
}
