using System.Buffers.Binary;
using System.Runtime.InteropServices;
using System.Text;
using Fleet.Guest.Configuration;
using Fleet.Guest.Linux;
using Fleet.Guest.Logs;
using Fleet.Guest.Processes;
using Fleet.Shared.GuestChannel;

namespace Fleet.Guest.Channel;

/// <summary>
/// The guest's end of the channel to the host (docs/guest-protocol.md): starts what the host asks for and carries what goes in
/// and comes out, and what the microVM's own command writes. One thread does all of it; what it holds is bounded by the streams' windows.
/// </summary>
internal sealed unsafe class HostChannel
{
    /// <summary>Commands at once. Those that the host has given up count until they are gone.</summary>
    public const int MostProcesses = 16;

    private const int ReadBytes = 64 * 1024;

    /// <summary>Between a hang-up and the end of a command that nobody listens to.</summary>
    private const int HangUpMilliseconds = 2000;

    /// <summary>For those that were killed then. One that can't be, as it waits for a disk, does not keep the next host waiting.</summary>
    private const int GoneMilliseconds = 2000;

    /// <summary>A host that takes nothing of the command's output for so long is taken for gone: an agent that is started again is there in a few seconds.</summary>
    private static readonly TimeSpan LogPatience = TimeSpan.FromSeconds(10);

    /// <summary>An agent comes as soon as it has seen that the guest is ready.</summary>
    private static readonly TimeSpan FirstLogPatience = TimeSpan.FromSeconds(3);

    /// <summary>Between what this machine tells of itself.</summary>
    private const int FiguresMilliseconds = 10_000;

    private readonly Func<Carrier?> _find;
    private readonly RunConfiguration _configuration;
    private readonly ChildExits _exits;
    private readonly FrameReader _reader = new();
    private readonly OutQueue _out = new();
    private readonly List<GuestProcess> _processes = [];
    private readonly byte[] _buffer = new byte[ReadBytes];
    private readonly byte[] _outgoing = new byte[Frame.MaxPayload];
    private int _wakeRead = -1;
    private int _wakeWrite = -1;
    private int _isWoken;
    private int _listener = -1;
    private uint _lastStream;
    private LogStream? _logStream;
    private long _figuresAt;

    /// <param name="find">Finds what the bytes go over; null: there is nothing.</param>
    /// <param name="configuration">Of the microVM: every command has its environment.</param>
    /// <param name="exits">Tells when a command has ended.</param>
    public HostChannel(Func<Carrier?> find, RunConfiguration configuration, ChildExits exits)
    {
        (_find, _configuration, _exits) = (find, configuration, exits);
        Log = new OutputLog(LogPatience, FirstLogPatience, Wake);
    }

    /// <summary>What the microVM's own command writes, for the host.</summary>
    public OutputLog Log { get; }

    /// <summary>What this machine has to tell of itself; null: nothing.</summary>
    public Func<FiguresPayload>? Figures { get; init; }

    /// <summary>Told that the host wants the microVM's own command to end, and how long it may take; from the channel's thread, and must not wait.</summary>
    public Action<TimeSpan>? StopAsked { get; init; }

    /// <summary>Has the figures told now: they have changed.</summary>
    public void TellFigures()
    {
        Volatile.Write(ref _figuresAt, 0);
        Wake();
    }

    /// <summary>Begins to serve the host, on a thread of its own, until the machine ends.</summary>
    public void Start()
    {
        var ends = stackalloc int[2];
        // SAFETY: the kernel writes two ints, on this frame.
        if (Libc.pipe2(ends, Libc.O_CLOEXEC | Libc.O_NONBLOCK) != 0)
        {
            Log.GiveUp();
            return;
        }
        (_wakeRead, _wakeWrite) = (ends[0], ends[1]);
        new Thread(Serve, 256 * 1024) { IsBackground = true, Name = "channel" }.Start();
    }

    private void Serve()
    {
        if (_find() is not { } carrier)
        {
            Log.GiveUp();
            return;
        }
        _listener = carrier.Listener;
        int fd;
        while ((fd = carrier.Await()) >= 0)
        {
            _reader.Reset();
            _out.Clear();
            try
            {
                while (fd >= 0) fd = Turn(fd);
            }
            catch (Exception)
            {
                // Whatever it was (memory, most likely): this conversation is over, the microVM's command goes on.
                if (fd >= 0) Libc.close(fd);
            }
            EndLog();
            try
            {
                HangUpAll();
                var until = Environment.TickCount64 + HangUpMilliseconds + GoneMilliseconds;
                while (_processes.Count > 0 && Environment.TickCount64 < until) Turn(-1, until);
            }
            catch (Exception)
            {
                // As above. Who is left is seen to when the next host is there.
            }
        }
    }

