namespace Fleet.Vmm.Metadata;

/// <summary>What becomes of a connection after a segment or a time-out.</summary>
internal enum TcpFate
{
    Goes,

    /// <summary>It is over; nothing more is said.</summary>
    Ended,

    /// <summary>It is given up, and the peer is to be told by a reset.</summary>
    Aborted,
}

/// <summary>
/// One connection of the guest, from its SYN on (RFC 9293, the passive side): requests in, in order; answers out, again and
/// again until they are acknowledged. Segments out of order are not kept: an acknowledgement tells what is missing.
/// </summary>
/// <remarks>
/// No congestion control: between guest and device there is no network that could be congested, and the peer's window bounds
/// what is on its way. Sequence numbers are compared as distances (§3.4). Nothing is allocated but the answers.
/// </remarks>
internal sealed class TcpConnection
{
    /// <summary>What a guest may be silent between our two ends of a connection that is closed already.</summary>
    private static readonly TimeSpan LongestLinger = TimeSpan.FromSeconds(30);

    /// <summary>Well above what a guest takes to answer, also one that shares its processors.</summary>
    private static readonly TimeSpan FirstTimeout = TimeSpan.FromMilliseconds(400);

    private static readonly TimeSpan LongestTimeout = TimeSpan.FromSeconds(5);

    /// <summary>With the doubling of the time-out some half a minute.</summary>
    private const int MostAttempts = 9;

    /// <summary>RFC 9293, §3.7.1: what a peer takes that does not tell.</summary>
    private const int UsualPayload = 536;

    private readonly MetadataService _service;
    private readonly uint _first;
    private readonly int _most;
    private readonly byte[] _input = new byte[MetadataService.LargestRequest];
    private int _received;

    // What came: next byte that is expected.
    private uint _expected;
    private bool _peerFinished;

    // What goes: oldest byte not acknowledged, next to be sent, furthest ever sent, and the byte behind the last answer.
    private uint _unacknowledged;
    private uint _next;
    private uint _furthest;
    private uint _end;
    private byte[]? _answer;
    private bool _closing;
    private uint _window;
    private uint _windowSequence;

    private bool _established;
    private bool _synchronizeDue = true;
    private bool _acknowledgeDue;
    private bool _probing;
    private TimeSpan _timeout = FirstTimeout;
    private TimeSpan? _deadline;
    private int _attempts;

    /// <param name="service">Answers the requests.</param>
    /// <param name="peer">The other end.</param>
    /// <param name="first">Our first sequence number, one that can't be guessed.</param>
    /// <param name="opening">The SYN.</param>
    /// <param name="now">Time since any fixed instant.</param>
    public TcpConnection(MetadataService service, in GuestPeer peer, uint first, in TcpSegment opening, TimeSpan now)
    {
        _service = service;
        Peer = peer;
        LastHeard = now;
        _first = first;
        _unacknowledged = _next = _furthest = first;
        _end = first + 1;
        _expected = opening.Sequence + 1;
        _window = opening.Window;
        _windowSequence = opening.Sequence;
        _most = opening.MaximumSize == 0 ? UsualPayload : Math.Min((int)opening.MaximumSize, GuestFrame.LargestPayload);
    }

    public GuestPeer Peer { get; }

    public TimeSpan LastHeard { get; private set; }

    /// <summary>Null while there is nothing to wait for.</summary>
    public TimeSpan? Deadline => _deadline;

    /// <summary>A reset that the peer believes.</summary>
    public SegmentHead Reset => new(_furthest, _expected, TcpFlags.Reset | TcpFlags.Acknowledge, 0);

    public bool HasSegment => _synchronizeDue || _acknowledgeDue || (_established && CanSend);

    private bool IsFinishAcknowledged => _closing && _unacknowledged == _end + 1;

    // Payload, or the end of it, that the peer has room for.
    private bool CanSend => IsBefore(_next, _end) ? IsBefore(_next, _unacknowledged + Room) : _closing && _next == _end;

    private uint Room => _probing && _window == 0 ? 1 : _window;

    public TcpFate Receive(in TcpSegment segment, TimeSpan now)
    {
        LastHeard = now;
        if (segment.Has(TcpFlags.Reset))
        {
            // RFC 9293, §3.10.7.4: only one that is exactly right ends the connection, one that is nearly so is asked about.
            if (segment.Sequence == _expected)
            {
                return TcpFate.Ended;
            }

            _acknowledgeDue |= _established && segment.Sequence - _expected < (uint)InputRoom;
            return TcpFate.Goes;
        }

        if (segment.Has(TcpFlags.Synchronize))
        {
            if (!_established && segment.Sequence + 1 == _expected)
            {
                _synchronizeDue = true;
            }
            else
            {
                _acknowledgeDue = true;
            }

            return TcpFate.Goes;
        }

        if (!segment.Has(TcpFlags.Acknowledge))
        {
            return TcpFate.Goes;
        }

        if (!_established)
        {
            if (segment.Acknowledged != _first + 1)
            {
                return TcpFate.Aborted;
            }

            _established = true;
            _synchronizeDue = false;
        }

        if (IsBefore(_furthest, segment.Acknowledged))
        {
            _acknowledgeDue = true;
            return TcpFate.Goes;
        }

        TakeAcknowledgement(segment, now);
        TakePayload(segment);
        TakeRequests();
        if (_window == 0 && IsBefore(_next, _end))
        {
            // Nothing is on its way that could be answered: the peer has to be asked.
            _deadline ??= now + _timeout;
        }

        return Fate;
    }

