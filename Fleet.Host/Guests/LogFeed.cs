using System.Buffers.Binary;
using System.Text;
using Fleet.Host.Logs;
using Fleet.Shared.GuestChannel;

namespace Fleet.Host.Guests;

/// <summary>
/// The stream of one conversation that carries what the microVM's command writes: written down first, and only then given room for more. Frames come from one
/// thread at a time.
/// </summary>
/// <param name="writer">Where it is written down.</param>
/// <param name="pace">How long what costs so much has to wait.</param>
/// <param name="clock">For that.</param>
/// <param name="send">Sends the guest a frame.</param>
/// <param name="lost">Told why something could not be written down, once in a row.</param>
/// <param name="figures">Told what the guest says of itself, as it came.</param>
internal sealed class LogFeed(
    LogWriter writer, Func<int, TimeSpan> pace, TimeProvider clock, Action<LogFeed, FrameType, byte[]> send, Action<string> lost, Action<ReadOnlyMemory<byte>> figures)
{
    private readonly StreamLedger _ledger = new(ofLog: true);
    private readonly Lock _gate = new();
    private static readonly TimeSpan FiguresApart = TimeSpan.FromSeconds(1);

    private bool _losing;
    private int _toGiveBack;
    private int _windows = 1;
    private long? _figuresAt;

    /// <summary>In the conversation.</summary>
    public required uint Number { get; init; }

    /// <summary>Completes with why it is over: what fleet-init said, or what it did wrong. It is not begun again then.</summary>
    public TaskCompletionSource<string> Over { get; } = new(TaskCreationOptions.RunContinuationsAsynchronously);

    /// <summary>What to ask fleet-init for.</summary>
    public byte[] Open()
    {
        var request = Encoding.ASCII.GetBytes($$"""{"log_from":{{writer.Position}}}""");
        _ledger.ToGuest(FrameType.Open, request);
        return request;
    }

    /// <summary>Says how long the command may take to end, which it is asked to.</summary>
    public void Stop(TimeSpan limit)
    {
        var payload = Frame.Number((uint)Math.Clamp(limit.TotalMilliseconds, 0, uint.MaxValue));
        lock (_gate)
        {
            if (_ledger.ToGuest(FrameType.Stop, payload) is null) send(this, FrameType.Stop, payload);
        }
    }

    /// <summary>Takes a frame.</summary>
    public void Take(FrameType type, ReadOnlyMemory<byte> frame)
    {
        var payload = frame.Span;
        string? wrong;
        lock (_gate) wrong = _ledger.FromGuest(type, payload);
        if (wrong is null && type == FrameType.Position && !writer.SkipTo(BinaryPrimitives.ReadUInt64LittleEndian(payload))) wrong = "It went back in its output.";
        if (wrong is not null)
        {
            Over.TrySetResult($"The guest broke the channel's rules. {wrong}");
            return;
        }
        switch (type)
        {
            case FrameType.Output or FrameType.Errors:
                if (writer.Add(type == FrameType.Output ? LogStreamKind.Output : LogStreamKind.Errors, payload) is { } why) Lose(why);
                break;
            case FrameType.Figures:
                Widen(FiguresPayload.LogWindowsOf(payload));
                // It has something new every 10 s, and when its health changes.
                if (_figuresAt is { } at && clock.GetElapsedTime(at) < FiguresApart) break;
                _figuresAt = clock.GetTimestamp();
                figures(frame.ToArray());
                break;
            case FrameType.Refused:
                Over.TrySetResult(Encoding.UTF8.GetString(payload));
                return;
            case FrameType.Exit:
                Over.TrySetResult("The guest ended it.");
                return;
        }
        _toGiveBack += StreamLedger.Cost(type, payload.Length);
    }

    /// <summary>All that had come is taken: it is written down, and the guest gets room for it at once, since what it is told wakes it each time.</summary>
    public void GiveRoom()
    {
        if (_toGiveBack == 0) return;
        if (writer.Flush() is { } why) Lose(why);
        else _losing = false;
        var cost = _toGiveBack;
        _toGiveBack = 0;
        if (pace(cost) is { Ticks: > 0 } wait) _ = WaitAsync(wait, cost);
        else Credit(cost);
    }

    // A fleet-init from before that would take more room than it began with for a mistake.
    private void Widen(byte windows)
    {
        var more = Math.Min(windows, StreamLedger.LogWindows) - _windows;
        if (more <= 0) return;
        _windows += more;
        Credit(more * StreamLedger.OutputWindow);
    }

    private void Lose(string why)
    {
        if (!_losing) lost(why);
        _losing = true;
    }

    private async Task WaitAsync(TimeSpan wait, int cost)
    {
        await Task.Delay(wait, clock).ConfigureAwait(false);
        Credit(cost);
    }

    private void Credit(int cost)
    {
        var payload = Frame.Number((uint)cost);
        lock (_gate)
        {
            if (_ledger.ToGuest(FrameType.Credit, payload) is null) send(this, FrameType.Credit, payload);
        }
    }
}
