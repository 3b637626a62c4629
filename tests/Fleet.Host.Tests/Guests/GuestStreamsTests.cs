using System.Net.Sockets;
using System.Text;
using Fleet.Host.Guests;
using Fleet.Host.Link;
using Fleet.Host.Logs;
using Fleet.Host.Tests.Agent;
using Fleet.Shared.Contracts;
using Fleet.Shared.GuestChannel;
using Google.Protobuf;
using Serilog;

namespace Fleet.Host.Tests.Guests;

/// <summary>Streams into a guest, between a link and a fleet-init that the test plays.</summary>
public sealed class GuestStreamsTests : IAsyncLifetime, IDisposable
{
    private static readonly TimeSpan Soon = TimeSpan.FromSeconds(20);

    private readonly ManualClock _clock = new();
    private readonly CancellationTokenSource _link = new();
    private readonly ScriptedVmm _vmm = new(() => { }, () => Task.FromResult<IReadOnlyList<int>>([]));
    private readonly LinkSession _session;
    private readonly IAsyncEnumerator<HostMessage> _sent;
    private readonly GuestStreams _streams;
    private readonly List<FakeInit> _guests = [];

    public GuestStreamsTests()
    {
        _session = new LinkSession(_link);
        _sent = _session.ReadAllAsync(CancellationToken.None).GetAsyncEnumerator();
        _streams = new GuestStreams(_clock, Log.Logger);
        _vmm.OnGuest = () =>
        {
            var guest = new FakeInit();
            _guests.Add(guest);
            return guest.HostsEnd;
        };
    }

    public Task InitializeAsync() => Task.CompletedTask;

    public async Task DisposeAsync()
    {
        await _streams.EndAsync("The test is over.");
        _guests.ForEach(guest => guest.Dispose());
    }

    public void Dispose() => _link.Dispose();

    private void Take(ulong stream, FrameType type, byte[]? payload = null) =>
        _streams.Take(_vmm, new GuestFrame { StreamId = stream, VmId = "vm-1", Type = (uint)type, Payload = ByteString.CopyFrom(payload ?? "{}"u8.ToArray()) }, _session);

    private async Task<(ulong Stream, FrameType Type, byte[] Payload)> SentAsync()
    {
        Assert.True(await _sent.MoveNextAsync().AsTask().WaitAsync(Soon));
        var frame = _sent.Current.GuestFrame;
        return (frame.StreamId, (FrameType)frame.Type, frame.Payload.ToByteArray());
    }

    private async Task<string> RefusalAsync(ulong stream)
    {
        var (id, type, payload) = await SentAsync();
        Assert.Equal((stream, FrameType.Refused), (id, type));
        return Encoding.UTF8.GetString(payload).Split(' ')[0];
    }

    private async Task<FakeInit> StartedAsync(ulong stream)
    {
        Take(stream, FrameType.Open);
        await UntilAsync(() => _guests.Count > 0);
        var guest = _guests[^1];
        if (!guest.Greeted) await guest.GreetAsync();
        var (type, number, payload) = await guest.ReadAsync();
        Assert.Equal((FrameType.Open, "{}"), (type, Encoding.UTF8.GetString(payload)));
        guest.Number = number;
        await guest.SayAsync(FrameType.Started);
        Assert.Equal((stream, FrameType.Started), await SentAsync() is var sent ? (sent.Stream, sent.Type) : default);
        return guest;
    }

    private static async Task UntilAsync(Func<bool> met)
    {
        using var limit = new CancellationTokenSource(Soon);
        while (!met()) await Task.Delay(5, limit.Token);
    }

    [Fact]
    public async Task Should_carry_a_stream_to_its_end()
    {
        var guest = await StartedAsync(7);
        Take(7, FrameType.Input, "typed"u8.ToArray());
        Assert.Equal((FrameType.Input, "typed"), await guest.ReadAsync() is var input ? (input.Type, Encoding.UTF8.GetString(input.Payload)) : default);
        await guest.SayAsync(FrameType.Output, 1, 2, 3);
        await guest.SayAsync(FrameType.Exit, 5, 0, 0, 0);
        Assert.Equal(new byte[] { 1, 2, 3 }, (await SentAsync()).Payload);
        Assert.Equal((7UL, FrameType.Exit), await SentAsync() is var exit ? (exit.Stream, exit.Type) : default);

        // The next stream goes by the same conversation.
        await StartedAsync(8);
        Assert.Single(_guests);
    }

