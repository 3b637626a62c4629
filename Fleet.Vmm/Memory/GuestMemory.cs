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

    /// <summary>vm.max_map_count allows a process some 65,000 mappings, and each piece makes two more.</summary>
    private const int MostReplacedPieces = 8192;

    private const ulong SmallestReplacedPiece = 2 << 20;

    private readonly bool _isFile;
    private int _replacedPieces;
    private byte* _low;
    private byte* _high;

    /// <summary>Bytes must be a positive multiple of 1 MiB. Throws <see cref="SystemCallException"/> when the address space has no room.</summary>
    /// <param name="bytes">Low and high memory together.</param>
    /// <param name="content">
    /// A file of so many bytes, low memory first, which is what the guest finds in its memory; it must not change as long as
    /// this lives, and is not changed by the guest. Null: zeros.
    /// </param>
    public GuestMemory(ulong bytes, FileContent? content = null)
    {
        ArgumentOutOfRangeException.ThrowIfZero(bytes);
        ArgumentOutOfRangeException.ThrowIfNotEqual(bytes % (1 << 20), 0UL);
        Low = new MemoryRange(0, Math.Min(bytes, HoleStart));
        High = new MemoryRange(HoleEnd, bytes - Low.Size);
        _isFile = HasContent = content is not null;
        try
        {
            _low = VirtualMemory.Allocate((nuint)Low.Size);
            content?.MapOver(_low, Low.Size, 0);
            if (High.Size > 0)
            {
                _high = VirtualMemory.Allocate((nuint)High.Size);
                content?.MapOver(_high, High.Size, Low.Size);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>What the guest did not touch comes from a file or a page fault handler: it need not be zeros.</summary>
    public bool HasContent { get; set; }

    /// <summary>Pages that were written since the last snapshot, by us; the guest's own writes are in KVM's log. Null: nobody wants to know.</summary>
    public DirtyPages? Dirty { get; private set; }

    /// <summary>From now on every write of ours is noted. Before the guest runs.</summary>
    public void Track() => Dirty ??= new DirtyPages(this);

    public MemoryRange Low { get; }

    /// <summary>Empty when everything fits below the hole.</summary>
    public MemoryRange High { get; }

    /// <summary>Where low memory lies in this process; for KVM's memory slot.</summary>
    public byte* LowHost => _low;

    /// <summary>Where high memory lies in this process; null when there is none.</summary>
    public byte* HighHost => _high;

    /// <summary>Whether the whole range is memory; what is then done with it has to look at it through <see cref="Slice"/> all the same.</summary>
    public bool Contains(ulong address, ulong length) => TryFind(address, length) != null;

    /// <summary>The bytes at a guest address, to be written. Valid until <see cref="Dispose"/>; the guest may change them at any time.</summary>
    public Span<byte> Slice(ulong address, int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);
        var host = Find(address, (ulong)length);
        Dirty?.Note(address, (ulong)length);

        // SAFETY: Find answers only for a range that lies wholly inside one mapping.
        return new Span<byte>(host, length);
    }

    /// <summary>As <see cref="Slice"/>, for who only reads: the pages do not count as written.</summary>
    public ReadOnlySpan<byte> View(ulong address, int length)
    {
        ArgumentOutOfRangeException.ThrowIfNegative(length);

        // SAFETY: as Slice.
        return new ReadOnlySpan<byte>(Find(address, (ulong)length), length);
    }

    /// <summary>Where the bytes at a guest address lie in this process, for a system call; as <see cref="Slice"/>.</summary>
    /// <param name="address">The guest's.</param>
    /// <param name="length">Bytes.</param>
    /// <param name="writes">The call writes there.</param>
    public byte* Locate(ulong address, ulong length, bool writes)
    {
        var host = Find(address, length);
        if (writes)
        {
            Dirty?.Note(address, length);
        }

        return host;
    }

    /// <summary>
    /// Gives the whole pages of a range back to the host. The guest, which counts on nothing there (virtio 1.2, §5.5.6.3 and
    /// §5.5.6.7), finds zeros when it uses them again, or of a file what the file has. False when the range is not in the
    /// guest's memory, or the host refuses.
    /// </summary>
    public bool TryGiveBack(ulong address, ulong length)
    {
        var start = TryFind(address, length);

        // Guest and host addresses lie alike within a page.
        var skip = (PageSize - (address & (PageSize - 1))) & (PageSize - 1);
        if (start == null || length < skip + PageSize)
        {
            return start != null;
        }

        // Another content from now on, which the next diff has to have. Pages of a file come back by reading it: in large
        // pieces zeros are cheaper, but each piece splits the mapping.
        var size = (length - skip) & ~(PageSize - 1);
        Dirty?.Note(address + skip, size);
        if (_isFile && size >= SmallestReplacedPiece && _replacedPieces < MostReplacedPieces)
        {
            _replacedPieces++;
            return VirtualMemory.TryReplace(start + skip, (nuint)size);
        }

        return VirtualMemory.TryDrop(start + skip, (nuint)size);
    }

    public void Write(ulong address, ReadOnlySpan<byte> bytes) => bytes.CopyTo(Slice(address, bytes.Length));

    public void WriteUInt64(ulong address, ulong value) => BinaryPrimitives.WriteUInt64LittleEndian(Slice(address, sizeof(ulong)), value);

    /// <summary>Fills from a file; false when the file does not have the range (any more).</summary>
    public bool TryLoad(FileContent file, ulong offset, ulong address, ulong length)
    {
        var host = Find(address, length);
        Dirty?.Note(address, length);

        // SAFETY: as Slice; the file is never asked for more than the length.
        return file.TryRead(offset, host, length);
    }

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

        Dirty?.Dispose();
        Dirty = null;
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
