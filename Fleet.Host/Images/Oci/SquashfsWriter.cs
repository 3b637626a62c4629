using System.Buffers;
using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace Fleet.Host.Images.Oci;

/// <summary>
/// Writes a squashfs (4.0; layout: the kernel's fs/squashfs/squashfs_fs.h) that Linux mounts. The same tree gives the same bytes: names are sorted,
/// there is no time of making. Nothing is compressed: the guest reads it faster, and it is made as fast as the disk writes. Blocks
/// of zeroes take no room.
/// </summary>
/// <remarks>Files first, each once, by <see cref="WriteFile"/>; then <see cref="Finish"/>.</remarks>
internal sealed class SquashfsWriter
{
    /// <summary>Raise it with every change of what is written, so that hosts make their files anew.</summary>
    public const int FormatVersion = 1;

    private const int LookEvery = 4 << 20, BlockBytes = 128 * 1024, BlockLog = 17, SuperblockBytes = 96, Alignment = 4096;
    private const uint Uncompressed = 1 << 24, NoFragment = uint.MaxValue, NoXattr = uint.MaxValue;
    private const ulong NoTable = ulong.MaxValue;
    private const int MostOwners = 65535, MostInHeader = 256;
    private const ushort ZlibCompression = 1;

    // Inodes, data, fragments, attributes and owners uncompressed; no fragments.
    private const ushort Flags = 0x0001 | 0x0002 | 0x0008 | 0x0010 | 0x0100 | 0x0800, NoXattrsFlag = 0x0200;

    private static readonly string[] XattrPrefixes = ["user.", "trusted.", "security."];

    private readonly Stream _output;
    private readonly Action<long> _roomFor;
    private readonly byte[] _block = new byte[BlockBytes];
    private readonly Dictionary<Inode, FileBlocks> _files = new(ReferenceEqualityComparer.Instance);
    private readonly Dictionary<Inode, Written> _written = new(ReferenceEqualityComparer.Instance);
    private readonly Dictionary<uint, ushort> _owners = [];
    private readonly Dictionary<string, uint> _xattrSets = new(StringComparer.Ordinal);
    private readonly MetadataTable _inodes = new(), _folders = new(), _xattrs = new(), _xattrIds = new();
    private long _position = SuperblockBytes, _looked;

    private sealed record FileBlocks(long Start, uint[] Sizes, long Holes);

    private sealed class Written
    {
        public uint Number { get; init; }

        public uint Names { get; set; }

        /// <summary>Of its inode; null: not written yet.</summary>
        public (long Block, int Offset)? At { get; set; }
    }

    /// <param name="output">An empty file; positioned anywhere behind it when done.</param>
    /// <param name="roomFor">Asked every few MiB whether so many bytes more may be written; throws what ends it.</param>
    public SquashfsWriter(Stream output, Action<long> roomFor)
    {
        _output = output;
        _roomFor = roomFor;
        _output.Write(new byte[SuperblockBytes]);
    }

    /// <summary>Bytes written so far.</summary>
    public long Length => _position;

    /// <summary>Takes a file's content, which the tar is at.</summary>
    public void WriteFile(Inode file, TarScanner content)
    {
        var sizes = new uint[(file.Size + BlockBytes - 1) / BlockBytes];
        var start = _position;
        long holes = 0, left = file.Size;
        for (var i = 0; i < sizes.Length; i++)
        {
            var block = _block.AsSpan(0, (int)Math.Min(left, BlockBytes));
            content.ReadExactly(block);
            left -= block.Length;
            if (block.IndexOfAnyExcept((byte)0) < 0)
            {
                holes += block.Length;
                continue;
            }
            Write(block);
            sizes[i] = (uint)block.Length | Uncompressed;
        }
        _files.Add(file, new FileBlocks(start, sizes, holes));
    }

