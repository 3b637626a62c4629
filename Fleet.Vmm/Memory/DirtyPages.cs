using Fleet.Vmm.Kvm;
using Fleet.Vmm.Linux;

namespace Fleet.Vmm.Memory;

/// <summary>
/// Which pages of a guest's memory were written since the last snapshot: a bit each, low memory first. Our own writes are
/// noted as they happen, the guest's are fetched from KVM. Costs a 32768th of the memory.
/// </summary>
internal sealed unsafe class DirtyPages : IDisposable
{
    public const int PageSize = 4096;
    private const int PageBits = 12;

    private readonly GuestMemory _memory;
    private readonly nuint _size;
    private ulong* _bits;
    private ulong* _log;

    /// <summary>Throws <see cref="SystemCallException"/> when the address space has no room.</summary>
    public DirtyPages(GuestMemory memory)
    {
        _memory = memory;
        Pages = (memory.Low.Size + memory.High.Size) >> PageBits;
        _size = Whole((nuint)((Pages + 7) / 8));
        _bits = (ulong*)VirtualMemory.Allocate(_size);
        try
        {
            _log = (ulong*)VirtualMemory.Allocate(_size);
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>Of the whole memory.</summary>
    public ulong Pages { get; }

    /// <summary>Notes a write of ours; the range was checked to be memory. Any thread.</summary>
    public void Note(ulong address, ulong length)
    {
        if (length == 0)
        {
            return;
        }

        var first = IndexOf(address);
        var last = IndexOf(address + length - 1);
        for (var page = first; page <= last; page++)
        {
            // SAFETY: the range lies in one piece of the memory, whose pages all have a bit.
            ref var word = ref _bits[page / 64];
            var bit = 1UL << (int)(page % 64);
            if ((Volatile.Read(ref word) & bit) == 0)
            {
                Interlocked.Or(ref word, bit);
            }
        }
    }

    /// <summary>Adds what the guest wrote since the last time. Not while it runs. Throws <see cref="SystemCallException"/>.</summary>
    public void Fetch(KvmVm vm)
    {
        Fetch(vm, 0, _memory.Low.Size, 0);
        if (_memory.High.Size > 0)
        {
            Fetch(vm, 1, _memory.High.Size, _memory.Low.Size >> PageBits);
        }
    }

    /// <summary>Whether a page was written.</summary>
    // SAFETY: guarded by the check.
    public bool IsDirty(ulong page) => page < Pages && (_bits[page / 64] & (1UL << (int)(page % 64))) != 0;

    /// <summary>A snapshot has them all: begins anew.</summary>
    // SAFETY: the mapping has exactly this size.
    public void Clear() => new Span<byte>(_bits, checked((int)_size)).Clear();

    public void Dispose()
    {
        if (_bits != null)
        {
            VirtualMemory.Unmap(_bits, _size);
            _bits = null;
        }

        if (_log != null)
        {
            VirtualMemory.Unmap(_log, _size);
            _log = null;
        }
    }

    private void Fetch(KvmVm vm, uint slot, ulong size, ulong firstPage)
    {
        vm.TakeDirtyLog(slot, _log);

        // SAFETY: low and high memory have a multiple of 64 pages (256 KiB), so a slot's log is whole words that begin at a
        // whole word; both mappings have room for all pages, and the kernel wrote no more than the slot has.
        var words = (size >> PageBits) / 64;
        for (ulong i = 0; i < words; i++)
        {
            _bits[firstPage / 64 + i] |= _log[i];
        }
    }

    private ulong IndexOf(ulong address) =>
        (address < _memory.Low.Size ? address : address - _memory.High.Start + _memory.Low.Size) >> PageBits;

    private static nuint Whole(nuint bytes) => (bytes + PageSize - 1) & ~(nuint)(PageSize - 1);
}
