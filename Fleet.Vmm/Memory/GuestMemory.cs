using System.Buffers.Binary;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Memory;

/// <summary>One piece of the guest's memory.</summary>
/// <param name="Start">Guest-physical address, page-aligned.</param>
/// <param name="Size">Bytes, a multiple of a page.</param>
internal readonly record struct MemoryRange(ulong Start, ulong Size)
{
    public ulong End => Start + Size;
}

/// <summary>
/// The guest's memory: up to 3 GiB from address 0, the rest from 4 GiB on, because devices live in between.
/// Addresses come from the guest or from a file: every access is checked here, and one that does not lie wholly in
/// one range throws <see cref="GuestMemoryException"/>.
/// </summary>
internal sealed unsafe class GuestMemory : IDisposable
{
    /// <summary>End of low memory, start of the devices' addresses.</summary>
    public const ulong HoleStart = 3UL << 30;

    /// <summary>End of the devices' addresses, start of high memory.</summary>
    public const ulong HoleEnd = 4UL << 30;

    private const ulong PageSize = 4096;

    private byte* _low;
    private byte* _high;

    /// <summary>Bytes must be a positive multiple of 1 MiB. Throws <see cref="SystemCallException"/> when the address space has no room.</summary>
    public GuestMemory(ulong bytes)
        : this(bytes, static (_, size) => (nint)VirtualMemory.Allocate(size))
    {
    }

    /// <summary>
    /// Memory with the content of a file, low memory first. Nothing is read before it is used, and what the guest writes is
    /// its own; the file must stay as it is. Throws <see cref="SystemCallException"/>.
    /// </summary>
    public GuestMemory(ulong bytes, FileContent file)
        : this(bytes, (offset, size) => (nint)file.Map(offset, size))
    {
    }

    private GuestMemory(ulong bytes, Func<ulong, nuint, nint> allocate)
    {
        ArgumentOutOfRangeException.ThrowIfZero(bytes);
        ArgumentOutOfRangeException.ThrowIfNotEqual(bytes % (1 << 20), 0UL);
        Low = new MemoryRange(0, Math.Min(bytes, HoleStart));
        High = new MemoryRange(HoleEnd, bytes - Low.Size);
        _low = (byte*)allocate(0, (nuint)Low.Size);
        if (High.Size > 0)
        {
            try
            {
                _high = (byte*)allocate(Low.Size, (nuint)High.Size);
            }
            catch
            {
                Dispose();
                throw;
            }
        }
    }

    public MemoryRange Low { get; }

    /// <summary>Empty when everything fits below the hole.</summary>
    public MemoryRange High { get; }

    /// <summary>Where low memory lies in this process; for KVM's memory slot.</summary>
    public byte* LowHost => _low;

    /// <summary>Where high memory lies in this process; null when there is none.</summary>
    public byte* HighHost => _high;

    /// <summary>Whether the whole range is memory; what is then done with it has to look at it through <see cref="Slice"/> all the same.</summary>
    public bool Contains(ulong address, ulong length) => TryFind(address, length) != null;

    /// <summary>The bytes at a guest address. Valid until <see cref="Dispose"/>; the guest may change them at any time.</summary>
    public Span<byte> Slice(ulong address, int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);

        // SAFETY: Find answers only for a range that lies wholly inside one mapping.
        return new Span<byte>(Find(address, (ulong)length), length);
    }

    /// <summary>Where the bytes at a guest address lie in this process, for a system call; as <see cref="Slice"/>.</summary>
    public byte* Locate(ulong address, ulong length) => Find(address, length);

    /// <summary>
    /// Gives the whole pages of a range back to the host; the guest finds zeros there when it uses them again. False when the
    /// range is not in the guest's memory, or the host refuses.
    /// </summary>
    public bool TryGiveBack(ulong address, ulong length)
    {
        var start = TryFind(address, length);

        // Guest and host addresses lie alike within a page.
        var skip = (PageSize - (address & (PageSize - 1))) & (PageSize - 1);
        return start != null && (length < skip + PageSize || VirtualMemory.TryDrop(start + skip, (nuint)((length - skip) & ~(PageSize - 1))));
    }

    public void Write(ulong address, ReadOnlySpan<byte> bytes) => bytes.CopyTo(Slice(address, bytes.Length));

    public void WriteUInt32(ulong address, uint value) => BinaryPrimitives.WriteUInt32LittleEndian(Slice(address, sizeof(uint)), value);

    public void WriteUInt64(ulong address, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(Slice(address, sizeof(ulong)), value);

    /// <summary>Fills from a file; false when the file does not have the range (any more).</summary>
    public bool TryLoad(FileContent file, ulong offset, ulong address, ulong length) =>

        // SAFETY: as Slice; the file is never asked for more than the length.
        file.TryRead(offset, Find(address, length), length);

    public void Dispose()
    {
        if (_low != null)
        {
            VirtualMemory.Unmap(_low, (nuint)Low.Size);
            _low = null;
        }

        if (_high != null)
        {
            VirtualMemory.Unmap(_high, (nuint)High.Size);
            _high = null;
        }
    }

    private byte* Find(ulong address, ulong length)
    {
        var host = TryFind(address, length);
        return host != null ? host : throw new GuestMemoryException(address, length);
    }

    private byte* TryFind(ulong address, ulong length)
    {
        // SAFETY: what is returned is followed by the whole length inside one mapping, which lives until Dispose. No sums of
        // what comes from outside: a sum could wrap round.
        if (address < Low.Size && length <= Low.Size - address)
        {
            return _low + address;
        }

        if (address >= High.Start && address - High.Start < High.Size && length <= High.Size - (address - High.Start))
        {
            return _high + (address - High.Start);
        }

        return null;
    }
}

/// <summary>An address that is not the guest's memory.</summary>
internal sealed class GuestMemoryException(ulong address, ulong length)
    : Exception($"{length} bytes at 0x{address:x} are not in the guest's memory");
