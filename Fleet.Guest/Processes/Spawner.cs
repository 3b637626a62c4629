using System.Runtime.InteropServices;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Processes;

/// <summary>
/// Starts programs with posix_spawn: the C library forks and executes without running a line of managed code in the child,
/// which a plain fork of a process with a garbage collector's threads could not survive.
/// </summary>
internal static unsafe class Spawner
{
    /// <summary>Larger than any of posix_spawnattr_t (336 bytes), posix_spawn_file_actions_t (80) and sigset_t (128).</summary>
    private const int OpaqueBytes = 512;

    private const short SetGroup = 0x02, SetDefaultSignals = 0x04, SetSignalMask = 0x08, SetSession = 0x80;

    /// <summary>
    /// Starts <paramref name="path"/> in a process group of its own, with <paramref name="terminal"/> as standard input,
    /// output and error, no signal blocked or ignored. With <paramref name="foreground"/> the group is made the terminal's
    /// foreground group before the program starts. Gives 0 and the process id, or an errno: then nothing runs.
    /// </summary>
    public static int Start(
        string path, IReadOnlyList<string> argv, IReadOnlyList<string> environment, int terminal, bool foreground, out int pid) =>
        Start(path, argv, environment, new Surroundings(terminal, terminal, terminal) { Foreground = foreground }, out pid);

    /// <summary>The same; a script without an interpreter line is given to the shell, as a shell would.</summary>
    public static int StartOrScript(string path, IReadOnlyList<string> argv, IReadOnlyList<string> environment, Surroundings around, out int pid)
    {
        var error = Start(path, argv, environment, around, out pid);
        return error == Libc.ENOEXEC ? Start("/bin/sh", ["sh", path, .. argv.Skip(1)], environment, around, out pid) : error;
    }

    /// <summary>The same in other surroundings.</summary>
    public static int Start(string path, IReadOnlyList<string> argv, IReadOnlyList<string> environment, Surroundings around, out int pid)
    {
        using var strings = new NativeStrings();
        var actions = stackalloc byte[OpaqueBytes];
        var attributes = stackalloc byte[OpaqueBytes];
        var every = stackalloc byte[OpaqueBytes];
        var none = stackalloc byte[OpaqueBytes];
        var started = 0;
        pid = 0;
        // SAFETY: each block is larger than the C library's structure for it and lives until the destroy calls below; so do the
        // strings, and both arrays end with a null pointer.
        int error;
        if ((error = Libc.posix_spawn_file_actions_init(actions)) != 0) return error;
        if ((error = Libc.posix_spawnattr_init(attributes)) != 0) return error;
        try
        {
            if (around.Terminal is { } terminal)
            {
                // The first terminal that a session's leader opens becomes its controlling one.
                if ((error = Libc.posix_spawn_file_actions_addopen(actions, 0, strings.Add(terminal), Libc.O_RDWR, 0)) != 0
                    || (error = Libc.posix_spawn_file_actions_adddup2(actions, 0, 1)) != 0
                    || (error = Libc.posix_spawn_file_actions_adddup2(actions, 0, 2)) != 0)
                {
                    return error;
                }
            }
            else if ((error = Libc.posix_spawn_file_actions_adddup2(actions, around.Input, 0)) != 0
                || (error = Libc.posix_spawn_file_actions_adddup2(actions, around.Output, 1)) != 0
                || (error = Libc.posix_spawn_file_actions_adddup2(actions, around.Error, 2)) != 0)
            {
                return error;
            }
            if (around.Foreground && (error = Libc.posix_spawn_file_actions_addtcsetpgrp_np(actions, 0)) != 0) return error;
            if (around.Folder is { } folder && (error = Libc.posix_spawn_file_actions_addchdir_np(actions, strings.Add(folder))) != 0) return error;
            // The runtime ignores SIGPIPE; the command must not inherit that, nor a blocked signal.
            if (Libc.sigfillset(every) != 0 || Libc.sigemptyset(none) != 0) return Marshal.GetLastPInvokeError();
            var group = around.Terminal is null ? SetGroup : SetSession;
            if ((error = Libc.posix_spawnattr_setsigdefault(attributes, every)) != 0
                || (error = Libc.posix_spawnattr_setsigmask(attributes, none)) != 0
                || (error = Libc.posix_spawnattr_setpgroup(attributes, 0)) != 0
                || (error = Libc.posix_spawnattr_setflags(attributes, (short)(group | SetDefaultSignals | SetSignalMask))) != 0)
            {
                return error;
            }
            error = Libc.posix_spawn(&started, strings.Add(path), actions, attributes, strings.AddArray(argv), strings.AddArray(environment));
            pid = started;
            return error;
        }
        finally
        {
            _ = Libc.posix_spawnattr_destroy(attributes);
            _ = Libc.posix_spawn_file_actions_destroy(actions);
        }
    }

    /// <summary>Waits for one process; its wait status, or 0 when it is not a child.</summary>
    public static int Wait(int pid)
    {
        int status;
        // SAFETY: the kernel writes one int, on this frame; it is read only when the process was waited for.
        while (Libc.waitpid(pid, &status, 0) < 0)
        {
            if (Marshal.GetLastPInvokeError() != Libc.EINTR) return 0;
        }
        return status;
    }
}

/// <summary>What a process finds when it starts.</summary>
/// <param name="Input">Becomes its standard input.</param>
/// <param name="Output">Becomes its standard output.</param>
/// <param name="Error">Becomes its standard error.</param>
internal readonly record struct Surroundings(int Input, int Output, int Error)
{
    /// <summary>Path of a terminal that it opens as all three instead, as the leader of a session of its own; null: none.</summary>
    public string? Terminal { get; init; }

    /// <summary>Its group is made the foreground group of the terminal that standard input is.</summary>
    public bool Foreground { get; init; }

    /// <summary>Its working folder; null: that of fleet-init.</summary>
    public string? Folder { get; init; }
}
