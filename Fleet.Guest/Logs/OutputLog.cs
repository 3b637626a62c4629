using Fleet.Shared.GuestChannel;

namespace Fleet.Guest.Logs;

/// <summary>
/// What the microVM's command wrote and the host has not taken yet, in order, its two outputs apart. Bounded: a command that writes
/// faster than the host takes waits. A host that takes nothing for the time of patience keeps no command waiting any longer: then
/// the oldest goes, and what comes behind it tells by its position that something is missing. Thread-safe.
/// </summary>
/// <param name="patience">For a host that takes nothing.</param>
/// <param name="firstPatience">At the end, for a host that was never there.</param>
/// <param name="filled">Called when there is something new for the host.</param>
internal sealed class OutputLog(TimeSpan patience, TimeSpan firstPatience, Action filled)
{
    /// <summary>Pieces that are kept, each as large as a frame: 1 MiB.</summary>
    public const int MostPieces = 64;

    private readonly object _gate = new();
    private readonly List<Piece> _pieces = [];
    private readonly Stack<Piece> _free = [];
    private int _underWay;
    private bool _hasHost;
    private bool _hadHost;
    private bool _hopeless;
    private bool _waits;
    private bool _hasLost;
    private long _end;
    private long _progressAt;

    /// <summary>A host takes what comes.</summary>
    public bool HasHost
    {
        get
        {
            lock (_gate) return _hasHost;
        }
    }

    /// <summary>The command waits for room.</summary>
    public bool Waits
    {
        get
        {
            lock (_gate) return _waits;
        }
    }

    /// <summary>Puts bytes behind the others; waits for room.</summary>
    /// <param name="output"><see cref="FrameType.Output"/> or <see cref="FrameType.Errors"/>.</param>
    /// <param name="bytes">As they were written.</param>
    public void Put(FrameType output, ReadOnlySpan<byte> bytes)
    {
        lock (_gate)
        {
            while (!bytes.IsEmpty)
            {
                var piece = RoomFor(output);
                var count = Math.Min(bytes.Length, piece.Bytes.Length - piece.Length);
                bytes[..count].CopyTo(piece.Bytes.AsSpan(piece.Length));
                piece.Length += count;
                _end += count;
                bytes = bytes[count..];
            }
        }
        filled();
    }

    /// <summary>A host is there, and has everything before that position. What was under way to another is sent again.</summary>
    public void Attach(long from)
    {
        lock (_gate)
        {
            (_underWay, _hasHost, _hadHost) = (0, true, true);
            while (_pieces.Count > 0 && _pieces[0].Position + _pieces[0].Length <= from) Free(0);
            if (_pieces.Count > 0 && _pieces[0].Position < from) _pieces[0].Taken = (int)(from - _pieces[0].Position);
            Progress();
        }
    }

    /// <summary>The host is gone.</summary>
    public void Detach()
    {
        lock (_gate) (_underWay, _hasHost) = (0, false);
    }

    /// <summary>This machine has nothing by which a host could come.</summary>
    public void GiveUp()
    {
        lock (_gate)
        {
            _hopeless = true;
            Monitor.PulseAll(_gate);
        }
    }

    /// <summary>The next piece for the host, which is then under way; false: there is none, or it is longer than <paramref name="room"/>.</summary>
    /// <param name="bytes">Valid until the host has taken it.</param>
    public bool TryNext(int room, out FrameType output, out long position, out ReadOnlyMemory<byte> bytes)
    {
        lock (_gate)
        {
            (output, position, bytes) = (default, 0, default);
            // One is never under way, so that there is one that can go.
            if (_underWay == Math.Min(_pieces.Count, MostPieces - 1) || _pieces[_underWay] is not { } piece || piece.Length - piece.Taken > room) return false;
            _underWay++;
            (output, position, bytes) = (piece.Output, piece.Position + piece.Taken, piece.Bytes.AsMemory(piece.Taken, piece.Length - piece.Taken));
            return true;
        }
    }

    /// <summary>The host has taken the oldest piece that was under way.</summary>
    public void Took()
    {
        lock (_gate)
        {
            if (_underWay == 0) return;
            _underWay--;
            Free(0);
            Progress();
        }
    }

    /// <summary>Waits until the host has taken everything, as long as it goes on taking; whether it has all that was ever written.</summary>
    public bool WaitUntilTaken()
    {
        lock (_gate)
        {
            while (_pieces.Count > 0 && !_hopeless && Left(_hadHost ? patience : firstPatience) is > 0 and var left) Monitor.Wait(_gate, left);
            return _pieces.Count == 0 && !_hasLost;
        }
    }

    private Piece RoomFor(FrameType output)
    {
        // One that is under way is complete: the host knows it by its length.
        if (_pieces.Count > _underWay && _pieces[^1] is var last && last.Output == output && last.Length < last.Bytes.Length) return last;
        while (_pieces.Count == MostPieces)
        {
            if (!_hopeless && Left(patience) is > 0 and var left)
            {
                _waits = true;
                Monitor.Wait(_gate, left);
                _waits = false;
            }
            else
            {
                // The oldest that is not under way.
                Free(_underWay);
                _hasLost = true;
            }
        }
        var piece = _free.Count > 0 ? _free.Pop() : new Piece();
        (piece.Output, piece.Position, piece.Length, piece.Taken) = (output, _end, 0, 0);
        if (_pieces.Count == 0) Progress();
        _pieces.Add(piece);
        return piece;
    }

    private void Free(int index)
    {
        _free.Push(_pieces[index]);
        _pieces.RemoveAt(index);
    }

    private void Progress()
    {
        _progressAt = Environment.TickCount64;
        Monitor.PulseAll(_gate);
    }

    private int Left(TimeSpan limit) => (int)Math.Max(0, _progressAt + (long)limit.TotalMilliseconds - Environment.TickCount64);

    private sealed class Piece
    {
        public byte[] Bytes { get; } = new byte[Frame.MaxPayload];

        public FrameType Output { get; set; }

        /// <summary>Of its first byte in all that was written.</summary>
        public long Position { get; set; }

        public int Length { get; set; }

        /// <summary>So many of its bytes the host has.</summary>
        public int Taken { get; set; }
    }
}