    /// <summary>Writes everything but the files' content.</summary>
    public void Finish(Inode root)
    {
        Count(root);
        WriteInode(root, (uint)_written.Count + 1);

        var inodeTable = _position;
        Write(_inodes.Finished());
        var folderTable = _position;
        Write(_folders.Finished());

        var owners = new MetadataTable();
        foreach (var (owner, _) in _owners.OrderBy(pair => pair.Value)) owners.Add(owner);
        var ownerTable = WriteIndexed(owners, header: []);

        var xattrTable = NoTable;
        if (_xattrSets.Count > 0)
        {
            Span<byte> header = stackalloc byte[16];
            BinaryPrimitives.WriteUInt64LittleEndian(header, (ulong)_position);
            BinaryPrimitives.WriteUInt32LittleEndian(header[8..], (uint)_xattrSets.Count);
            header[12..].Clear();
            Write(_xattrs.Finished());
            xattrTable = WriteIndexed(_xattrIds, header);
        }

        var used = _position;
        Write(new byte[-_position & (Alignment - 1)]);
        WriteSuperblock(_written[root].At!.Value, used, inodeTable, folderTable, ownerTable, xattrTable);
    }

    private void WriteSuperblock((long Block, int Offset) root, long used, long inodeTable, long folderTable, ulong ownerTable, ulong xattrTable)
    {
        var block = new byte[SuperblockBytes];
        var fields = new FieldWriter(block);
        fields.Add(0x73717368u);
        fields.Add((uint)_written.Count);
        fields.Add(0u); // when it was made
        fields.Add((uint)BlockBytes);
        fields.Add(0u); // fragments
        fields.Add(ZlibCompression);
        fields.Add((ushort)BlockLog);
        fields.Add((ushort)(Flags | (xattrTable == NoTable ? NoXattrsFlag : 0)));
        fields.Add((ushort)_owners.Count);
        fields.Add((ushort)4);
        fields.Add((ushort)0);
        fields.Add((ulong)root.Block << 16 | (uint)root.Offset);
        fields.Add((ulong)used);
        fields.Add(ownerTable);
        fields.Add(xattrTable);
        fields.Add((ulong)inodeTable);
        fields.Add((ulong)folderTable);
        fields.Add(NoTable); // fragments
        fields.Add(NoTable); // inodes by number, for NFS
        _output.Position = 0;
        _output.Write(block);
    }

    /// <summary>Numbers every inode, folders before what is in them, and counts its names.</summary>
    private void Count(Inode node)
    {
        if (_written.TryGetValue(node, out var known))
        {
            known.Names++;
            return;
        }
        _written.Add(node, new Written { Number = (uint)_written.Count + 1, Names = node.Children is null ? 1u : 2u + (uint)node.Children.Values.Count(child => child.Children is not null) });
        if (node.Children is null) return;
        foreach (var (_, child) in Sorted(node)) Count(child);
    }

    private void WriteInode(Inode node, uint parent)
    {
        var written = _written[node];
        if (written.At is not null) return;
        var (listing, bytes) = node.Children is null ? default : WriteFolder(node, written.Number);
        // Before its place is known: what it has of other tables goes there now.
        var owner = Owner(node.Uid);
        var group = Owner(node.Gid);
        var xattrs = Xattrs(node.Xattrs);
        written.At = _inodes.Position;
        _inodes.Add(TypeOf(node, extended: true));
        _inodes.Add(node.Mode);
        _inodes.Add(owner);
        _inodes.Add(group);
        _inodes.Add(node.Mtime);
        _inodes.Add(written.Number);
        switch (node.Kind)
        {
            case EntryKind.Directory:
                _inodes.Add(written.Names);
                _inodes.Add((uint)bytes + 3); // as if "." and ".." stood in it
                _inodes.Add((uint)listing.Block);
                _inodes.Add(parent);
                _inodes.Add((ushort)0); // no index
                _inodes.Add((ushort)listing.Offset);
                _inodes.Add(xattrs);
                break;
            case EntryKind.File:
                var file = _files[node];
                _inodes.Add((ulong)file.Start);
                _inodes.Add((ulong)node.Size);
                _inodes.Add((ulong)file.Holes);
                _inodes.Add(written.Names);
                _inodes.Add(NoFragment);
                _inodes.Add(0u);
                _inodes.Add(xattrs);
                foreach (var size in file.Sizes) _inodes.Add(size);
                break;
            case EntryKind.Symlink:
                _inodes.Add(written.Names);
                _inodes.Add((uint)node.Target.Length);
                _inodes.Add(Encoding.Latin1.GetBytes(node.Target));
                _inodes.Add(xattrs);
                break;
            default:
                _inodes.Add(written.Names);
                _inodes.Add(xattrs);
                break;
        }
    }

