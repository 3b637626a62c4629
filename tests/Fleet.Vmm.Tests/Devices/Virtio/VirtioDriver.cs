using System.Buffers.Binary;
using Fleet.Vmm.Devices.Virtio;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Tests.Devices.Virtio;

/// <summary>The guest's side of a device: writes registers and rings as a driver does, or as one should not.</summary>
internal sealed class VirtioDriver : IDisposable
{
    public const ulong Descriptors = 0x10000;
    public const ulong Available = 0x20000;
    public const ulong Used = 0x30000;
    public const ulong Data = 0x40000;

    /// <summary>Rings of a queue lie so far behind those of the one before; descriptors are shared by all.</summary>
    public const ulong QueueStride = 0x1000;

    public const ushort QueueSize = 16;

    private readonly Queue<int> _notified = new();
    private bool _writes;
    private readonly ushort[] _available = new ushort[4];

    public VirtioDriver(Func<GuestMemory, VirtioDevice> device) =>
        Transport = new MmioTransport(device(Memory), Memory, () => Interrupts++, Later, Complaints.Add);

    /// <summary>For a transport of somebody else, who also hears what the device asks for.</summary>
    public VirtioDriver(Func<GuestMemory, MmioTransport> transport) => Transport = transport(Memory);

    public GuestMemory Memory { get; } = new(1 << 20);

    public MmioTransport Transport { get; }

    public int Interrupts { get; private set; }

    /// <summary>When the device wants to be called again, in the order in which it said so.</summary>
    public List<TimeSpan> Again { get; } = [];

    public List<string> Complaints { get; } = [];

    public ushort UsedIndex => UsedIndexOf(0);

    public uint Status => Read(0x70);

    public uint Read(ulong register)
    {
        Span<byte> data = stackalloc byte[4];
        Transport.Read(register, data);
        return BinaryPrimitives.ReadUInt32LittleEndian(data);
    }

    public void Write(ulong register, uint value)
    {
        Span<byte> data = stackalloc byte[4];
        BinaryPrimitives.WriteUInt32LittleEndian(data, value);
        _writes = true;
        Transport.Write(register, data);
        _writes = false;
        while (_notified.TryDequeue(out var queue))
        {
            Transport.Process(queue);
        }
    }

    /// <summary>Up to the word that the driver is ready.</summary>
    public void Begin(ulong features = VirtioDevice.Version1, int queues = 1)
    {
        Write(0x70, 1);
        Write(0x70, 3);
        for (var page = 0; page < 2; page++)
        {
            Write(0x24, (uint)page);
            Write(0x20, (uint)(features >> (32 * page)));
        }

        Write(0x70, 11);
        for (var queue = 0; queue < queues; queue++)
        {
            var stride = QueueStride * (ulong)queue;
            Write(0x30, (uint)queue);
            Write(0x38, QueueSize);
            Write(0x80, (uint)Descriptors);
            Write(0x90, (uint)(Available + stride));
            Write(0xa0, (uint)(Used + stride));
            Memory.Slice(Available + stride, 0x100).Clear();
            Memory.Slice(Used + stride, 0x100).Clear();
            _available[queue] = 0;
            Write(0x44, 1);
        }

        Write(0x70, 15);
    }

    public ushort UsedIndexOf(int queue) => BinaryPrimitives.ReadUInt16LittleEndian(Memory.Slice(Used + (QueueStride * (ulong)queue) + 2, 2));

    public void Descriptor(int index, ulong address, uint length, ushort flags = 0, ushort next = 0)
    {
        var at = Memory.Slice(Descriptors + (ulong)(16 * index), 16);
        BinaryPrimitives.WriteUInt64LittleEndian(at, address);
        BinaryPrimitives.WriteUInt32LittleEndian(at[8..], length);
        BinaryPrimitives.WriteUInt16LittleEndian(at[12..], flags);
        BinaryPrimitives.WriteUInt16LittleEndian(at[14..], next);
    }

    /// <summary>Offers a chain without telling the device.</summary>
    public void Offer(ushort head, int queue = 0)
    {
        var ring = Available + (QueueStride * (ulong)queue);
        BinaryPrimitives.WriteUInt16LittleEndian(Memory.Slice(ring + 4 + 2ul * (ulong)(_available[queue] % QueueSize), 2), head);
        BinaryPrimitives.WriteUInt16LittleEndian(Memory.Slice(ring + 2, 2), ++_available[queue]);
    }

    public void Notify(ushort head, int queue = 0)
    {
        Offer(head, queue);
        Write(MmioTransport.NotifyRegister, (uint)queue);
    }

    public (uint Head, uint Written) UsedEntry(int index, int queue = 0)
    {
        var at = Memory.Slice(Used + (QueueStride * (ulong)queue) + 4 + (ulong)(8 * (index % QueueSize)), 8);
        return (BinaryPrimitives.ReadUInt32LittleEndian(at), BinaryPrimitives.ReadUInt32LittleEndian(at[4..]));
    }

    // What a register asks for is done right behind the write, as the event loop would; what the device asks for is kept.
    private void Later(int queue, TimeSpan wait)
    {
        if (_writes)
        {
            _notified.Enqueue(queue);
        }
        else
        {
            Again.Add(wait);
        }
    }

    public void Dispose() => Memory.Dispose();
}
