using System.Buffers.Binary;
using System.Runtime.InteropServices;
using Fleet.Vmm.Memory;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Devices.Virtio;

/// <summary>One buffer of a request: guest memory that was checked to be there when the request was taken.</summary>
/// <param name="Address">Guest-physical.</param>
/// <param name="Length">Bytes, at most <see cref="VirtQueue.LongestBuffer"/>.</param>
internal readonly record struct GuestBuffer(ulong Address, int Length);

/// <summary>
/// The device's end of a split virtqueue (virtio 1.2, §2.7). The guest owns every byte of it and may change each at any
/// time: what is read is read once, checked, and used from the copy. What breaks the rules breaks the queue
/// (<see cref="VirtQueueException"/>); nothing is repaired.
/// </summary>
/// <remarks>Not for two threads at once: the transport's lock is held. Allocates nothing after it was made.</remarks>
internal sealed class VirtQueue
{
    /// <summary>Far above what any driver sends; keeps lengths in an int.</summary>
    public const int LongestBuffer = 1 << 30;

    private const int DescriptorSize = 16;
    private const int UsedElementSize = 8;
    private const int RingHeader = 4;

    private const ushort HasNext = 1;
    private const ushort DeviceWrites = 2;
    private const ushort Indirect = 4;
    private const ushort NoInterrupt = 1;

    private readonly GuestMemory _memory;
    private readonly GuestBuffer[] _buffers;
    private int _readable;
    private int _count;
    private ushort _nextAvailable;
    private ushort _nextUsed;
    private ushort _signalledUsed;
    private bool _signalledValid;

    public VirtQueue(GuestMemory memory, ushort maxSize)
    {
        _memory = memory;
        _buffers = new GuestBuffer[maxSize];
        MaxSize = Size = maxSize;
    }

    public ushort MaxSize { get; }

    /// <summary>What the driver chose; checked by <see cref="Enable"/>.</summary>
    public ushort Size { get; set; }

    public ulong DescriptorTable { get; set; }

    public ulong AvailableRing { get; set; }

    public ulong UsedRing { get; set; }

    public bool IsEnabled { get; private set; }

    /// <summary>VIRTIO_F_EVENT_IDX was negotiated.</summary>
    public bool UsesEventIndex { get; set; }

    /// <summary>VIRTIO_F_INDIRECT_DESC was negotiated.</summary>
    public bool UsesIndirect { get; set; }

    /// <summary>Buffers of the request that was taken last which the device reads, in order.</summary>
    public ReadOnlySpan<GuestBuffer> Readable => _buffers.AsSpan(0, _readable);

    /// <summary>Buffers that the device writes, in order.</summary>
    public ReadOnlySpan<GuestBuffer> Writable => _buffers.AsSpan(_readable, _count - _readable);

    /// <summary>Bytes of so many buffers.</summary>
    public static long LengthOf(ReadOnlySpan<GuestBuffer> buffers)
    {
        var total = 0L;
        foreach (var buffer in buffers)
        {
            total += buffer.Length;
        }

        return total;
    }

    /// <summary>Accepts the driver's choice; false when the size is none or the rings do not lie in memory, aligned.</summary>
    public bool Enable()
    {
        IsEnabled = Size > 0 && Size <= MaxSize && (Size & (Size - 1)) == 0
            && DescriptorTable % 16 == 0 && _memory.Contains(DescriptorTable, (ulong)(DescriptorSize * Size))
            && AvailableRing % 2 == 0 && _memory.Contains(AvailableRing, (ulong)(RingHeader + 2 * Size + 2))
            && UsedRing % 4 == 0 && _memory.Contains(UsedRing, (ulong)(RingHeader + UsedElementSize * Size + 2));
        return IsEnabled;
    }

    public void Reset()
    {
        Size = MaxSize;
        DescriptorTable = AvailableRing = UsedRing = 0;
        IsEnabled = UsesEventIndex = UsesIndirect = _signalledValid = false;
        _nextAvailable = _nextUsed = _signalledUsed = 0;
        _readable = _count = 0;
    }