    /// <summary>What is in a folder, then its list: a header for every run of entries whose inodes stand in one metadata block.</summary>
    private ((long Block, int Offset) Start, long Bytes) WriteFolder(Inode folder, uint number)
    {
        var entries = Sorted(folder);
        foreach (var (_, child) in entries) WriteInode(child, number);
        var start = _folders.Position;
        var before = _folders.Length;
        for (var i = 0; i < entries.Length;)
        {
            var first = _written[entries[i].Value];
            var end = i + 1;
            for (; end < entries.Length && end - i < MostInHeader; end++)
            {
                var next = _written[entries[end].Value];
                if (next.At!.Value.Block != first.At!.Value.Block || (long)next.Number - first.Number is < short.MinValue or > short.MaxValue) break;
            }
            _folders.Add((uint)(end - i - 1));
            _folders.Add((uint)first.At!.Value.Block);
            _folders.Add(first.Number);
            for (; i < end; i++)
            {
                var (name, child) = entries[i];
                var written = _written[child];
                _folders.Add((ushort)written.At!.Value.Offset);
                _folders.Add((ushort)(short)((long)written.Number - first.Number));
                _folders.Add(TypeOf(child, extended: false));
                _folders.Add((ushort)(name.Length - 1));
                _folders.Add(Encoding.Latin1.GetBytes(name));
            }
        }
        return (start, _folders.Length - before);
    }

    private static KeyValuePair<string, Inode>[] Sorted(Inode folder) => [.. folder.Children!.OrderBy(pair => pair.Key, StringComparer.Ordinal)];

    private static ushort TypeOf(Inode node, bool extended) => (ushort)((node.Kind switch
    {
        EntryKind.Directory => 1,
        EntryKind.File => 2,
        EntryKind.Symlink => 3,
        _ => 6,
    }) + (extended ? 7 : 0));

    private ushort Owner(uint id)
    {
        if (_owners.TryGetValue(id, out var known)) return known;
        if (_owners.Count >= MostOwners) throw ImageFault.Refused($"its files have more than {MostOwners} owners");
        return _owners[id] = (ushort)_owners.Count;
    }

    /// <summary>The number of a set of attributes. What squashfs can't hold, and what is overlayfs's own business, is left out as elsewhere.</summary>
    private uint Xattrs(IReadOnlyList<KeyValuePair<string, byte[]>>? all)
    {
        if (all is null) return NoXattr;
        var kept = all.Where(one => XattrPrefixes.Any(prefix => one.Key.StartsWith(prefix, StringComparison.Ordinal) && one.Key.Length > prefix.Length)
                && !one.Key.StartsWith("trusted.overlay.", StringComparison.Ordinal))
            .OrderBy(one => one.Key, StringComparer.Ordinal).ToArray();
        if (kept.Length == 0) return NoXattr;
        var key = KeyOf(kept);
        if (_xattrSets.TryGetValue(key, out var known)) return known;
        var (block, offset) = _xattrs.Position;
        foreach (var (name, value) in kept)
        {
            var type = Array.FindIndex(XattrPrefixes, prefix => name.StartsWith(prefix, StringComparison.Ordinal));
            var rest = Encoding.Latin1.GetBytes(name[XattrPrefixes[type].Length..]);
            _xattrs.Add((ushort)type);
            _xattrs.Add((ushort)rest.Length);
            _xattrs.Add(rest);
            _xattrs.Add((uint)value.Length);
            _xattrs.Add(value);
        }
        _xattrIds.Add((ulong)block << 16 | (uint)offset);
        _xattrIds.Add((uint)kept.Length);
        _xattrIds.Add((uint)kept.Sum(one => one.Key.Length + 1));
        return _xattrSets[key] = (uint)_xattrSets.Count;
    }