    /// <summary>Writes the next frame; its length, 0 when there is nothing to say.</summary>
    public int WriteNext(Span<byte> frame, uint ours, TimeSpan now, out TcpFate fate)
    {
        fate = TcpFate.Goes;
        if (!HasSegment)
        {
            return 0;
        }

        var sequence = _next;
        var flags = TcpFlags.Acknowledge;
        ReadOnlySpan<byte> payload = [];
        if (_synchronizeDue)
        {
            sequence = _first;
            flags |= TcpFlags.Synchronize;
            _synchronizeDue = false;
            _next = _first + 1;
        }
        else if (_established && CanSend)
        {
            if (IsBefore(_next, _end))
            {
                var length = (int)Math.Min(Math.Min(_end - _next, _unacknowledged + Room - _next), (uint)_most);
                payload = _answer.AsSpan(_answer!.Length - (int)(_end - _next), length);
                _next += (uint)length;
                flags |= _next == _end ? TcpFlags.Push : TcpFlags.None;
            }

            if (_closing && _next == _end)
            {
                flags |= TcpFlags.Finish;
                _next++;
            }
        }

        if (IsBefore(_furthest, _next))
        {
            _furthest = _next;
        }

        if (_next != _unacknowledged)
        {
            _deadline ??= now + _timeout;
        }

        _acknowledgeDue = false;
        var size = GuestFrame.WriteSegment(frame, ours, Peer, new SegmentHead(sequence, _expected, flags, (ushort)InputRoom), payload);
        fate = Fate;
        return size;
    }

    /// <summary>To be called at <see cref="Deadline"/>; before it does nothing.</summary>
    public TcpFate Tick(TimeSpan now)
    {
        if (_deadline is null || now < _deadline)
        {
            return TcpFate.Goes;
        }

        _deadline = null;
        if (IsFinishAcknowledged)
        {
            return TcpFate.Aborted;
        }

        if (++_attempts > MostAttempts)
        {
            return TcpFate.Aborted;
        }

        _timeout = _timeout * 2 < LongestTimeout ? _timeout * 2 : LongestTimeout;
        if (!_established)
        {
            _synchronizeDue = true;
            return TcpFate.Goes;
        }

        // All of it again: which part was lost is not known. To a closed window one byte, so that the peer tells of its opening.
        _next = _unacknowledged;
        _probing = _window == 0;
        return TcpFate.Goes;
    }

    /// <summary>Gives back what the connection held; nothing more may be asked of it.</summary>
    public void Close()
    {
        if (_answer is not null)
        {
            _service.Release(_answer);
            _answer = null;
        }
    }

    private int InputRoom => _input.Length - _received;

    private TcpFate Fate => _peerFinished && IsFinishAcknowledged && !_acknowledgeDue ? TcpFate.Ended : TcpFate.Goes;

    private void TakeAcknowledgement(in TcpSegment segment, TimeSpan now)
    {
        if (IsBefore(segment.Acknowledged, _unacknowledged))
        {
            return;
        }

        _attempts = 0;
        if (segment.Acknowledged != _unacknowledged)
        {
            _unacknowledged = segment.Acknowledged;
            if (IsBefore(_next, _unacknowledged))
            {
                _next = _unacknowledged;
            }

            _timeout = FirstTimeout;
            _deadline = _next == _unacknowledged ? null : now + _timeout;
        }

        if (!IsBefore(segment.Sequence, _windowSequence))
        {
            _window = segment.Window;
            _windowSequence = segment.Sequence;
        }

        if (_probing && _window > 0)
        {
            // What was sent into the closed window may have been thrown away.
            _probing = false;
            _next = _unacknowledged;
        }

        if (_answer is not null && !IsBefore(_unacknowledged, _end))
        {
            _service.Release(_answer);
            _answer = null;
        }

        if (IsFinishAcknowledged)
        {
            _deadline = now + LongestLinger;
        }
    }

    private void TakePayload(in TcpSegment segment)
    {
        if (segment.SequenceLength == 0)
        {
            // One that is not next is a keep-alive or comes late; RFC 9293, §3.10.7.4.
            _acknowledgeDue |= segment.Sequence != _expected;
            return;
        }

        _acknowledgeDue = true;
        var known = _expected - segment.Sequence;
        if (_peerFinished || (int)known < 0 || known > (uint)segment.Payload.Length)
        {
            return;
        }

        var fresh = segment.Payload[(int)known..];
        if (_closing)
        {
            // Behind the last answer nothing is read any more, but the peer must get to its end.
            _expected += (uint)fresh.Length;
            _received = 0;
        }
        else
        {
            var taken = Math.Min(fresh.Length, InputRoom);
            fresh[..taken].CopyTo(_input.AsSpan(_received));
            _received += taken;
            _expected += (uint)taken;
            if (taken < fresh.Length)
            {
                return;
            }
        }

        if (segment.Has(TcpFlags.Finish))
        {
            _expected++;
            _peerFinished = true;
        }
    }

    private void TakeRequests()
    {
        if (_answer is not null || _closing || !_established)
        {
            return;
        }

        if (_received > 0 && _service.TryAnswer(_input.AsSpan(0, _received), out var answer))
        {
            _received -= answer.Taken;
            _input.AsSpan(answer.Taken, _received).CopyTo(_input);

            // The window has room again that the peer may not know of.
            _acknowledgeDue = true;
            _answer = answer.Bytes;
            _end += (uint)answer.Bytes.Length;
            _closing = answer.Ends;
        }
        else if (_peerFinished)
        {
            _closing = true;
        }

        if (_closing)
        {
            _received = 0;
        }
    }

    private static bool IsBefore(uint a, uint b) => (int)(a - b) < 0;
}