    /// <summary>Waits for something to do and does it. Gives the descriptor to go on with; below zero: the host is gone.</summary>
    /// <param name="fd">Of the host; below zero: there is none.</param>
    /// <param name="until">In milliseconds of the tick count: waits no longer.</param>
    private int Turn(int fd, long until = long.MaxValue)
    {
        const int before = 3;
        var entries = stackalloc PollEntry[before + 3 * MostProcesses];
        entries[0] = new PollEntry { Fd = _wakeRead, Events = Libc.POLLIN };
        entries[1] = new PollEntry { Fd = fd >= 0 ? _listener : -1, Events = Libc.POLLIN };
        var wanted = (short)((_out.TakesQuestions ? Libc.POLLIN : 0) | (_out.IsEmpty ? 0 : Libc.POLLOUT));
        entries[2] = new PollEntry { Fd = fd, Events = wanted };
        var timeout = until == long.MaxValue ? -1 : Shorter(-1, until);
        if (_logStream is not null && Figures is not null) timeout = Shorter(timeout, Volatile.Read(ref _figuresAt));
        for (var i = 0; i < _processes.Count; i++)
        {
            var process = _processes[i];
            var reads = process.KillAt is not null || (_out.TakesOutput && StreamLedger.Room(process.Ledger.OutputLeft) > 0);
            var at = entries + before + 3 * i;
            // One that is not asked for must not be in it at all: a closed pipe would wake us again and again.
            at[0] = new PollEntry { Fd = process.HasInput ? process.Input : -1, Events = Libc.POLLOUT };
            at[1] = new PollEntry { Fd = reads ? process.Output : -1, Events = Libc.POLLIN };
            at[2] = new PollEntry { Fd = reads ? process.Errors : -1, Events = Libc.POLLIN };
            if (process.KillAt is { } time) timeout = Shorter(timeout, time);
            else if (process.Status >= 0 && reads) timeout = 0;
        }
        // SAFETY: the entries are on this frame, and their number is given.
        var ready = Libc.poll(entries, (nuint)(before + 3 * _processes.Count), timeout);
        if (ready < 0 && Marshal.GetLastPInvokeError() != Libc.EINTR) throw new InvalidOperationException("poll failed");
        if (ready < 0) return fd;
        if (entries[0].Returned != 0) DrainWake();
        for (var i = _processes.Count - 1; i >= 0; i--) Serve(_processes[i]);
        if (fd < 0) return fd;
        if (entries[1].Returned != 0) return Close(fd);
        if ((entries[2].Returned & Libc.POLLIN) != 0 && !Listen(fd)) return Close(fd);
        // Behind the others: a command that floods keeps nobody waiting.
        CarryLog();
        if (!_out.Flush(fd)) return Close(fd);
        // With POLLHUP there may still be something to read; without anything the host is gone.
        return (entries[2].Returned & (Libc.POLLHUP | Libc.POLLERR | Libc.POLLNVAL)) != 0 && (entries[2].Returned & Libc.POLLIN) == 0 ? Close(fd) : fd;
    }

    private static int Close(int fd)
    {
        Libc.close(fd);
        return -1;
    }

    private static int Shorter(int timeout, long time)
    {
        var left = (int)Math.Clamp(time - Environment.TickCount64, 0, int.MaxValue);
        return timeout < 0 ? left : Math.Min(timeout, left);
    }

    /// <summary>Reads what the host says. False when it is gone.</summary>
    private bool Listen(int fd)
    {
        nint read;
        // SAFETY: the buffer is pinned during the call and its own length is given.
        fixed (byte* bytes = _buffer) read = Libc.read(fd, bytes, (nuint)_buffer.Length);
        if (read == 0) return false;
        if (read < 0) return Marshal.GetLastPInvokeError() is Libc.EAGAIN or Libc.EINTR;
        ReadOnlySpan<byte> left = _buffer.AsSpan(0, (int)read);
        while (_reader.Read(ref left) is var found && found != FrameFound.Nothing)
        {
            if (found == FrameFound.Garbage)
            {
                HangUpAll();
                EndLog();
            }
            else if (_reader.Type == FrameType.Greeting) Greet();
            else Obey(_reader.Type, _reader.Stream, _reader.Payload);
        }
        return true;
    }