    /// <summary>A digest of a set of attributes: sets may be large, and many.</summary>
    private static string KeyOf(IEnumerable<KeyValuePair<string, byte[]>> xattrs)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        Span<byte> lengths = stackalloc byte[8];
        foreach (var (name, value) in xattrs)
        {
            BinaryPrimitives.WriteInt32LittleEndian(lengths, name.Length);
            BinaryPrimitives.WriteInt32LittleEndian(lengths[4..], value.Length);
            hash.AppendData(lengths);
            hash.AppendData(Encoding.Latin1.GetBytes(name));
            hash.AppendData(value);
        }
        return Convert.ToHexString(hash.GetHashAndReset());
    }

    /// <summary>A table, and behind it where each of its blocks stands; gives where that begins.</summary>
    private ulong WriteIndexed(MetadataTable table, ReadOnlySpan<byte> header)
    {
        var blocks = table.Finished();
        var index = new byte[8 * ((blocks.Length + MetadataTable.StoredBytes - 1) / MetadataTable.StoredBytes)];
        for (var i = 0; i < index.Length / 8; i++)
            BinaryPrimitives.WriteUInt64LittleEndian(index.AsSpan(8 * i), (ulong)_position + (ulong)i * MetadataTable.StoredBytes);
        Write(blocks);
        var at = (ulong)_position;
        Write(header);
        Write(index);
        return at;
    }

    private void Write(ReadOnlySpan<byte> bytes)
    {
        if (_position + bytes.Length - _looked >= LookEvery)
        {
            _roomFor(bytes.Length);
            _looked = _position + bytes.Length;
        }
        _output.Write(bytes);
        _position += bytes.Length;
    }

    /// <summary>Metadata in blocks of 8 KiB, each behind two bytes that give its length and say that it is not compressed.</summary>
    private sealed class MetadataTable
    {
        private const int Bytes = 8192;

        /// <summary>What a full block takes in the file.</summary>
        public const int StoredBytes = Bytes + 2;

        private readonly ArrayBufferWriter<byte> _content = new();

        public long Length => _content.WrittenCount;

        /// <summary>Where the next byte will be: its block's place in the file relative to the table's, and the place in the block.</summary>
        public (long Block, int Offset) Position => (Length / Bytes * StoredBytes, (int)(Length % Bytes));

        public void Add(ReadOnlySpan<byte> bytes) => _content.Write(bytes);

        public void Add(ushort value)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(_content.GetSpan(2), value);
            _content.Advance(2);
        }

        public void Add(uint value)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(_content.GetSpan(4), value);
            _content.Advance(4);
        }

        public void Add(ulong value)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(_content.GetSpan(8), value);
            _content.Advance(8);
        }

        public byte[] Finished()
        {
            var content = _content.WrittenSpan;
            var blocks = (content.Length + Bytes - 1) / Bytes;
            var stored = new byte[content.Length + 2 * blocks];
            for (var i = 0; i < blocks; i++)
            {
                var block = content.Slice(i * Bytes, Math.Min(Bytes, content.Length - i * Bytes));
                BinaryPrimitives.WriteUInt16LittleEndian(stored.AsSpan(i * StoredBytes), (ushort)(block.Length | 0x8000));
                block.CopyTo(stored.AsSpan(i * StoredBytes + 2));
            }
            return stored;
        }
    }

    private ref struct FieldWriter(Span<byte> rest)
    {
        private Span<byte> _rest = rest;

        public void Add(ushort value)
        {
            BinaryPrimitives.WriteUInt16LittleEndian(_rest, value);
            _rest = _rest[2..];
        }

        public void Add(uint value)
        {
            BinaryPrimitives.WriteUInt32LittleEndian(_rest, value);
            _rest = _rest[4..];
        }

        public void Add(ulong value)
        {
            BinaryPrimitives.WriteUInt64LittleEndian(_rest, value);
            _rest = _rest[8..];
        }
    }
}
