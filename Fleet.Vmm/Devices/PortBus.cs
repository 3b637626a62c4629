namespace Fleet.Vmm.Devices;

/// <summary>A device with 8-bit registers at I/O ports. Called from any vCPU's thread, so it locks for itself.</summary>
internal interface IPortDevice
{
    /// <summary>Reads the register at so many ports behind the device's first one.</summary>
    byte Read(int register);

    /// <summary>Writes bytes one after another to the same register (more than one when the guest uses a string instruction).</summary>
    void Write(int register, ReadOnlySpan<byte> values);
}

/// <summary>The machine's I/O ports. Where no device is, reads give ones, as on a bus that nobody drives, and writes vanish.</summary>
internal sealed class PortBus
{
    /// <summary>What nobody answers. Linux takes zeros for devices and searches on; it understands ones at once.</summary>
    private const byte Nobody = 0xff;

    private readonly Range[] _claims = new Range[8];
    private int _count;

    /// <summary>Gives <paramref name="device"/> the ports from <paramref name="first"/> on. Only while the machine is built.</summary>
    public void Claim(ushort first, int count, IPortDevice device)
    {
        for (var i = 0; i < _count; i++)
        {
            if (first < _claims[i].First + _claims[i].Count && _claims[i].First < first + count)
            {
                throw new InvalidOperationException($"port 0x{first:x} is taken");
            }
        }

        _claims[_count++] = new(first, count, device);
    }

    /// <summary>One IN instruction, or a string of them: fills <paramref name="data"/> with elements of <paramref name="size"/> bytes.</summary>
    public void Read(ushort port, int size, Span<byte> data)
    {
        for (var element = 0; element + size <= data.Length; element += size)
        {
            // A wide access to 8-bit registers is one access to each, as on the ISA bus.
            for (var i = 0; i < size; i++)
            {
                data[element + i] = Find(port + i, out var range) ? range.Device.Read(port + i - range.First) : Nobody;
            }
        }
    }

    /// <summary>One OUT instruction, or a string of them.</summary>
    public void Write(ushort port, int size, ReadOnlySpan<byte> data)
    {
        if (size == 1)
        {
            if (Find(port, out var range))
            {
                range.Device.Write(port - range.First, data);
            }

            return;
        }

        for (var element = 0; element + size <= data.Length; element += size)
        {
            for (var i = 0; i < size; i++)
            {
                if (Find(port + i, out var range))
                {
                    range.Device.Write(port + i - range.First, data.Slice(element + i, 1));
                }
            }
        }
    }

    private bool Find(int port, out Range range)
    {
        for (var i = 0; i < _count; i++)
        {
            range = _claims[i];
            if ((uint)(port - range.First) < (uint)range.Count)
            {
                return true;
            }
        }

        range = default;
        return false;
    }

    private readonly record struct Range(int First, int Count, IPortDevice Device);
}
