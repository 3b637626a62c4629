using System.Runtime.InteropServices;
using Fleet.Vmm.Linux;
using Fleet.Vmm.RateLimiting;

namespace Fleet.Vmm.Devices;

/// <summary>
/// Where a serial port's output goes: a descriptor, and at most so many bytes. What can't be written at once (a full pipe,
/// a full disk, a file at its size limit, a reader that went away) is dropped and counted: a guest's talk must not hold up
/// a vCPU, nor end the machine. SIGPIPE and SIGXFSZ are ignored in this process.
/// </summary>
internal sealed unsafe class ByteSink
{
    private readonly int _fd;
    private readonly RateLimiter? _limiter;
    private ulong _room;
    private ulong _written;
    private ulong _missed;
    private ulong _dropped;

    /// <summary>Does not own the descriptor, which must not block.</summary>
    public ByteSink(int fd, ulong limit = ulong.MaxValue, RateLimiter? limiter = null)
    {
        _fd = fd;
        _room = limit;
        _limiter = limiter;
    }

    /// <summary>Bytes that were taken.</summary>
    public ulong Written => Volatile.Read(ref _written);

    /// <summary>Writes that lost bytes.</summary>
    public ulong Missed => Volatile.Read(ref _missed);

    /// <summary>Bytes that came faster than the limiter lets pass.</summary>
    public ulong Dropped => Volatile.Read(ref _dropped);

    /// <summary>One writer at a time; the device's lock sees to that.</summary>
    public void Write(ReadOnlySpan<byte> bytes)
    {
        if (_limiter?.TryTake((ulong)bytes.Length, out _) == false)
        {
            Volatile.Write(ref _dropped, _dropped + (ulong)bytes.Length);
            return;
        }

        if ((ulong)bytes.Length > _room)
        {
            Volatile.Write(ref _missed, _missed + 1);
            bytes = bytes[..(int)_room];
        }

        while (!bytes.IsEmpty)
        {
            nint got;

            // SAFETY: pinned for the call, length as given.
            fixed (byte* start = bytes)
            {
                got = Descriptors.write(_fd, start, bytes.Length);
            }

            if (got <= 0)
            {
                if (got < 0 && Marshal.GetLastPInvokeError() == SystemCallException.Interrupted)
                {
                    continue;
                }

                Volatile.Write(ref _missed, _missed + 1);
                return;
            }

            Volatile.Write(ref _written, _written + (ulong)got);
            _room -= (ulong)got;
            bytes = bytes[(int)got..];
        }
    }
}