    [Fact]
    public async Task Should_write_down_what_the_command_writes_and_only_then_give_room()
    {
        var folder = Directory.CreateTempSubdirectory("fleet-guest-log-").FullName;
        try
        {
            var said = new List<byte[]>();
            _streams.KeepLog(_vmm, folder, new LogPace(TimeProvider.System), figures => said.Add(figures.ToArray()));
            Assert.Empty(_guests);
            _vmm.Ready.SetResult();
            var guest = await LogOpenedAsync(0);
            await guest.SayAsync(FrameType.Started);
            await guest.SayAsync(FrameType.Output, "one\n"u8.ToArray());
            Assert.Equal((FrameType.Credit, StreamLedger.Overhead + 4), await guest.ReadAsync() is var credit ? (credit.Type, BitConverter.ToInt32(credit.Payload)) : default);
            Assert.Equal(LogRecordHeader.Bytes + 4, new FileInfo(LogSegments.PathOf(folder, 1)).Length);

            // A client's stream goes by the same conversation.
            Take(7, FrameType.Open);
            Assert.Equal(FrameType.Open, (await guest.ReadAsync()).Type);

            // What it says of itself is heard once a second at most.
            await guest.SayAsync(FrameType.Figures, new byte[FiguresPayload.Bytes]);
            await guest.SayAsync(FrameType.Figures, new byte[FiguresPayload.Bytes]);
            await CreditedAsync(guest, 2 * StreamLedger.Cost(FrameType.Figures, FiguresPayload.Bytes));
            Assert.Single(said);
            _streams.StopCommand(TimeSpan.FromSeconds(3));
            Assert.Equal((FrameType.Stop, 3000), await guest.ReadAsync() is var stop ? (stop.Type, BitConverter.ToInt32(stop.Payload)) : default);

            // The next conversation goes on behind what is here.
            guest.Dispose();
            _guests.Clear();
            await UntilAsync(() =>
            {
                _clock.Advance(TimeSpan.FromMilliseconds(100));
                return _guests.Count > 0;
            });
            guest = await LogOpenedAsync(4);
            await guest.SayAsync(FrameType.Started);
            await guest.SayAsync(FrameType.Position, 9, 0, 0, 0, 0, 0, 0, 0);
            await guest.SayAsync(FrameType.Errors, "two"u8.ToArray());
            await CreditedAsync(guest, StreamLedger.Cost(FrameType.Position, 8) + StreamLedger.Cost(FrameType.Errors, 3));
            // One that lies harms its own log alone.
            await guest.SayAsync(FrameType.Position, 1, 0, 0, 0, 0, 0, 0, 0);
            Assert.Equal(FrameType.Close, (await guest.ReadAsync()).Type);
            await _streams.EndAsync("The microVM has ended.");
            using var log = LogWriter.Open(folder, _clock);
            Assert.Equal(12UL, log.Position);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>Reads credits, however many there are, until they are so much together.</summary>
    private static async Task CreditedAsync(FakeInit guest, int cost)
    {
        while (cost > 0)
        {
            var (type, _, payload) = await guest.ReadAsync();
            Assert.Equal(FrameType.Credit, type);
            cost -= BitConverter.ToInt32(payload);
        }
        Assert.Equal(0, cost);
    }

    private async Task<FakeInit> LogOpenedAsync(int from)
    {
        await UntilAsync(() => _guests.Count > 0);
        var guest = _guests[^1];
        await guest.GreetAsync();
        var (type, number, payload) = await guest.ReadAsync();
        Assert.Equal((FrameType.Open, $$"""{"log_from":{{from}}}"""), (type, Encoding.UTF8.GetString(payload)));
        guest.Number = number;
        return guest;
    }

    [Fact]
    public async Task Should_say_that_a_guest_is_silent()
    {
        _vmm.Ready.SetResult();
        Take(1, FrameType.Open);
        await UntilAsync(() => _guests.Count == 1 && _clock.HasTimers);
        _clock.Advance(TimeSpan.FromSeconds(16));
        Assert.Equal("guest_silent", await RefusalAsync(1));
    }

    [Fact]
    public async Task Should_ask_a_guest_that_boots_again_until_it_answers_or_two_minutes_have_passed()
    {
        Take(1, FrameType.Open);
        await UntilAsync(() => _guests.Count == 1 && _clock.HasTimers);
        _clock.Advance(TimeSpan.FromSeconds(16));
        // It pauses now, and does no longer as soon as the guest is ready.
        await UntilAsync(() => _clock.HasTimers);
        _vmm.Ready.SetResult();
        await UntilAsync(() => _guests.Count == 2);
        await _guests[1].GreetAsync();
        Assert.Equal(FrameType.Open, (await _guests[1].ReadAsync()).Type);
    }

    [Fact]
    public async Task Should_say_that_a_guest_that_does_not_boot_is_silent()
    {
        Take(1, FrameType.Open);
        using var waiting = new CancellationTokenSource();
        var advancing = Task.Run(async () =>
        {
            for (; !waiting.IsCancellationRequested; await Task.Delay(5)) _clock.Advance(TimeSpan.FromSeconds(1));
        });
        Assert.Equal("guest_silent", await RefusalAsync(1));
        await waiting.CancelAsync();
        await advancing;
        // 15 s each and a pause between.
        Assert.InRange(_guests.Count, 5, 9);
    }

    [Fact]
    public async Task Should_give_up_a_stream_that_never_begins_and_tell_the_guest()
    {
        Take(1, FrameType.Open);
        await UntilAsync(() => _guests.Count == 1);
        await _guests[0].GreetAsync();
        Assert.Equal(FrameType.Open, (await _guests[0].ReadAsync()).Type);
        await UntilAsync(() => _clock.HasTimers);
        _clock.Advance(TimeSpan.FromSeconds(16));
        Assert.Equal("guest_silent", await RefusalAsync(1));
        Assert.Equal(FrameType.Close, (await _guests[0].ReadAsync()).Type);
    }

    [Fact]
    public async Task Should_end_the_stream_of_a_guest_that_floods()
    {
        var guest = await StartedAsync(1);
        for (var sent = 0; sent <= StreamLedger.OutputWindow; sent += Frame.MaxPayload) await guest.SayAsync(FrameType.Output, new byte[Frame.MaxPayload]);
        var (type, words) = (FrameType.None, "");
        while (type != FrameType.Refused)
        {
            (_, type, var payload) = await SentAsync();
            words = Encoding.UTF8.GetString(payload);
        }
        Assert.StartsWith("protocol_error ", words, StringComparison.Ordinal);
        Assert.Equal(FrameType.Close, (await guest.ReadAsync()).Type);
    }

    [Fact]
    public async Task Should_close_what_the_link_leaves_behind()
    {
        var guest = await StartedAsync(1);
        await _link.CancelAsync();
        Assert.Equal(FrameType.Close, (await guest.ReadAsync()).Type);
    }

    [Fact]
    public async Task Should_say_that_the_guest_is_gone_and_speak_with_the_next()
    {
        var guest = await StartedAsync(1);
        guest.Dispose();
        Assert.Equal("guest_gone", await RefusalAsync(1));
        _guests.Clear();
        await StartedAsync(2);
        await _streams.EndAsync("The microVM has ended.");
        Assert.Equal("guest_gone", await RefusalAsync(2));
        Take(3, FrameType.Open);
        Assert.Equal("wrong_state", await RefusalAsync(3));
    }

    [Fact]
    public async Task Should_refuse_where_there_is_no_channel_or_no_place()
    {
        var way = _vmm.OnGuest;
        _vmm.OnGuest = () => null;
        Take(1, FrameType.Open);
        Assert.Equal("no_guest_channel", await RefusalAsync(1));
        _vmm.OnGuest = way;
        for (ulong i = 2; i < 2 + GuestStreams.Most; i++) await StartedAsync(i);
        Take(99, FrameType.Open);
        Assert.Equal("too_many", await RefusalAsync(99));
        Take(2, FrameType.Close, []);
        await StartedAsyncAfterClose(100);
    }

    private async Task StartedAsyncAfterClose(ulong stream)
    {
        Assert.Equal(FrameType.Close, (await _guests[^1].ReadAsync()).Type);
        await StartedAsync(stream);
    }

    [Fact]
    public async Task Should_hold_little_for_a_guest_that_takes_nothing()
    {
        using var guest = new FakeInit();
        var greeting = GuestConversation.BeginAsync(guest.HostsEnd, (_, _, _) => ValueTask.CompletedTask, CancellationToken.None);
        await guest.GreetAsync();
        await using var conversation = await greeting;
        var sent = 0;
        while (conversation.TrySend(FrameType.Open, conversation.NextStream(), new byte[Frame.MaxPayload]))
        {
            conversation.TrySend(FrameType.Close, (uint)++sent, default);
            Assert.InRange(sent * Frame.MaxPayload, 0, 2 * GuestConversation.MostWaitingBytes);
        }
        Assert.InRange(sent * Frame.MaxPayload, GuestConversation.MostWaitingBytes / 2, int.MaxValue);
        await conversation.Ended.WaitAsync(Soon);
    }

    [Fact]
    public async Task Should_stand_a_guest_that_says_anything()
    {
        var guest = await StartedAsync(1);
        var noise = new byte[5000];
        Random.Shared.NextBytes(noise);
        await guest.SendAsync(noise);
        Assert.Equal("guest_gone", await RefusalAsync(1));
        _guests.Clear();
        await StartedAsync(2);
    }

    /// <summary>The guest's end of a connection.</summary>
    private sealed class FakeInit : IDisposable
    {
        private readonly NetworkStream _end;
        private readonly FrameReader _reader = new();
        private readonly byte[] _buffer = new byte[64 * 1024];
        private int _at;
        private int _length;

        public FakeInit()
        {
            var path = Path.Combine(Path.GetTempPath(), $"fleet-guest-{Guid.NewGuid():n}");
            using var listener = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            listener.Bind(new UnixDomainSocketEndPoint(path));
            listener.Listen(1);
            var host = new Socket(AddressFamily.Unix, SocketType.Stream, ProtocolType.Unspecified);
            host.Connect(new UnixDomainSocketEndPoint(path));
            HostsEnd = new NetworkStream(host, ownsSocket: true);
            _end = new NetworkStream(listener.Accept(), ownsSocket: true);
            File.Delete(path);
        }

        public Stream HostsEnd { get; }

        public bool Greeted { get; private set; }

        /// <summary>Of the stream that it speaks of.</summary>
        public uint Number { get; set; }

        public void Dispose() => _end.Dispose();

        public async Task GreetAsync()
        {
            var (type, _, payload) = await ReadAsync();
            Assert.Equal(FrameType.Greeting, type);
            await SendAsync(Bytes(FrameType.Greeting, 0, payload));
            Greeted = true;
        }

        public Task SayAsync(FrameType type, params byte[] payload) => SendAsync(Bytes(type, Number, payload));

        public Task SendAsync(byte[] bytes) => _end.WriteAsync(bytes).AsTask();

        public async Task<(FrameType Type, uint Stream, byte[] Payload)> ReadAsync()
        {
            using var limit = new CancellationTokenSource(Soon);
            while (true)
            {
                if (Cut()) return (_reader.Type, _reader.Stream, _reader.Payload.ToArray());
                (_at, _length) = (0, await _end.ReadAsync(_buffer, limit.Token));
                Assert.NotEqual(0, _length);
            }
        }

        private bool Cut()
        {
            ReadOnlySpan<byte> left = _buffer.AsSpan(_at, _length - _at);
            var found = _reader.Read(ref left);
            _at = _length - left.Length;
            return found == FrameFound.Frame;
        }

        private static byte[] Bytes(FrameType type, uint stream, byte[] payload)
        {
            var bytes = new byte[Frame.HeaderBytes + payload.Length];
            Frame.Write(bytes, type, stream, payload);
            return bytes;
        }
    }
}
