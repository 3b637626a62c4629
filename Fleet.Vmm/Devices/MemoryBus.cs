namespace Fleet.Vmm.Devices;

/// <summary>A device with registers in the guest's address space. Called from any vCPU's thread, so it locks for itself.</summary>
internal interface IMemoryDevice
{
    /// <summary>Fills <paramref name="data"/> (1 to 8 bytes) from so far behind the device's first address.</summary>
    void Read(ulong offset, Span<byte> data);

    void Write(ulong offset, ReadOnlySpan<byte> data);
}

/// <summary>
/// What lies where no memory is. Devices have a page each, one behind the other, so finding one costs a division. Where no
/// device is, reads give ones, as on a bus that nobody drives, and writes vanish.
/// </summary>
internal sealed class MemoryBus(ulong start, int capacity)
{
    /// <summary>Bytes of each device's place.</summary>
    public const ulong PlaceSize = 0x1000;

    private const byte Nobody = 0xff;

    private readonly IMemoryDevice[] _devices = new IMemoryDevice[capacity];
    private int _count;

    /// <summary>Gives a device the next place; where that is. Only while the machine is built.</summary>
    public ulong Place(IMemoryDevice device)
    {
        _devices[_count] = device;
        return start + (ulong)_count++ * PlaceSize;
    }

    public void Read(ulong address, Span<byte> data)
    {
        if (Find(address, data.Length, out var offset) is { } device)
        {
            device.Read(offset, data);
        }
        else
        {
            data.Fill(Nobody);
        }
    }

    public void Write(ulong address, ReadOnlySpan<byte> data) => Find(address, data.Length, out var offset)?.Write(offset, data);

    private IMemoryDevice? Find(ulong address, int length, out ulong offset)
    {
        offset = (address - start) % PlaceSize;
        return address >= start && (address - start) / PlaceSize < (ulong)_count && offset + (ulong)length <= PlaceSize
            ? _devices[(address - start) / PlaceSize]
            : null;
    }
}
