using System.Diagnostics;
using System.Globalization;
using System.Text;
using Fleet.Host.Drivers.Processes;
using Microsoft.Win32.SafeHandles;

namespace Fleet.Host.Lab;

/// <summary>How long a node's QEMU lives.</summary>
internal enum NodeLifetime
{
    /// <summary>The kernel kills it when the process that started it ends, however that ends.</summary>
    WithThisProcess,

    /// <summary>Until it is powered off.</summary>
    Detached,
}

/// <summary>
/// The QEMU of a node, in a session of its own. It wrote down who it is, in the node's folder, before it became QEMU: so
/// there is no moment at which it runs and a later process could not find it.
/// </summary>
internal sealed class NodeProcess
{
    /// <summary>What QEMU itself has to say.</summary>
    public const string Log = "qemu.log";

    private const string PidFile = "qemu.pid";

    // $1 is the limit on file sizes in blocks of 512 bytes, the rest the program and its arguments. Signals ignored and
    // limits survive exec.
    private const string Launcher = $$"""
        trap '' XFSZ
        ulimit -f "$1" || exit 125
        shift
        read -r boot </proc/sys/kernel/random/boot_id || exit 125
        read -r stat </proc/$$/stat || exit 125
        printf '%s\n%s\n' "$boot" "$stat" >{{PidFile}} || exit 125
        exec "$@"
        """;

    private static readonly TimeSpan Poll = TimeSpan.FromMilliseconds(10);

    /// <summary>For a shell to write one line, and for the kernel to take back the memory of a killed QEMU.</summary>
    private static readonly TimeSpan Patience = TimeSpan.FromSeconds(30);

    private readonly ProcessIdentity _identity;

    private NodeProcess(ProcessIdentity identity) => _identity = identity;

    /// <summary>Process id.</summary>
    public int Pid => _identity.Pid;

    /// <summary>Still there, and no zombie.</summary>
    public bool IsRunning => _identity.IsAlive();

    /// <summary>
    /// Starts <paramref name="program"/> with the node's folder as its working directory and its output appended to
    /// <see cref="Log"/>. No file that it writes grows beyond <paramref name="fileSizeLimit"/> bytes: further writes fail
    /// with EFBIG.
    /// </summary>
    /// <exception cref="LabException"><c>boot_failed</c>: not even the launcher could be started.</exception>
    public static async Task<NodeProcess> StartAsync(
        string folder, string program, IReadOnlyList<string> arguments, NodeLifetime lifetime, long fileSizeLimit)
    {
        File.Delete(Path.Combine(folder, PidFile));
        string[] prefix = lifetime == NodeLifetime.Detached ? [] : ["/usr/bin/setpriv", "--pdeathsig", "KILL"];
        string[] words = ["-c", Launcher, "fleet-lab", (fileSizeLimit / 512).ToString(CultureInfo.InvariantCulture), .. prefix, program, .. arguments];
        var spawned = new TaskCompletionSource<(SafeFileHandle Pidfd, Task Ended)>(TaskCreationOptions.RunContinuationsAsynchronously);
        // The kernel sends the parent-death signal when the thread that started the child ends, not when the process does:
        // so that thread stays as long as the child.
        new Thread(() => Spawned(folder, words, spawned), 256 * 1024) { IsBackground = true, Name = "lab-node" }.Start();
        try
        {
            var (pidfd, ended) = await spawned.Task;
            for (var since = Stopwatch.StartNew(); since.Elapsed < Patience; await Task.Delay(Poll))
            {
                if (ReadIdentity(folder) is { } identity) return new NodeProcess(identity);
                if (ended.IsCompleted) break;
            }
            // Who could not say who it is may live still: nobody would find it again.
            if (!ended.IsCompleted) Posix.Signal(pidfd, Posix.SigKill);
            await ended;
            throw new LabException("boot_failed", $"The launcher of a lab node in {folder} did not say who it is; see {Log} there.");
        }
        catch (IOException error)
        {
            throw new LabException("boot_failed", $"A lab node's QEMU could not be started in {folder}: {error.Message}", error);
        }
    }

    /// <summary>The QEMU that was last started in a node's folder; null when it runs no more.</summary>
    public static NodeProcess? Find(string folder) =>
        ReadIdentity(folder) is { } identity && identity.BootId == ProcessIdentity.CurrentBoot() && identity.IsAlive() ? new NodeProcess(identity) : null;

    /// <summary>Kills it and waits until it is gone. Nothing happens when it is gone already.</summary>
    public async Task KillAsync()
    {
        using (var pidfd = Posix.TryOpenPidfd(Pid))
        {
            // Asked only now: the pidfd holds on to one process, and this tells whether it is the right one.
            if (pidfd is null || !IsRunning) return;
            Posix.Signal(pidfd, Posix.SigKill);
        }
        for (var since = Stopwatch.StartNew(); IsRunning; await Task.Delay(Poll))
        {
            if (since.Elapsed > Patience)
                throw new LabException("node_stuck", $"Process {Pid} of a lab node does not end although it was killed. Look at /proc/{Pid}/stack.");
        }
    }

    private static void Spawned(string folder, string[] words, TaskCompletionSource<(SafeFileHandle Pidfd, Task Ended)> spawned)
    {
        SafeFileHandle pidfd;
        Task ended;
        try
        {
            var pid = Spawn.Start(folder, "/bin/sh", words, new SpawnStreams("/dev/null", Log, Log));
            (pidfd, ended) = ProcessWatch.Catch(pid);
        }
        catch (IOException error)
        {
            spawned.SetException(error);
            return;
        }
        spawned.SetResult((pidfd, ended));
        ended.Wait();
    }

    private static ProcessIdentity? ReadIdentity(string folder)
    {
        try
        {
            return ProcessIdentity.Parse(File.ReadAllText(Path.Combine(folder, PidFile), Encoding.Latin1));
        }
        catch (Exception absent) when (absent is FileNotFoundException or DirectoryNotFoundException)
        {
            return null;
        }
    }
}