    /// <summary>For a snapshot.</summary>
    public void Save(StateWriter state)
    {
        state.UInt16(Size);
        state.UInt64(DescriptorTable);
        state.UInt64(AvailableRing);
        state.UInt64(UsedRing);
        state.Flag(IsEnabled);
        state.Flag(UsesEventIndex);
        state.Flag(UsesIndirect);
        state.Flag(_signalledValid);
        state.UInt16(_nextAvailable);
        state.UInt16(_nextUsed);
        state.UInt16(_signalledUsed);
    }

    /// <summary>Takes up what <see cref="Save"/> put down; rings that do not lie in memory are refused as the driver's are.</summary>
    public void Restore(ref StateReader state)
    {
        Size = state.UInt16();
        DescriptorTable = state.UInt64();
        AvailableRing = state.UInt64();
        UsedRing = state.UInt64();
        var enabled = state.Flag();
        UsesEventIndex = state.Flag();
        UsesIndirect = state.Flag();
        _signalledValid = state.Flag();
        _nextAvailable = state.UInt16();
        _nextUsed = state.UInt16();
        _signalledUsed = state.UInt16();
        if (enabled && !Enable())
        {
            throw new SnapshotException("it has a queue that does not lie in the guest's memory");
        }
    }

    /// <summary>Takes the next request into <see cref="Readable"/> and <see cref="Writable"/>; false when there is none.</summary>
    /// <param name="head">What to hand back to <see cref="AddUsed"/>.</param>
    /// <exception cref="VirtQueueException">The driver broke the rules.</exception>
    public bool TryTake(out ushort head)
    {
        head = 0;
        var waiting = (ushort)(ReadShared(AvailableRing + 2) - _nextAvailable);
        if (waiting == 0)
        {
            return false;
        }

        if (waiting > Size)
        {
            throw new VirtQueueException("the driver offers more requests than the queue holds");
        }

        head = BinaryPrimitives.ReadUInt16LittleEndian(_memory.Slice(AvailableRing + RingHeader + 2ul * (ulong)(_nextAvailable & (Size - 1)), 2));
        ReadChain(head);
        _nextAvailable++;
        return true;
    }

    /// <summary>The last so many requests that were taken will be taken again.</summary>
    public void PutBack(int count = 1) => _nextAvailable -= (ushort)count;

    /// <summary>Tells the driver that a request is done.</summary>
    /// <param name="head">From <see cref="TryTake"/>.</param>
    /// <param name="written">Bytes that the device wrote into it.</param>
    public void AddUsed(ushort head, uint written)
    {
        StageUsed(head, written);
        PublishUsed();
    }

    /// <summary>As <see cref="AddUsed"/>, but the driver does not see it before <see cref="PublishUsed"/>: several at once.</summary>
    public void StageUsed(ushort head, uint written)
    {
        var element = _memory.Slice(UsedRing + RingHeader + (ulong)UsedElementSize * (ulong)(_nextUsed & (Size - 1)), UsedElementSize);
        BinaryPrimitives.WriteUInt32LittleEndian(element, head);
        BinaryPrimitives.WriteUInt32LittleEndian(element[4..], written);
        _nextUsed++;
    }

    public void PublishUsed() => WriteShared(UsedRing + 2, _nextUsed);

    /// <summary>Whether the driver wants an interrupt for what was added since the last time this said so.</summary>
    public bool TakeInterruptNeed()
    {
        // The index must be seen by the driver before we read what it wants: it writes that and looks at the index in the
        // other order (virtio 1.2, §2.7.7).
        Interlocked.MemoryBarrier();
        var before = _signalledUsed;
        var wasValid = _signalledValid;
        if (before == _nextUsed)
        {
            return false;
        }

        if (!UsesEventIndex)
        {
            _signalledUsed = _nextUsed;
            _signalledValid = true;
            return (ReadShared(AvailableRing) & NoInterrupt) == 0;
        }

        var wanted = ReadShared(AvailableRing + RingHeader + 2ul * Size);
        _signalledUsed = _nextUsed;
        _signalledValid = true;
        return !wasValid || (ushort)(_nextUsed - wanted - 1) < (ushort)(_nextUsed - before);
    }

