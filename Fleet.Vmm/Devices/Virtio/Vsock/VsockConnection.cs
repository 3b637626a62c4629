using System.Runtime.InteropServices;
using System.Text;
using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Devices.Virtio.Vsock;

/// <summary>
/// One stream between a Unix socket of the host and the guest: the socket, what of the guest's the host has not taken yet,
/// and the <see cref="VsockFlow"/>. Never waits.
/// </summary>
internal sealed unsafe class VsockConnection : IDisposable
{
    /// <summary>"CONNECT 4294967295\n" and some more.</summary>
    private const int LongestGreeting = 32;

    private readonly byte[] _greeting = new byte[LongestGreeting];
    private int _greetingLength;
    private byte* _held;
    private int _heldStart;
    private int _heldLength;
    private bool _watched;
    private LoopEvents _interest;

    /// <summary>A client of the host that has not said yet which port it wants.</summary>
    public VsockConnection(int fd)
    {
        Descriptor = fd;
        PlaceInLine = new(this);
    }

    public int Descriptor { get; private set; }

    public VsockFlow? Flow { get; set; }

    public uint HostPort { get; set; }

    public uint GuestPort { get; set; }

    /// <summary>Ticks of the device's clock at which it is given up; <see cref="long.MaxValue"/> for never.</summary>
    public long Deadline { get; set; } = long.MaxValue;

    /// <summary>Waits in the device's line for a buffer of the guest.</summary>
    public bool IsInLine => PlaceInLine.List is not null;

    public LinkedListNode<VsockConnection> PlaceInLine { get; }

    /// <summary>The socket may have bytes for the guest; known from epoll, and forgotten when a read finds none.</summary>
    public bool MayRead { get; set; }

    /// <summary>Both ends of the socket are closed; it is not watched any more, but may still hold bytes.</summary>
    public bool IsCutOff { get; private set; }

    /// <summary>Something can be sent to the guest.</summary>
    public bool HasSomethingForGuest => Flow is { } flow && (flow.HasDue || (MayRead && flow.Credit > 0));

    public bool HoldsBytes => _heldLength > 0;

    /// <summary>Begins to listen to the socket. Throws <see cref="SystemCallException"/>.</summary>
    public void Watch(EventLoop loop, Action<LoopEvents> onReady)
    {
        if (!_watched && !IsCutOff && Descriptor >= 0)
        {
            _interest = Wanted;
            loop.Add(Descriptor, _interest, onReady);
            _watched = true;
        }
    }

    public void Ignore(EventLoop loop)
    {
        if (_watched)
        {
            loop.Remove(Descriptor);
            _watched = false;
        }
    }

    /// <summary>The other end is gone for good: epoll would tell of it without end.</summary>
    public void CutOff(EventLoop loop)
    {
        Ignore(loop);
        IsCutOff = true;
        MayRead = true;
    }

    /// <summary>Listens to what there is to wait for now.</summary>
    public void Adjust(EventLoop loop)
    {
        if (_watched && Wanted != _interest)
        {
            _interest = Wanted;
            loop.Change(Descriptor, _interest);
        }
    }

    /// <summary>
    /// Reads the client's first line: <c>CONNECT port</c>. True with the port when it is there, false while it is not; null
    /// when it says something else or has gone.
    /// </summary>
    public bool? ReadGreeting(out uint port)
    {
        port = 0;
        while (true)
        {
            // Byte by byte: what stands behind the line is the guest's.
            var got = Sockets.Receive(Descriptor, _greeting.AsSpan(_greetingLength, 1));
            if (got < 0 && Marshal.GetLastPInvokeError() is SystemCallException.TryAgain or SystemCallException.Interrupted)
            {
                return false;
            }

            if (got <= 0)
            {
                return null;
            }

            if (_greeting[_greetingLength] == (byte)'\n')
            {
                return Parse(_greeting.AsSpan(0, _greetingLength), out port) ? true : null;
            }

            if (++_greetingLength == LongestGreeting)
            {
                return null;
            }
        }
    }

    /// <summary>Tells the client that it is connected; false when it can't be told.</summary>
    public bool Welcome()
    {
        Span<byte> line = stackalloc byte[16];
        "OK "u8.CopyTo(line);
        _ = HostPort.TryFormat(line[3..], out var digits, provider: System.Globalization.CultureInfo.InvariantCulture);
        line[3 + digits] = (byte)'\n';
        return Sockets.Send(Descriptor, line[..(4 + digits)]) == 4 + digits;
    }

