using Fleet.Vmm.Linux;
using Fleet.Vmm.Memory;

namespace Fleet.Vmm.Snapshots;

/// <summary>A guest's memory as a file: low memory, then high memory, as long as both, with holes where nothing is.</summary>
internal static unsafe class MemoryFile
{
    private const int PageSize = DirtyPages.PageSize;

    /// <summary>Pages of one look at what is there and of one write at most: 1 MiB. Low and high memory are multiples of it.</summary>
    private const int Batch = 256;

    /// <summary>Writes every page but those of zeros. Throws <see cref="SystemCallException"/>.</summary>
    public static void WriteAll(GuestMemory memory, NewFile file)
    {
        // Memory that came from nothing and was never touched needs no look: looking would fill it with page tables.
        var presence = new Presence(!memory.HasContent && !VirtualMemory.HasSwap);
        Write(memory, file, presence.IsPresent, presence.Look, keepZeros: false);
    }

    /// <summary>
    /// Writes every page that was written since the last snapshot, zeros too: a hole means that the page is as it was. Without
    /// a record of writes, every page that is in memory. Throws <see cref="SystemCallException"/> or <see cref="SnapshotException"/>.
    /// </summary>
    public static void WriteChanges(GuestMemory memory, NewFile file)
    {
        if (memory.Dirty is { } dirty)
        {
            Write(memory, file, dirty.IsDirty, static (_, _) => { }, keepZeros: true);
            return;
        }

        if (VirtualMemory.HasSwap)
        {
            throw new SnapshotException("a diff snapshot of a microVM without track_dirty_pages asks which pages are in memory, and this host has swap, where some may be. Switch swap off, or set track_dirty_pages");
        }

        var presence = new Presence(true);
        Write(memory, file, presence.IsPresent, presence.Look, keepZeros: true);
    }

    /// <summary>Puts what a file of changes has over a base. Throws <see cref="SystemCallException"/> or <see cref="SnapshotException"/>.</summary>
    public static void Merge(string changesPath, string basePath)
    {
        using var changes = new FileContent(changesPath);
        using var target = new DiskFile(basePath, readOnly: false);
        if (changes.Size != target.Size)
        {
            throw new SnapshotException($"{changesPath} has {changes.Size} bytes, {basePath} has {target.Size}: they are not of the same microVM");
        }

        var buffer = new byte[Batch * PageSize];
        for (ulong at = 0; changes.TryFindData(at, out var start, out var end); at = end)
        {
            for (var offset = start; offset < end;)
            {
                var part = buffer.AsSpan(0, (int)Math.Min((ulong)buffer.Length, end - offset));
                if (!changes.TryRead(offset, part))
                {
                    throw new SnapshotException($"{changesPath} became shorter while it was read");
                }

                if (!target.TryWrite(offset, part))
                {
                    throw SystemCallException.Last("write");
                }

                offset += (ulong)part.Length;
            }
        }

        if (!target.TryFlush())
        {
            throw SystemCallException.Last("fdatasync");
        }
    }

    private static void Write(GuestMemory memory, NewFile file, Func<ulong, bool> wanted, LookAt look, bool keepZeros)
    {
        file.SetLength(memory.Low.Size + memory.High.Size);
        WriteRange(memory.LowHost, memory.Low.Size, 0, file, wanted, look, keepZeros);
        if (memory.High.Size > 0)
        {
            WriteRange(memory.HighHost, memory.High.Size, memory.Low.Size, file, wanted, look, keepZeros);
        }
    }

    private static void WriteRange(byte* host, ulong size, ulong place, NewFile file, Func<ulong, bool> wanted, LookAt look, bool keepZeros)
    {
        for (ulong at = 0; at < size; at += Batch * PageSize)
        {
            look(host + at, (place + at) / PageSize);
            var run = 0;
            for (var i = 0; i <= Batch; i++)
            {
                // SAFETY: the range is a whole number of batches inside one mapping that outlives the call.
                var page = host + at + (ulong)i * PageSize;
                if (i < Batch && wanted((place + at) / PageSize + (ulong)i) && (keepZeros || new ReadOnlySpan<byte>(page, PageSize).ContainsAnyExcept((byte)0)))
                {
                    run++;
                }
                else if (run > 0)
                {
                    var length = run * PageSize;
                    file.Write(place + at + (ulong)i * PageSize - (ulong)length, new ReadOnlySpan<byte>(page - length, length));
                    run = 0;
                }
            }
        }
    }

    private delegate void LookAt(byte* host, ulong firstPage);

    /// <summary>Which pages of the batch that was looked at last are in memory.</summary>
    private sealed class Presence(bool asks)
    {
        private readonly byte[] _pages = new byte[Batch];
        private ulong _first;

        public void Look(byte* host, ulong firstPage)
        {
            _first = firstPage;
            if (asks)
            {
                // SAFETY: pinned, a byte per page of the batch.
                fixed (byte* pages = _pages)
                {
                    VirtualMemory.ReadResidency(host, Batch * PageSize, pages);
                }
            }
        }

        public bool IsPresent(ulong page) => !asks || (_pages[page - _first] & 1) != 0;
    }
}
