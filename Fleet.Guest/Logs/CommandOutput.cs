using System.Runtime.InteropServices;
using Fleet.Guest.Linux;
using Fleet.Guest.Processes;
using Fleet.Shared.GuestChannel;

namespace Fleet.Guest.Logs;

/// <summary>
/// The two pipes that the microVM's command writes to, and the thread that reads them: all of it goes into the log for the host, and to the console.
/// </summary>
internal sealed unsafe class CommandOutput
{
    /// <summary>What a pipe holds. A command that writes on and on and this thread take turns, and each costs far more than the bytes do.</summary>
    private const int ReadBytes = 256 * 1024;

    /// <summary>Where processors are emulated, what a console has not shown of 1 MiB would keep a guest's end waiting for minutes.</summary>
    private static readonly TimeSpan ConsolePatience = TimeSpan.FromSeconds(10);

    private readonly OutputLog _log;
    private readonly ConsoleCopy? _console;
    private readonly byte[] _buffer = new byte[ReadBytes];
    private readonly Thread _reader;
    private int _output;
    private int _errors;
    private readonly int _wakeRead;
    private readonly int _wakeWrite;

    private CommandOutput(OutputLog log, int console, ReadOnlySpan<int> ends)
    {
        _log = log;
        _console = console >= 0 ? new ConsoleCopy(console, ConsolePatience) : null;
        (_output, Output, _errors, Errors, _wakeRead, _wakeWrite) = (ends[0], ends[1], ends[2], ends[3], ends[4], ends[5]);
        _reader = new Thread(Read, 256 * 1024) { IsBackground = true, Name = "output" };
    }

    /// <summary>Becomes the command's standard output.</summary>
    public int Output { get; private set; }

    /// <summary>Becomes its standard error.</summary>
    public int Errors { get; private set; }

    /// <summary>Makes the pipes; null: the kernel has none to give.</summary>
    /// <param name="log">Gets what is written.</param>
    /// <param name="console">Gets it too; below zero: there is none.</param>
    /// <param name="user">May open them by name, as /dev/stdout; null: root.</param>
    public static CommandOutput? Open(OutputLog log, int console, UserAccount? user)
    {
        var ends = stackalloc int[6];
        for (var i = 0; i < 6; i += 2)
        {
            // SAFETY: the kernel writes two ints each time, on this frame.
            if (Libc.pipe2(ends + i, Libc.O_CLOEXEC) != 0) return null;
            _ = Libc.fcntl(ends[i], Libc.F_SETFL, Libc.O_NONBLOCK);
            // Smaller where there is not so much memory.
            if (i < 4) _ = Libc.fcntl(ends[i], Libc.F_SETPIPE_SZ, ReadBytes);
            if (user is not null && i < 4) Libc.fchown(ends[i + 1], user.Uid, user.Gid);
        }
        return new CommandOutput(log, console, new ReadOnlySpan<int>(ends, 6));
    }

    /// <summary>Begins to read: the command has its ends by now, and fleet-init keeps none of them.</summary>
    public void Start()
    {
        Libc.close(Output);
        Libc.close(Errors);
        (Output, Errors) = (-1, -1);
        _console?.Start();
        _reader.Start();
    }

    /// <summary>Nobody is left who writes: reads what there still is, and waits until console and host have it, as long as they take.</summary>
    public void Finish()
    {
        byte one = 1;
        // SAFETY: one byte, on this frame.
        Libc.write(_wakeWrite, &one, 1);
        _reader.Join();
        var taken = _log.WaitUntilTaken();
        _console?.Finish(mayMiss: taken);
    }

    private void Read()
    {
        var entries = stackalloc PollEntry[3];
        var ends = false;
        while (_output >= 0 || _errors >= 0)
        {
            entries[0] = new PollEntry { Fd = ends ? -1 : _wakeRead, Events = Libc.POLLIN };
            entries[1] = new PollEntry { Fd = _output, Events = Libc.POLLIN };
            entries[2] = new PollEntry { Fd = _errors, Events = Libc.POLLIN };
            // SAFETY: three entries, on this frame.
            var ready = Libc.poll(entries, 3, ends ? 0 : -1);
            if (ready < 0 && Marshal.GetLastPInvokeError() != Libc.EINTR) return;
            // Who still has them open can't be killed, and says nothing.
            if (ready == 0) return;
            if (ready < 0) continue;
            ends |= entries[0].Returned != 0;
            if (entries[1].Returned != 0) Take(FrameType.Output, ref _output);
            if (entries[2].Returned != 0) Take(FrameType.Errors, ref _errors);
        }
    }

    private void Take(FrameType output, ref int fd)
    {
        nint read;
        // SAFETY: the buffer is pinned during the call and its own length is given.
        fixed (byte* bytes = _buffer) read = Libc.read(fd, bytes, (nuint)_buffer.Length);
        if (read > 0)
        {
            var bytes = _buffer.AsSpan(0, (int)read);
            // What the host may not get is shown, however long that takes.
            _console?.Put(bytes, mayMiss: _log.HasHost);
            _log.Put(output, bytes);
        }
        else if (read == 0 || Marshal.GetLastPInvokeError() is not (Libc.EAGAIN or Libc.EINTR))
        {
            Libc.close(fd);
            fd = -1;
        }
    }
}
