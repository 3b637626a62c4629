using System.Runtime.InteropServices;
using Fleet.Guest.Linux;
using Fleet.Guest.Processes;
using Fleet.Shared.GuestChannel;

namespace Fleet.Guest.Channel;

/// <summary>
/// One command that the host has had started: its descriptors, what waits for its standard input, and what its stream may still say.
/// Used by the channel's thread only, but for <see cref="Ended"/>.
/// </summary>
internal sealed unsafe class GuestProcess(uint stream)
{
    private const nuint TIOCGPTN = 0x80045430, TIOCSPTLCK = 0x40045431, TIOCSWINSZ = 0x5414;

    private readonly Queue<(byte[] Bytes, int Cost)> _input = new();
    private int _written;
    private bool _inputEnds;
    private int _status = -1;

    public uint Stream { get; } = stream;

    public StreamLedger Ledger { get; } = new();

    public int Pid { get; private set; }

    /// <summary>Descriptors of this side; below zero: closed. A terminal is input and output in one.</summary>
    public int Input { get; private set; } = -1;

    public int Output { get; private set; } = -1;

    public int Errors { get; private set; } = -1;

    public bool HasTerminal { get; private set; }

    /// <summary>The host has closed the stream: when the time (milliseconds of the tick count) is over it is killed; null: it has not.</summary>
    public long? KillAt { get; set; }

    /// <summary>The wait status of one that has ended; below zero: it runs.</summary>
    public int Status => Volatile.Read(ref _status);

    public bool HasInput => Input >= 0 && _input.Count > 0;

    /// <summary>Starts it. 0, or the errno that kept it from running: then nothing is left open.</summary>
    public int Start(ExecRequest request, CommandLine command, ChildExits exits, Action ended)
    {
        Span<int> theirs = [-1, -1, -1];
        var error = request.Terminal ? OpenTerminal(request, out var terminal) : OpenPipes(theirs, out terminal);
        if (error == 0)
        {
            var around = new Surroundings(theirs[0], theirs[1], theirs[2]) { Terminal = terminal, Folder = request.Folder.Length > 0 ? request.Folder : null };
            error = exits.Start(
                () => (Spawner.StartOrScript(command.Path!, command.Argv, command.Environment, around, out var started), started), status => { Ended(status); ended(); }, out var pid);
            Pid = pid;
        }
        foreach (var fd in theirs)
        {
            if (fd >= 0) Libc.close(fd);
        }
        if (error != 0) CloseAll();
        return error;
    }

    /// <summary>From the thread that waits for children.</summary>
    public void Ended(int status) => Volatile.Write(ref _status, status);

    public void Queue(ReadOnlySpan<byte> bytes) => _input.Enqueue((bytes.ToArray(), StreamLedger.Cost(FrameType.Input, bytes.Length)));

    public void EndInput()
    {
        // A terminal has no end; a Ctrl-D is what its reader takes for one.
        if (HasTerminal) _input.Enqueue(([4], StreamLedger.Cost(FrameType.InputEnd, 0)));
        else _inputEnds = true;
    }

    /// <summary>
    /// Passes on what waits, as much as is taken now. Gives the cost of the frames that are done with; nobody reads the input of
    /// one that has closed it, and that is done with too.
    /// </summary>
    public int PassInput()
    {
        var done = 0;
        while (_input.TryPeek(out var first))
        {
            if (Input >= 0)
            {
                nint written;
                // SAFETY: the array is pinned during the call; what was written before lies in it.
                fixed (byte* bytes = first.Bytes) written = Libc.write(Input, bytes + _written, (nuint)(first.Bytes.Length - _written));
                if (written < 0)
                {
                    var error = Marshal.GetLastPInvokeError();
                    if (error == Libc.EINTR) continue;
                    if (error == Libc.EAGAIN) return done;
                    CloseInput();
                    continue;
                }
                _written += (int)written;
                if (_written < first.Bytes.Length) return done;
            }
            _input.Dequeue();
            _written = 0;
            done += first.Cost;
        }
        if (_inputEnds) CloseInput();
        return done;
    }

    /// <summary>Reads what it wrote. Above 0: so many bytes; 0: the end, and the descriptor is closed; below: nothing now.</summary>
    public int Read(bool errors, Span<byte> target)
    {
        var fd = errors ? Errors : Output;
        while (true)
        {
            nint read;
            // SAFETY: the span is pinned during the call and its own length is given.
            fixed (byte* bytes = target) read = Libc.read(fd, bytes, (nuint)target.Length);
            if (read > 0) return (int)read;
            if (read < 0)
            {
                var error = Marshal.GetLastPInvokeError();
                if (error == Libc.EINTR) continue;
                if (error == Libc.EAGAIN) return -1;
            }
            // A terminal that nobody has open any more gives an error and not an end.
            if (errors) CloseErrors();
            else CloseOutput();
            return 0;
        }
    }

    public void Resize(ushort rows, ushort columns)
    {
        if (!HasTerminal || Output < 0) return;
        // SAFETY: struct winsize is four 16-bit numbers: rows, columns and two unused.
        var size = stackalloc ushort[4] { rows, columns, 0, 0 };
        Libc.ioctl(Output, TIOCSWINSZ, size);
    }

    public void CloseOutput()
    {
        if (Output >= 0) Libc.close(Output);
        if (HasTerminal) Input = -1;
        Output = -1;
    }

    public void CloseErrors()
    {
        if (Errors >= 0) Libc.close(Errors);
        Errors = -1;
    }

    public void CloseAll()
    {
        CloseInput();
        CloseOutput();
        CloseErrors();
    }

    private void CloseInput()
    {
        if (Input >= 0 && !HasTerminal) Libc.close(Input);
        Input = -1;
    }

    private int OpenTerminal(ExecRequest request, out string? terminal)
    {
        terminal = null;
        var master = Files.Open("/dev/ptmx", Libc.O_RDWR | Libc.O_NOCTTY | Libc.O_NONBLOCK, out var error);
        if (master < 0) return error;
        (Input, Output, HasTerminal) = (master, master, true);
        int unlocked = 0, number;
        // SAFETY: both requests take one int, on this frame.
        if (Libc.ioctl(master, TIOCSPTLCK, &unlocked) != 0 || Libc.ioctl(master, TIOCGPTN, &number) != 0) return Marshal.GetLastPInvokeError();
        Resize(request.Rows, request.Columns);
        terminal = $"/dev/pts/{number}";
        return 0;
    }

    private int OpenPipes(Span<int> theirs, out string? terminal)
    {
        terminal = null;
        var ends = stackalloc int[2];
        for (var i = 0; i < 3; i++)
        {
            // SAFETY: the kernel writes two ints, on this frame.
            if (Libc.pipe2(ends, Libc.O_CLOEXEC) != 0) return Marshal.GetLastPInvokeError();
            var ours = i == 0 ? ends[1] : ends[0];
            theirs[i] = i == 0 ? ends[0] : ends[1];
            _ = Libc.fcntl(ours, Libc.F_SETFL, Libc.O_NONBLOCK);
            if (i == 0) Input = ours;
            else if (i == 1) Output = ours;
            else Errors = ours;
        }
        return 0;
    }
}