    // Another agent may have taken over where one died: nothing of the earlier conversation is left.
    private void Greet()
    {
        HangUpAll();
        EndLog();
        _out.Clear();
        _lastStream = 0;
        _out.Put(FrameType.Greeting, 0, _reader.Payload);
    }

    private void Obey(FrameType type, uint stream, ReadOnlySpan<byte> payload)
    {
        if (_logStream is { } log && log.Stream == stream)
        {
            ObeyLog(log, type, payload);
            return;
        }
        var process = _processes.Find(one => one.Stream == stream && one.KillAt is null);
        if (type == FrameType.Open)
        {
            // Numbers rise: one that comes again is a mistake, and its frames would be taken for the other's.
            if (stream <= _lastStream) return;
            _lastStream = stream;
            Open(stream, payload);
            return;
        }
        // One that has just ended.
        if (process is null) return;
        if (process.Ledger.ToGuest(type, payload) is { } wrong)
        {
            Refuse(process, "protocol_error", wrong);
            HangUp(process);
            return;
        }
        switch (type)
        {
            case FrameType.Input:
                process.Queue(payload);
                break;
            case FrameType.InputEnd:
                process.EndInput();
                if (!process.HasTerminal) Credit(process, StreamLedger.Cost(type, 0));
                break;
            case FrameType.Resize:
                process.Resize((ushort)(payload[0] | payload[1] << 8), (ushort)(payload[2] | payload[3] << 8));
                Credit(process, StreamLedger.Cost(type, payload.Length));
                break;
            case FrameType.Signal:
                _exits.Signal(process.Pid, payload[0]);
                Credit(process, StreamLedger.Cost(type, payload.Length));
                break;
            case FrameType.Close:
                HangUp(process);
                break;
        }
        Serve(process);
    }

    private void ObeyLog(LogStream log, FrameType type, ReadOnlySpan<byte> payload)
    {
        var wrong = log.Ledger.ToGuest(type, payload);
        if (wrong is null && type == FrameType.Credit) log.Took((int)BinaryPrimitives.ReadUInt32LittleEndian(payload));
        else if (wrong is null && type == FrameType.Stop) StopAsked?.Invoke(TimeSpan.FromMilliseconds(BinaryPrimitives.ReadUInt32LittleEndian(payload)));
        // The host closed it, or broke the rules.
        else EndLog();
    }

    private void CarryLog()
    {
        if (_logStream is not { } log) return;
        var now = Environment.TickCount64;
        if (Figures is { } figures && now >= Volatile.Read(ref _figuresAt))
        {
            // Without room the next ones will do.
            log.TryTell(_out, figures());
            Volatile.Write(ref _figuresAt, now + FiguresMilliseconds);
        }
        log.Carry(_out);
    }

    private void EndLog()
    {
        _logStream?.End();
        _logStream = null;
    }

    private bool TryOpenLog(GuestProcess process, ReadOnlySpan<byte> payload)
    {
        try
        {
            if (LogStream.TryBegin(process.Stream, payload, Log) is not { } log) return false;
            EndLog();
            log.Begin();
            _logStream = log;
            Volatile.Write(ref _figuresAt, 0);
            _out.Put(FrameType.Started, log.Stream, []);
        }
        catch (BadConfigurationException error)
        {
            Refuse(process, "invalid_request", error.Message);
        }
        return true;
    }

    private void Open(uint stream, ReadOnlySpan<byte> payload)
    {
        var process = new GuestProcess(stream);
        process.Ledger.ToGuest(FrameType.Open, payload);
        if (TryOpenLog(process, payload)) return;
        if (_processes.Count >= MostProcesses)
        {
            Refuse(process, "too_many", $"{MostProcesses} commands run beside the microVM's own, which is the most.");
            return;
        }
        ExecRequest request;
        try
        {
            request = ExecRequest.Parse(payload);
        }
        catch (BadConfigurationException error)
        {
            Refuse(process, "invalid_request", error.Message);
            return;
        }
        if (request.Folder.Length > 0 && !Directory.Exists(request.Folder))
        {
            Refuse(process, "workdir_missing", $"There is no folder {request.Folder} in the guest.");
            return;
        }
        UserAccount? account;
        try
        {
            account = request.User.Length > 0 ? UserAccount.Find(request.User) : _configuration.Image is { } image ? UserAccount.Find(image.User) : null;
        }
        catch (BadConfigurationException error)
        {
            Refuse(process, "user_missing", error.Message);
            return;
        }
        var command = CommandLine.From(_configuration with { Argv = request.Argv, Env = [.. _configuration.Env, .. request.Env] }, account, CommandLine.Probe);
        if (account is not null && command.Path is not null)
        {
            var folder = request.Folder.Length > 0 ? request.Folder : _configuration.Image?.WorkingDirectory ?? "";
            command = command with { Path = UserProgram.Self, Argv = UserProgram.Arguments(account, folder, command.Path, command.Argv) };
        }
        var failed = command.Path is null ? Libc.ENOENT : process.Start(request, command, _exits, Wake);
        if (failed != 0)
        {
            var (code, message) = CommandLine.Refusal(request.Argv[0], failed) is { } refusal
                ? (refusal.Status == ExitStatus.NotFound ? "command_not_found" : "command_not_executable", refusal.Message)
                : ("exec_failed", $"{request.Argv[0]}: {Files.Describe(failed)}");
            Refuse(process, code, message);
            return;
        }
        _processes.Add(process);
        Say(process, FrameType.Started, []);
    }

