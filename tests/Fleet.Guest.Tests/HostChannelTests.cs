using System.Buffers.Binary;
using System.Collections.Concurrent;
using System.Net.Sockets;
using System.Text;
using System.Text.Json.Nodes;
using CsCheck;
using Fleet.Guest.Channel;
using Fleet.Guest.Configuration;
using Fleet.Guest.Linux;
using Fleet.Guest.Logs;
using Fleet.Guest.Processes;
using Fleet.Shared.GuestChannel;
using Xunit;

namespace Fleet.Guest.Tests;

/// <summary>The guest's end of the channel with real processes, spoken to as a host would.</summary>
public sealed class HostChannelTests : IDisposable
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(30);

    private readonly TestCarrier _carrier = new();
    private readonly ChildExits _exits = new();
    private readonly CancellationTokenSource _over = new();
    private readonly Thread _reaper;
    private readonly HostChannel _channel;
    private volatile bool _nothingEnds;

    public HostChannelTests()
    {
        _channel = new HostChannel(() => _carrier, new RunConfiguration([], [new("FROM_SPEC", "spec")], ""), _exits);
        _channel.Start();
        _reaper = new Thread(Reap) { IsBackground = true };
        _reaper.Start();
    }

    public void Dispose()
    {
        _carrier.End();
        foreach (var pid in _exits.Awaited) Libc.kill(-pid, Libc.SIGKILL);
        Assert.True(SpinWait.SpinUntil(() => _exits.Awaited.Length == 0, Soon));
        _over.Cancel();
        _reaper.Join();
        _over.Dispose();
    }

    [Fact]
    public void Should_run_a_command_with_its_outputs_apart_and_tell_its_status()
    {
        using var host = Connect();
        host.Open(1, "sh", "-c", "echo out $FROM_SPEC $FROM_EXEC $PWD; echo err >&2; exit 7");
        var (output, errors, status) = host.Collect(1);
        Assert.Equal(("out spec exec /tmp\n", "err\n", 7), (output, errors, status));
    }

    [Fact]
    public void Should_pass_input_on_and_its_end()
    {
        using var host = Connect();
        host.Open(1, "cat");
        host.Send(FrameType.Input, 1, "one "u8);
        host.Send(FrameType.Input, 1, "two"u8);
        host.Send(FrameType.InputEnd, 1, []);
        Assert.Equal(("one two", "", 0), host.Collect(1));
    }

    [Fact]
    public void Should_hold_back_a_command_that_floods_and_lose_nothing()
    {
        using var host = Connect();
        host.Open(1, "head", "-c", "100000000", "/dev/zero");
        var before = GC.GetTotalMemory(forceFullCollection: true);
        long bytes = 0, highest = 0;
        while (host.Read() is var (type, _, payload) && type != FrameType.Exit)
        {
            if (type != FrameType.Output) continue;
            bytes += payload.Length;
            highest = Math.Max(highest, GC.GetTotalMemory(forceFullCollection: false) - before);
            host.Send(FrameType.Credit, 1, Frame.Number((uint)StreamLedger.Cost(type, payload.Length)));
        }
        Assert.Equal(100_000_000, bytes);
        Assert.True(highest < 64 << 20, $"{highest} bytes at the highest");
    }

    [Fact]
    public void Should_send_no_more_than_there_is_credit_for()
    {
        using var host = Connect();
        host.Open(1, "yes");
        var ledger = Started(host);
        while (StreamLedger.Room(ledger.OutputLeft) > 0)
        {
            var (type, _, payload) = host.Read();
            Assert.Null(ledger.FromGuest(type, payload));
        }
        // Another one is served all the same.
        host.Open(2, "echo", "here");
        Assert.Equal(("here\n", "", 0), host.Collect(2));
        var pid = _exits.Awaited.Single();
        host.Send(FrameType.Close, 1, []);
        AssertGone(pid);
    }

    [Fact]
    public void Should_give_a_terminal_of_the_size_that_is_asked_for()
    {
        using var host = Connect();
        host.OpenTerminal(1, 33, 101, "sh", "-c", "stty size; tty; read line; stty size; echo \"got $line\"; exit 3");
        var output = new StringBuilder();
        host.ReadUntil(1, output, text => text.Contains("/dev/pts/", StringComparison.Ordinal));
        Assert.StartsWith("33 101", output.ToString(), StringComparison.Ordinal);
        host.Send(FrameType.Resize, 1, [50, 0, 120, 0]);
        host.Send(FrameType.Input, 1, "word\n"u8);
        var (rest, errors, status) = host.Collect(1);
        Assert.Contains("50 120", rest, StringComparison.Ordinal);
        Assert.Contains("got word", rest, StringComparison.Ordinal);
        Assert.Equal(("", 3), (errors, status));
    }

    [Fact]
    public void Should_let_a_terminal_send_the_signals_of_its_keys()
    {
        using var host = Connect();
        host.OpenTerminal(1, 24, 80, "cat");
        host.Send(FrameType.Input, 1, "word\n"u8);
        // Once from the terminal and once from the program, which is there then: a shell may lose a signal while it starts one.
        host.ReadUntil(1, new StringBuilder(), text => text.Split("word").Length == 3);
        host.Send(FrameType.Input, 1, [3]);
        Assert.Equal(130, host.Collect(1).Status);
    }

    [Fact]
    public void Should_carry_what_the_microvms_own_command_writes_and_lose_nothing_over_hosts_that_die()
    {
        const int lines = 300_000;
        using var output = new RunningOutput(_channel.Log, $"i=0; while [ $i -lt 5 ]; do echo bad $i >&2; i=$((i+1)); done; seq 1 {lines}");
        var (text, errors) = (new MemoryStream(), new MemoryStream());
        long from = 0;
        for (var host = 0; from < output.Expected(lines); host++)
        {
            using var agent = Connect();
            agent.OpenLog(1, from);
            // Each dies with something under way, and one has said of nothing that it has it.
            for (var frames = 0; frames < 40 && from < output.Expected(lines); frames++)
            {
                var (type, stream, payload) = agent.Read();
                Assert.Equal(1u, stream);
                if (type == FrameType.Started) continue;
                (type == FrameType.Output ? text : errors).Write(payload);
                from += payload.Length;
                if (host != 1) agent.Send(FrameType.Credit, 1, Frame.Number((uint)StreamLedger.Cost(type, payload.Length)));
                else if (frames > 5) break;
            }
        }
        Assert.Equal(string.Concat(Enumerable.Range(0, 5).Select(i => $"bad {i}\n")), Encoding.ASCII.GetString(errors.ToArray()));
        Assert.Equal(string.Concat(Enumerable.Range(1, lines).Select(i => $"{i}\n")), Encoding.ASCII.GetString(text.ToArray()));
    }

    [Fact]
    public void Should_serve_commands_beside_an_output_that_floods_and_is_not_taken()
    {
        using var output = new RunningOutput(_channel.Log, "exec yes");
        using var host = Connect();
        host.OpenLog(1, 0);
        var ledger = new StreamLedger(ofLog: true);
        ledger.ToGuest(FrameType.Open, [1]);
        do
        {
            var (type, _, payload) = host.Read();
            Assert.Null(ledger.FromGuest(type, payload));
        }
        while (StreamLedger.Room(ledger.OutputLeft) >= Frame.MaxPayload + StreamLedger.Cost(FrameType.Position, 8));
        Assert.True(SpinWait.SpinUntil(() => _channel.Log.Waits, Soon), "the command goes on writing");
        host.Open(2, "echo", "here");
        Assert.Equal(("here\n", "", 0), host.Collect(2));
    }

    [Fact]
    public void Should_refuse_a_log_that_is_asked_for_wrongly()
    {
        using var host = Connect();
        host.Send(FrameType.Open, 1, """{"log_from":-1}"""u8);
        var (type, _, payload) = host.Read();
        Assert.Equal((FrameType.Refused, true), (type, Encoding.UTF8.GetString(payload).StartsWith("invalid_request ", StringComparison.Ordinal)));
    }

    [Fact]
    public void Should_pass_signals_on()
    {
        using var host = Connect();
        host.Open(1, "sh", "-c", "trap 'echo asked; exit 9' TERM; echo ready; while :; do sleep 0.05; done");
        host.ReadUntil(1, new StringBuilder(), text => text.Contains("ready", StringComparison.Ordinal));
        host.Send(FrameType.Signal, 1, [15]);
        // To the whole group: what the shell says of its own child is its own affair.
        var (output, _, status) = host.Collect(1);
        Assert.Equal(("asked\n", 9), (output, status));
    }

    [Theory]
    [InlineData("command_not_found", "no-such-program")]
    [InlineData("command_not_executable", "/etc/passwd")]
    public void Should_say_why_a_command_can_not_be_run(string code, string program)
    {
        using var host = Connect();
        host.Open(1, program);
        var (type, _, payload) = host.Read();
        Assert.Equal(FrameType.Refused, type);
        Assert.StartsWith(code + " ", Encoding.UTF8.GetString(payload), StringComparison.Ordinal);
    }

    [Fact]
    public void Should_end_with_its_command_although_others_hold_its_output_open()
    {
        using var host = Connect();
        host.Open(1, "sh", "-c", "sleep 600 & echo $!; exit 4");
        var (output, _, status) = host.Collect(1);
        Assert.Equal(4, status);
        Libc.kill(int.Parse(output, System.Globalization.CultureInfo.InvariantCulture), Libc.SIGKILL);
    }

    [Fact]
    public void Should_end_what_runs_when_the_host_is_gone_and_serve_the_next()
    {
        var host = Connect();
        host.Open(1, "sh", "-c", "trap '' HUP; sleep 600");
        Started(host);
        var pid = _exits.Awaited.Single();
        host.Dispose();
        AssertGone(pid);
        using var next = Connect();
        next.Open(1, "echo", "again");
        Assert.Equal(("again\n", "", 0), next.Collect(1));
    }

    [Fact]
    public void Should_serve_the_next_host_although_a_command_can_not_be_ended()
    {
        var host = Connect();
        host.Open(1, "sleep", "600");
        Started(host);
        _nothingEnds = true;
        host.Dispose();
        using (var next = Connect()) next.Open(1, "true");
        _nothingEnds = false;
        AssertGone(null);
    }

    [Fact]
    public void Should_begin_anew_when_another_host_greets_in_the_middle_of_a_frame()
    {
        using var host = Connect();
        host.Open(1, "sleep", "600");
        Started(host);
        var pid = _exits.Awaited.Single();
        var cut = new byte[Frame.HeaderBytes + 100];
        Frame.Write(cut, FrameType.Input, 1, new byte[100]);
        host.SendRaw(cut.AsSpan(0, 50));
        host.Greet(77);
        AssertGone(pid);
        host.Open(1, "echo", "new");
        Assert.Equal(("new\n", "", 0), host.Collect(1));
    }

    [Fact]
    public void Should_run_so_many_at_once_and_no_more()
    {
        using var host = Connect();
        for (uint i = 1; i <= HostChannel.MostProcesses; i++)
        {
            host.Open(i, "sleep", "600");
            Assert.Equal(FrameType.Started, host.Read().Type);
        }
        host.Open(100, "true");
        var (type, stream, payload) = host.Read();
        Assert.Equal((FrameType.Refused, 100u), (type, stream));
        Assert.StartsWith("too_many ", Encoding.UTF8.GetString(payload), StringComparison.Ordinal);
        host.Send(FrameType.Close, 1, []);
        AssertGone(null, HostChannel.MostProcesses - 1);
    }

    /// <summary>Whatever a host sends, the channel is there for the next greeting.</summary>
    [Fact]
    public void Should_stand_any_bytes() =>
        Gen.Select(Gen.Int[1, 15].Select(type => (byte)type), Gen.UInt[0, 3], Gen.Byte.Array[0, 60]).Array[0, 40].Sample(frames =>
        {
            using var host = Connect();
            foreach (var (type, stream, payload) in frames)
            {
                var bytes = new byte[Frame.HeaderBytes + payload.Length];
                Frame.Write(bytes, (FrameType)type, stream, payload);
                host.SendRaw(bytes);
            }
            host.Greet(99);
            host.Open(1, "true");
            Assert.Equal(0, host.Collect(1).Status);
        }, iter: 30, threads: 1);

    private static StreamLedger Started(TestHost host)
    {
        var ledger = new StreamLedger();
        ledger.ToGuest(FrameType.Open, "{}"u8);
        var (type, _, payload) = host.Read();
        Assert.Null(ledger.FromGuest(type, payload));
        Assert.Equal(FrameType.Started, type);
        return ledger;
    }

    private void AssertGone(int? pid, int left = 0)
    {
        Assert.True(SpinWait.SpinUntil(() => _exits.Awaited.Length == left, Soon), "It still runs.");
        if (pid is { } id) Assert.False(Directory.Exists($"/proc/{id}"));
    }

    private TestHost Connect()
    {
        var host = new TestHost(_carrier.Connect());
        host.Greet(42);
        return host;
    }

    private unsafe void Reap()
    {
        while (!_over.IsCancellationRequested)
        {
            foreach (var pid in _nothingEnds ? [] : _exits.Awaited)
            {
                int status;
                // SAFETY: the kernel writes one int, on this frame.
                if (Libc.waitpid(pid, &status, Libc.WNOHANG) == pid) _exits.Ended(pid, status);
            }
            Thread.Sleep(2);
        }
    }

    /// <summary>Hands out one end of a connected pair at a time.</summary>
    private sealed class TestCarrier : Carrier
    {
        private readonly BlockingCollection<int> _waiting = [];

        public Socket Connect()
        {
            var path = Path.Combine(Path.GetTempPath(), $"fleet-channel-{Guid.NewGuid():n}");
            using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            listener.Bind(new UnixDomainSocketEndPoint(path));
            listener.Listen(1);
            var client = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            client.Connect(new UnixDomainSocketEndPoint(path));
            var guest = listener.Accept();
            File.Delete(path);
            // The channel's own from here on, which closes it.
            var fd = (int)guest.SafeHandle.DangerousGetHandle();
            guest.SafeHandle.SetHandleAsInvalid();
            _ = Libc.fcntl(fd, Libc.F_SETFL, Libc.O_NONBLOCK);
            _waiting.Add(fd);
            return client;
        }

        public void End() => _waiting.CompleteAdding();

        public override int Await() => _waiting.TryTake(out var fd, Timeout.Infinite) ? fd : -1;
    }

    /// <summary>A shell whose outputs go into the log, as the microVM's own command's do.</summary>
    private sealed class RunningOutput : IDisposable
    {
        private readonly int _pid;

        public RunningOutput(OutputLog log, string script)
        {
            var output = CommandOutput.Open(log, console: -1, user: null)!;
            var around = new Surroundings(Files.Open("/dev/null", Libc.O_RDWR, out _), output.Output, output.Errors);
            Assert.Equal(0, Spawner.Start("/bin/sh", ["sh", "-c", script], [], around, out _pid));
            Libc.close(around.Input);
            output.Start();
        }

        /// <summary>Bytes of so many numbered lines and the five on the other output.</summary>
        public long Expected(int lines) => (5 * "bad 0\n".Length) + Enumerable.Range(1, lines).Sum(i => (long)i.ToString(System.Globalization.CultureInfo.InvariantCulture).Length + 1);

        public void Dispose() => Libc.kill(-_pid, Libc.SIGKILL);
    }

    /// <summary>The host's end.</summary>
    private sealed class TestHost(Socket socket) : IDisposable
    {
        private readonly FrameReader _reader = new();
        private readonly byte[] _buffer = new byte[64 * 1024];
        private int _at;
        private int _length;

        public void Dispose() => socket.Dispose();

        public void Greet(ulong nonce)
        {
            SendRaw(new byte[Frame.MaxBytes]);
            SendRaw(Frame.Greeting(nonce));
            while (true)
            {
                var (type, _, payload) = Read();
                if (type == FrameType.Greeting && BinaryPrimitives.ReadUInt64LittleEndian(payload.AsSpan(8)) == nonce) return;
            }
        }

        public void Open(uint stream, params string[] argv) =>
            Open(stream, new JsonObject { ["argv"] = Array(argv), ["env"] = new JsonObject { ["FROM_EXEC"] = "exec" }, ["workdir"] = "/tmp" });

        public void OpenTerminal(uint stream, int rows, int columns, params string[] argv) =>
            Open(stream, new JsonObject { ["argv"] = Array(argv), ["tty"] = true, ["rows"] = rows, ["columns"] = columns });

        public void OpenLog(uint stream, long from) => Open(stream, new JsonObject { ["log_from"] = from });

        private void Open(uint stream, JsonObject request) => Send(FrameType.Open, stream, Encoding.UTF8.GetBytes(request.ToJsonString()));

        private static JsonArray Array(string[] words) => new([.. words.Select(word => JsonValue.Create(word))]);

        public void Send(FrameType type, uint stream, ReadOnlySpan<byte> payload)
        {
            var bytes = new byte[Frame.HeaderBytes + payload.Length];
            Frame.Write(bytes, type, stream, payload);
            SendRaw(bytes);
        }

        public void SendRaw(ReadOnlySpan<byte> bytes)
        {
            while (bytes.Length > 0) bytes = bytes[socket.Send(bytes)..];
        }

        public (FrameType Type, uint Stream, byte[] Payload) Read()
        {
            socket.ReceiveTimeout = (int)Soon.TotalMilliseconds;
            while (true)
            {
                ReadOnlySpan<byte> left = _buffer.AsSpan(_at, _length - _at);
                var found = _reader.Read(ref left);
                _at = _length - left.Length;
                if (found == FrameFound.Frame) return (_reader.Type, _reader.Stream, _reader.Payload.ToArray());
                Assert.Equal(FrameFound.Nothing, found);
                (_at, _length) = (0, socket.Receive(_buffer));
                Assert.NotEqual(0, _length);
            }
        }

        public void ReadUntil(uint stream, StringBuilder output, Func<string, bool> met)
        {
            while (!met(output.ToString()))
            {
                var (type, from, payload) = Read();
                if (from == stream && type == FrameType.Output) output.Append(Encoding.UTF8.GetString(payload));
            }
        }

        public (string Output, string Errors, int Status) Collect(uint stream)
        {
            var output = new StringBuilder();
            var errors = new StringBuilder();
            while (true)
            {
                var (type, from, payload) = Read();
                if (from != stream) continue;
                if (type == FrameType.Output) output.Append(Encoding.UTF8.GetString(payload));
                if (type == FrameType.Errors) errors.Append(Encoding.UTF8.GetString(payload));
                if (type == FrameType.Exit) return (output.ToString(), errors.ToString(), BinaryPrimitives.ReadInt32LittleEndian(payload));
                Assert.NotEqual(FrameType.Refused, type);
            }
        }
    }
}
