using System.Runtime.InteropServices;
using Fleet.Guest.Linux;
using Fleet.Shared.GuestChannel;

namespace Fleet.Guest.Channel;

/// <summary>
/// Frames on their way to the host. A fixed ring: output goes in up to <see cref="OutputMark"/>, and what the host asks is read only
/// while less than <see cref="InputMark"/> is in it, so that the answers always have room.
/// </summary>
internal sealed unsafe class OutQueue
{
    private const int Capacity = 1024 * 1024;
    private const int InputMark = 512 * 1024;
    private const int OutputMark = 256 * 1024;

    private readonly byte[] _ring = new byte[Capacity];
    private int _start;
    private int _count;

    public bool IsEmpty => _count == 0;

    /// <summary>The host may be listened to.</summary>
    public bool TakesQuestions => _count < InputMark;

    /// <summary>There is room for a frame of output.</summary>
    public bool TakesOutput => _count < OutputMark;

    public void Clear() => (_start, _count) = (0, 0);

    /// <summary>Puts a frame behind the others. False when there is no room, which a host that keeps to its windows never sees.</summary>
    public bool Put(FrameType type, uint stream, ReadOnlySpan<byte> payload)
    {
        if (Frame.HeaderBytes + payload.Length > Capacity - _count) return false;
        Span<byte> header = stackalloc byte[Frame.HeaderBytes];
        Frame.WriteHeader(header, type, stream, payload.Length);
        Add(header);
        Add(payload);
        return true;
    }

    /// <summary>Writes as much as the descriptor takes now. False when it takes nothing any more.</summary>
    public bool Flush(int fd)
    {
        while (_count > 0)
        {
            var length = Math.Min(_count, Capacity - _start);
            nint written;
            // SAFETY: the ring is pinned during the call; start and length lie in it.
            fixed (byte* bytes = _ring) written = Libc.write(fd, bytes + _start, (nuint)length);
            if (written <= 0)
            {
                if (written < 0 && Marshal.GetLastPInvokeError() == Libc.EINTR) continue;
                return written < 0 && Marshal.GetLastPInvokeError() == Libc.EAGAIN;
            }
            _start = (_start + (int)written) % Capacity;
            _count -= (int)written;
        }
        return true;
    }

    private void Add(ReadOnlySpan<byte> bytes)
    {
        var end = (_start + _count) % Capacity;
        var first = Math.Min(bytes.Length, Capacity - end);
        bytes[..first].CopyTo(_ring.AsSpan(end));
        bytes[first..].CopyTo(_ring);
        _count += bytes.Length;
    }
}