    /// <summary>
    /// Asks to be notified of the next request behind so many that are known and were put back; true when one came in
    /// between and the caller has to look again.
    /// </summary>
    public bool AskForNotification(int known = 0)
    {
        var seen = (ushort)(_nextAvailable + known);
        if (UsesEventIndex)
        {
            WriteShared(UsedRing + RingHeader + (ulong)UsedElementSize * Size, seen);
            Interlocked.MemoryBarrier();
        }

        return ReadShared(AvailableRing + 2) != seen;
    }

    private void ReadChain(ushort head)
    {
        _readable = _count = 0;
        var (table, entries) = (DescriptorTable, (int)Size);
        var index = head;
        var writes = false;
        while (true)
        {
            if (index >= entries)
            {
                throw new VirtQueueException($"descriptor {index} of {entries}");
            }

            if (_count == _buffers.Length)
            {
                throw new VirtQueueException("a chain of descriptors that is longer than the queue");
            }

            var descriptor = _memory.Slice(table + (ulong)(DescriptorSize * index), DescriptorSize);
            var address = BinaryPrimitives.ReadUInt64LittleEndian(descriptor);
            var length = BinaryPrimitives.ReadUInt32LittleEndian(descriptor[8..]);
            var flags = BinaryPrimitives.ReadUInt16LittleEndian(descriptor[12..]);
            var next = BinaryPrimitives.ReadUInt16LittleEndian(descriptor[14..]);
            if ((flags & Indirect) != 0)
            {
                // Only as the whole of a chain: what Linux sends, and one table to check.
                if (!UsesIndirect || table != DescriptorTable || _count > 0 || (flags & HasNext) != 0)
                {
                    throw new VirtQueueException("an indirect descriptor where none may be");
                }

                if (length == 0 || length % DescriptorSize != 0 || length / DescriptorSize > (uint)MaxSize || !_memory.Contains(address, length))
                {
                    throw new VirtQueueException($"an indirect table of {length} bytes at 0x{address:x}, which is none or not in the guest's memory");
                }

                (table, entries, index) = (address, (int)(length / DescriptorSize), 0);
                if (table == DescriptorTable)
                {
                    throw new VirtQueueException("its descriptor table as an indirect one");
                }

                continue;
            }

            if (length > LongestBuffer || !_memory.Contains(address, length))
            {
                throw new VirtQueueException($"a buffer of {length} bytes at 0x{address:x}, which is not in the guest's memory");
            }

            var isWritable = (flags & DeviceWrites) != 0;
            if (writes && !isWritable)
            {
                throw new VirtQueueException("a buffer to read behind one to write");
            }

            _buffers[_count++] = new GuestBuffer(address, (int)length);
            _readable += isWritable ? 0 : 1;
            writes = isWritable;
            if ((flags & HasNext) == 0)
            {
                return;
            }

            index = next;
        }
    }

    private ushort ReadShared(ulong address) =>
        Volatile.Read(ref MemoryMarshal.AsRef<ushort>(_memory.Slice(address, sizeof(ushort))));

    private void WriteShared(ulong address, ushort value) =>
        Volatile.Write(ref MemoryMarshal.AsRef<ushort>(_memory.Slice(address, sizeof(ushort))), value);
}

/// <summary>The driver broke the rules of a queue; the device needs a reset.</summary>
internal sealed class VirtQueueException(string what) : DeviceBrokenException($"The guest's driver handed over {what}.");

/// <summary>A device can't go on before its driver has reset it.</summary>
internal class DeviceBrokenException(string message, Exception? inner = null) : Exception(message, inner);
