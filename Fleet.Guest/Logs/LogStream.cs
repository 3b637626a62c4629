using System.Buffers.Binary;
using System.Text.Json;
using Fleet.Guest.Channel;
using Fleet.Guest.Configuration;
using Fleet.Shared.GuestChannel;

namespace Fleet.Guest.Logs;

/// <summary>The stream by which the host takes what the microVM's command writes (docs/guest-protocol.md). Used by the channel's thread only.</summary>
internal sealed class LogStream
{
    private readonly OutputLog _log;
    private readonly Queue<(int Cost, bool IsPiece)> _underWay = new();
    private readonly byte[] _position = new byte[8];
    private readonly byte[] _figures = new byte[FiguresPayload.Bytes];
    private long _next;
    private int _credit;

    private LogStream(uint stream, long from, OutputLog log)
    {
        (Stream, _next, _log) = (stream, from, log);
        Ledger.ToGuest(FrameType.Open, [0]);
        Ledger.FromGuest(FrameType.Started, []);
    }

    public uint Stream { get; }

    public StreamLedger Ledger { get; } = new(ofLog: true);

    /// <summary>What a request asks for begins with; null: it is none for the log.</summary>
    /// <exception cref="BadConfigurationException">It is one, and is wrong.</exception>
    public static LogStream? TryBegin(uint stream, ReadOnlySpan<byte> request, OutputLog log)
    {
        try
        {
            var reader = new Utf8JsonReader(request, new JsonReaderOptions { MaxDepth = 2 });
            if (!reader.Read() || reader.TokenType != JsonTokenType.StartObject || !reader.Read() || reader.TokenType != JsonTokenType.PropertyName
                || !reader.ValueTextEquals("log_from"u8))
            {
                return null;
            }
            if (!reader.Read() || reader.TokenType != JsonTokenType.Number || !reader.TryGetInt64(out var from) || from < 0
                || !reader.Read() || reader.TokenType != JsonTokenType.EndObject)
            {
                throw new BadConfigurationException("'log_from' is alone, and a number from 0");
            }
            return new LogStream(stream, from, log);
        }
        catch (JsonException)
        {
            return null;
        }
    }

    /// <summary>The host gets what it has not yet.</summary>
    public void Begin() => _log.Attach(_next);

    /// <summary>Puts what there is behind the other frames, as far as the host takes it.</summary>
    public void Carry(OutQueue queue)
    {
        while (queue.TakesOutput && _log.TryNext(Room, out var output, out var position, out var bytes))
        {
            if (position != _next)
            {
                BinaryPrimitives.WriteInt64LittleEndian(_position, position);
                Say(queue, FrameType.Position, _position, isPiece: false);
            }
            Say(queue, output, bytes.Span, isPiece: true);
            _next = position + bytes.Length;
        }
    }

    /// <summary>Puts this machine's figures behind the other frames; false: there is no room for them now.</summary>
    public bool TryTell(OutQueue queue, FiguresPayload figures)
    {
        if (!queue.TakesOutput || Ledger.OutputLeft < StreamLedger.Cost(FrameType.Figures, FiguresPayload.Bytes)) return false;
        figures.Write(_figures);
        Say(queue, FrameType.Figures, _figures, isPiece: false);
        return true;
    }

    /// <summary>The host has written down what cost so much.</summary>
    public void Took(int cost)
    {
        _credit += cost;
        while (_underWay.TryPeek(out var first) && first.Cost <= _credit)
        {
            _credit -= first.Cost;
            if (_underWay.Dequeue().IsPiece) _log.Took();
        }
    }

    public void End() => _log.Detach();

    // A piece may need its position told before it.
    private int Room => StreamLedger.Room(Ledger.OutputLeft - StreamLedger.Cost(FrameType.Position, sizeof(long)));

    private void Say(OutQueue queue, FrameType type, ReadOnlySpan<byte> payload, bool isPiece)
    {
        Ledger.FromGuest(type, payload);
        _underWay.Enqueue((StreamLedger.Cost(type, payload.Length), isPiece));
        if (!queue.Put(type, Stream, payload)) throw new InvalidOperationException("the host asks more than it listens to");
    }
}