    /// <summary>Whatever can be done for a command now.</summary>
    private void Serve(GuestProcess process)
    {
        if (process.KillAt is { } time)
        {
            if (process.Status >= 0)
            {
                process.CloseAll();
                _processes.Remove(process);
            }
            else if (Environment.TickCount64 >= time)
            {
                _exits.Signal(process.Pid, Libc.SIGKILL);
                process.KillAt = long.MaxValue;
            }
            return;
        }
        if (process.PassInput() is > 0 and var done) Credit(process, done);
        // Before its output is read: what it wrote before its end is all there then.
        var ended = process.Status >= 0;
        Carry(process, errors: false, ended);
        Carry(process, errors: true, ended);
        if (!ended || process.Output >= 0 || process.Errors >= 0) return;
        Say(process, FrameType.Exit, Frame.Number((uint)ExitStatus.Of(process.Status)));
        process.CloseAll();
        _processes.Remove(process);
    }

    private void Carry(GuestProcess process, bool errors, bool ended)
    {
        // A whole frame's room, once a turn for each: none keeps the others waiting.
        for (var turns = 0; turns < 4 && (errors ? process.Errors : process.Output) >= 0 && _out.TakesOutput; turns++)
        {
            var room = StreamLedger.Room(process.Ledger.OutputLeft);
            if (room == 0) return;
            var count = process.Read(errors, _outgoing.AsSpan(0, room));
            if (count > 0)
            {
                Say(process, errors ? FrameType.Errors : FrameType.Output, _outgoing.AsSpan(0, count));
                continue;
            }
            // Whoever else has the pipe open was started by the command, which is gone.
            if (count < 0 && ended)
            {
                if (errors) process.CloseErrors();
                else process.CloseOutput();
            }
            return;
        }
    }

    private void HangUp(GuestProcess process)
    {
        _exits.Signal(process.Pid, Libc.SIGHUP);
        _exits.Signal(process.Pid, Libc.SIGCONT);
        process.CloseAll();
        process.KillAt = Environment.TickCount64 + HangUpMilliseconds;
    }

    private void HangUpAll()
    {
        foreach (var process in _processes)
        {
            if (process.KillAt is null) HangUp(process);
        }
    }

    private void Credit(GuestProcess process, int bytes) => Say(process, FrameType.Credit, Frame.Number((uint)bytes));

    private void Refuse(GuestProcess process, string code, string message)
    {
        var text = Encoding.UTF8.GetBytes($"{code} {message}");
        _out.Put(FrameType.Refused, process.Stream, text.AsSpan(0, Math.Min(text.Length, StreamLedger.MostRefusal)));
    }

    private void Say(GuestProcess process, FrameType type, ReadOnlySpan<byte> payload)
    {
        process.Ledger.FromGuest(type, payload);
        if (!_out.Put(type, process.Stream, payload)) throw new InvalidOperationException("the host asks more than it listens to");
    }

    private void Wake()
    {
        // Once is enough, until the channel has begun to look at what there is.
        if (_wakeWrite < 0 || Interlocked.Exchange(ref _isWoken, 1) != 0) return;
        byte one = 1;
        // SAFETY: one byte, on this frame.
        Libc.write(_wakeWrite, &one, 1);
    }

    private void DrainWake()
    {
        var bytes = stackalloc byte[64];
        // SAFETY: the block is on this frame, and its length is given.
        Libc.read(_wakeRead, bytes, 64);
        Interlocked.Exchange(ref _isWoken, 0);
    }
}
