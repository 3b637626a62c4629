using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>A disk request that the kernel carries out by itself.</summary>
/// <param name="Head">For the used ring.</param>
/// <param name="Kind">The request's type.</param>
/// <param name="Status">Guest address of its status byte.</param>
/// <param name="Length">Bytes to be moved; none for a flush.</param>
internal readonly record struct DiskRequest(ushort Head, uint Kind, ulong Status, uint Length);

/// <summary>The requests of a disk that are under way in an io_uring; they end in any order.</summary>
/// <remarks>Not for two threads at once: the transport's lock is held, or the vCPUs stand still.</remarks>
internal sealed unsafe class DiskQueue : IDisposable
{
    /// <summary>Requests under way at once.</summary>
    public const int Capacity = 128;

    private readonly IoRing _ring = new(Capacity);
    private readonly Slot[] _slots = new Slot[Capacity];
    private readonly byte[] _free = new byte[Capacity];
    private int _freeCount;

    // Pieces of each slot. The slot that was given back last is used first, so few are ever touched.
    private readonly LazyBuffer _pieces = new(Capacity * GuestPieces.Most * sizeof(IoPiece));

    /// <summary>Throws <see cref="SystemCallException"/> on a kernel without io_uring, or one that forbids it.</summary>
    public DiskQueue()
    {
        for (; _freeCount < Capacity; _freeCount++)
        {
            _free[_freeCount] = (byte)(Capacity - 1 - _freeCount);
        }
    }

    /// <summary>Readable while a request is done; for the event loop.</summary>
    public int Descriptor => _ring.Descriptor;

    public bool HasRoom => _freeCount > 0;

    public bool IsEmpty => _freeCount == Capacity;

    /// <summary>Begins to move so many bytes behind the first <paramref name="skip"/> of the buffers; there must be room.</summary>
    public void Move(in DiskRequest request, DiskFile file, bool toGuest, ulong offset, GuestMemory memory, ReadOnlySpan<GuestBuffer> buffers, long skip)
    {
        var index = Take(request, file, toGuest, offset);
        ref var slot = ref _slots[index];
        slot.Pieces = PiecesOf(index);
        slot.Count = GuestPieces.Locate(memory, buffers, skip, request.Length, slot.Pieces);
        _ring.QueueMove(toGuest, file.Handle, offset, slot.Pieces, slot.Count, index);
    }

    /// <summary>Begins to put what was written on the disk; there must be room.</summary>
    public void Flush(in DiskRequest request, DiskFile file) =>
        _ring.QueueFlush(file.Handle, Take(request, file, toGuest: false, 0));

    /// <summary>Hands over what was begun. Throws <see cref="SystemCallException"/>.</summary>
    public void Submit() => _ring.Submit();

    /// <summary>The next request that is done, and whether all of it went well.</summary>
    public bool TryReap(out DiskRequest request, out bool succeeded)
    {
        while (_ring.TryReap(out var token, out var result))
        {
            ref var slot = ref _slots[token];
            if (result > 0 && (uint)result < slot.Left)
            {
                // Not all at once, as read(2) may too: the rest follows.
                slot.Advance((uint)result);
                _ring.QueueMove(slot.ToGuest, slot.File!.Handle, slot.Offset, slot.Pieces, slot.Count, token);
                continue;
            }

            request = slot.Request;
            succeeded = result >= 0 && (uint)result == slot.Left;
            slot.File = null;
            _free[_freeCount++] = (byte)token;
            return true;
        }

        (request, succeeded) = (default, false);
        return false;
    }

    /// <summary>Waits until <see cref="TryReap"/> has something; not when <see cref="IsEmpty"/>. Throws <see cref="SystemCallException"/>.</summary>
    public void Wait()
    {
        _ring.Submit();
        _ring.Wait();
    }

    public void Dispose()
    {
        // The kernel ends what is under way before the ring is gone; nobody is left to hear of it.
        _ring.Dispose();
        _pieces.Dispose();
    }

    private byte Take(in DiskRequest request, DiskFile file, bool toGuest, ulong offset)
    {
        var index = _free[--_freeCount];
        _slots[index] = new Slot { Request = request, File = file, ToGuest = toGuest, Offset = offset, Left = request.Length };
        return index;
    }

    private IoPiece* PiecesOf(int index)
    {
        // SAFETY: the buffer lies outside of the collector's heap and has room for all slots.
        fixed (byte* start = _pieces.Bytes)
        {
            return (IoPiece*)start + (index * GuestPieces.Most);
        }
    }

    private struct Slot
    {
        public DiskRequest Request;
        public DiskFile? File;
        public bool ToGuest;
        public ulong Offset;
        public uint Left;
        public IoPiece* Pieces;
        public int Count;

        public void Advance(uint moved)
        {
            Offset += moved;
            Left -= moved;
            IoPiece.Advance(ref Pieces, ref Count, moved);
        }
    }
}