    /// <summary>Takes payload of the guest: what the socket does not take is held. False when the host does not listen any more.</summary>
    public bool Deliver(GuestMemory memory, ReadOnlySpan<GuestBuffer> buffers, long skip, long length)
    {
        var pieces = stackalloc IoPiece[GuestPieces.Most];
        var count = GuestPieces.Locate(memory, buffers, skip, length, writes: false, pieces);
        var sent = 0L;
        if (_heldLength == 0 && length > 0)
        {
            // SAFETY: the pieces lie in guest memory; the kernel reads them during the call.
            sent = Sockets.Send(Descriptor, pieces, count);
            if (sent < 0)
            {
                if (Marshal.GetLastPInvokeError() is not (SystemCallException.TryAgain or SystemCallException.Interrupted))
                {
                    return false;
                }

                sent = 0;
            }

            Flow!.Forward((uint)sent);
        }

        for (var i = 0; i < count; i++)
        {
            var start = (nuint)Math.Min(sent, (long)pieces[i].Length);
            sent -= (long)start;
            Hold(pieces[i].Start + start, (int)(pieces[i].Length - start));
        }

        return true;
    }

    /// <summary>Gives the host what is held; false when it does not listen any more.</summary>
    public bool Flush()
    {
        while (_heldLength > 0)
        {
            // SAFETY: so many bytes were put there by Hold.
            var sent = Sockets.Send(Descriptor, new ReadOnlySpan<byte>(_held + _heldStart, Math.Min(_heldLength, Room - _heldStart)));
            if (sent < 0)
            {
                return Marshal.GetLastPInvokeError() is SystemCallException.TryAgain or SystemCallException.Interrupted;
            }

            _heldStart = (_heldStart + sent) % Room;
            _heldLength -= sent;
            Flow!.Forward((uint)sent);
        }

        FreeHeld();
        return true;
    }

    /// <summary>Reads bytes for the guest into its buffers; 0 at the end of the stream, -1 when there are none now.</summary>
    public int Read(GuestMemory memory, ReadOnlySpan<GuestBuffer> buffers, long skip, long most)
    {
        var pieces = stackalloc IoPiece[GuestPieces.Most];
        var count = GuestPieces.Locate(memory, buffers, skip, most, writes: true, pieces);

        // SAFETY: the pieces lie in guest memory; the kernel fills them during the call.
        var got = Sockets.Receive(Descriptor, pieces, count);
        return got >= 0 ? got : Marshal.GetLastPInvokeError() is SystemCallException.TryAgain or SystemCallException.Interrupted ? -1 : 0;
    }

    /// <summary>The guest sends no more: nor do we to the host, once everything was given to it.</summary>
    public void ShutSending() => Sockets.ShutSending(Descriptor);

    public void Dispose()
    {
        FreeHeld();
        if (Descriptor >= 0)
        {
            _ = Descriptors.close(Descriptor);
            Descriptor = -1;
        }
    }

    private int Room => (int)Flow!.BufferSize;

    private LoopEvents Wanted =>
        (Flow is null || (!MayRead && Flow.Credit > 0) ? LoopEvents.Readable : LoopEvents.None) | (HoldsBytes ? LoopEvents.Writable : LoopEvents.None);

    private static bool Parse(ReadOnlySpan<byte> line, out uint port)
    {
        port = 0;
        line = line.EndsWith("\r"u8) ? line[..^1] : line;
        return line.Length > 8 && Ascii.EqualsIgnoreCase(line[..8], "CONNECT "u8)
            && uint.TryParse(line[8..], System.Globalization.NumberStyles.None, System.Globalization.CultureInfo.InvariantCulture, out port);
    }

    // There is room: the guest was never promised more than the buffer holds, and VsockFlow keeps it to that.
    private void Hold(byte* bytes, int length)
    {
        if (length == 0)
        {
            return;
        }

        if (_held == null)
        {
            _held = (byte*)NativeMemory.Alloc((nuint)Room);
            _heldStart = 0;
        }

        ArgumentOutOfRangeException.ThrowIfGreaterThan(length, Room - _heldLength);
        var at = (_heldStart + _heldLength) % Room;
        var first = Math.Min(length, Room - at);

        // SAFETY: both parts lie within the buffer, the free room was checked right above; the source is the caller's piece.
        Buffer.MemoryCopy(bytes, _held + at, first, first);
        Buffer.MemoryCopy(bytes + first, _held, length - first, length - first);
        _heldLength += length;
    }

    private void FreeHeld()
    {
        NativeMemory.Free(_held);
        _held = null;
        _heldLength = 0;
    }
}
