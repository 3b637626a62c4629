using System.Runtime.InteropServices;
using Fleet.Guest.Linux;

namespace Fleet.Guest.Processes;

/// <summary>
/// Runs the command as PID 1 must: passes a wish to end on to it, collects every orphan, and says how it ended.
/// </summary>
/// <param name="console">
/// Descriptor of the console. It must be the controlling terminal of this process, not of the command: the kernel throws
/// unsent output away when a terminal's session leader ends, so the command must not be that.
/// </param>
/// <param name="others">Told of every other child that has ended.</param>
/// <param name="stopSignal">What asks the command to end.</param>
/// <param name="stopLimit">How long it may take to end once asked, before it is killed.</param>
internal sealed unsafe class Supervisor(int console, ChildExits others, int stopSignal, TimeSpan stopLimit)
{
    /// <summary>How long killed left-overs may take to go away; longer only in an uninterruptible wait.</summary>
    private static readonly TimeSpan CleanUpLimit = TimeSpan.FromSeconds(2);

    private readonly object _gate = new();
    private bool _ended;
    private int _command;
    private bool _isShell;
    private bool _stopping;
    private TimeSpan _limit = stopLimit;
    private bool _killed;

    /// <summary>The command was asked to end, did not in its time, and was killed.</summary>
    public bool HasKilled
    {
        get
        {
            lock (_gate) return _killed;
        }
    }

    /// <summary>
    /// Starts the command. Gives 0, or the errno that kept it from running. A script without an interpreter line is given to
    /// the shell, as a shell would.
    /// </summary>
    /// <param name="path">Program file.</param>
    /// <param name="argv">With the name it was called by.</param>
    /// <param name="environment"><c>NAME=value</c>.</param>
    /// <param name="isShell">It is the image's shell on the console.</param>
    /// <param name="output">Becomes its standard output; null: the console.</param>
    /// <param name="errors">Becomes its standard error; null: the console.</param>
    public int Start(string path, IReadOnlyList<string> argv, IReadOnlyList<string> environment, bool isShell, int? output = null, int? errors = null)
    {
        lock (_gate)
        {
            _isShell = isShell;
            var around = new Surroundings(console, output ?? console, errors ?? console) { Foreground = Terminal.IsControlling(console) };
            var error = Spawner.StartOrScript(path, argv, environment, around, out _command);
            if (error != 0) _command = 0;
            else if (_stopping) AskToEnd();
            return error;
        }
    }

    /// <summary>
    /// Asks the command to end, and kills everything when it has not in its time. May be called from any
    /// thread, any number of times, before or after <see cref="Start"/>.
    /// </summary>
    /// <param name="limit">Its time from when it was asked first; null: as it is.</param>
    public void Stop(TimeSpan? limit = null)
    {
        lock (_gate)
        {
            if (limit is { } other)
            {
                _limit = other;
                Monitor.PulseAll(_gate);
            }
            if (_stopping) return;
            _stopping = true;
            if (_command != 0) AskToEnd();
            var asked = Environment.TickCount64;
            while (!_ended)
            {
                var left = (int)_limit.TotalMilliseconds - (int)(Environment.TickCount64 - asked);
                if (left > 0)
                {
                    Monitor.Wait(_gate, left);
                    continue;
                }
                _killed = true;
                Libc.kill(-1, Libc.SIGKILL);
                return;
            }
        }
    }

    /// <summary>Collects children until the command has ended; its exit status.</summary>
    public int WaitForCommand()
    {
        while (true)
        {
            int status;
            // SAFETY: the kernel writes one int, on this frame; it is read only when a process id came back.
            var pid = Libc.waitpid(-1, &status, Libc.WUNTRACED);
            if (pid < 0)
            {
                if (Marshal.GetLastPInvokeError() == Libc.EINTR) continue;
                throw new InvalidOperationException($"waiting for the command failed: {Files.Describe(Marshal.GetLastPInvokeError())}");
            }
            if (pid != _command)
            {
                if (!ExitStatus.IsStopped(status)) others.Ended(pid, status);
                continue;
            }
            if (ExitStatus.IsStopped(status))
            {
                // Ctrl-Z with no shell above the command to continue it: nobody else ever would.
                Libc.kill(-pid, Libc.SIGCONT);
                continue;
            }
            lock (_gate)
            {
                _ended = true;
                Monitor.PulseAll(_gate);
            }
            return ExitStatus.Of(status);
        }
    }

    /// <summary>Kills what the command left behind, so that nothing writes to the console any more.</summary>
    public static void EndLeftovers()
    {
        var started = Environment.TickCount64;
        Libc.kill(-1, Libc.SIGKILL);
        while (Environment.TickCount64 - started < CleanUpLimit.TotalMilliseconds)
        {
            int status;
            // SAFETY: the kernel writes one int, on this frame; it is read only when a process id came back.
            var pid = Libc.waitpid(-1, &status, Libc.WNOHANG);
            if (pid < 0 && Marshal.GetLastPInvokeError() != Libc.EINTR) return;
            if (pid == 0) Thread.Sleep(1);
        }
    }

    private void AskToEnd()
    {
        Libc.kill(-_command, stopSignal);
        // An interactive shell ignores SIGTERM; losing its terminal is what ends it.
        if (_isShell) Libc.kill(-_command, Libc.SIGHUP);
        Libc.kill(-_command, Libc.SIGCONT);
    }
}
