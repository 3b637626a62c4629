using System.Buffers.Text;
using System.Globalization;
using System.Text;
using Fleet.Host.Drivers;

namespace Fleet.Host.Images.Oci;

/// <summary>What an entry of a layer is.</summary>
internal enum EntryKind
{
    File,
    Directory,
    Symlink,
    HardLink,
    Fifo,
}

/// <summary>
/// One entry of a layer. Names are bytes of any encoding, kept one to one as characters 0 to 255.
/// </summary>
/// <param name="Index">Its place among the entries of its layer.</param>
/// <param name="Path">As in the tar; nothing about it was checked but its length.</param>
/// <param name="Link">Target of a link.</param>
/// <param name="Mode">12 bits.</param>
/// <param name="Mtime">Seconds since 1970.</param>
/// <param name="Size">Bytes of a file.</param>
/// <param name="Xattrs">Extended attributes by their full names; null: none.</param>
internal sealed record LayerEntry(
    int Index, EntryKind Kind, string Path, string Link, ushort Mode, uint Uid, uint Gid, uint Mtime, long Size, IReadOnlyList<KeyValuePair<string, byte[]>>? Xattrs);

/// <summary>The bound on entries, and on the memory that their names and attributes take, which all layers of an image share.</summary>
internal sealed class EntryBudget(ImageLimits limits)
{
    /// <summary>What an attribute takes beside its bytes.</summary>
    private const int PerXattr = 96;

    private int _entries;
    private long _metadata;

    public void Take(string path, string link, IReadOnlyList<KeyValuePair<string, byte[]>>? xattrs)
    {
        if (Interlocked.Increment(ref _entries) > limits.Entries) throw ImageFault.Refused($"it has more than {limits.Entries} entries");
        var bytes = 2L * (path.Length + link.Length) + (xattrs?.Sum(one => PerXattr + 2L * one.Key.Length + one.Value.Length) ?? 0);
        if (Interlocked.Add(ref _metadata, bytes) > limits.Metadata)
            throw ImageFault.Refused($"its names and attributes take more than {limits.Metadata} bytes of memory");
    }
}

/// <summary>
/// Reads a tar as layers are made of: POSIX ustar with pax headers, and GNU's long names. Own, because the base library's reader makes text
/// of attribute values, which are bytes. Devices, sparse files and everything unknown are refused. Seeks only where the stream can.
/// </summary>
/// <param name="stream">At the tar's beginning.</param>
/// <param name="limits">How much is taken.</param>
/// <param name="budget">What all layers of the image share; null: this tar has one of its own.</param>
internal sealed class TarScanner(Stream stream, ImageLimits limits, EntryBudget? budget = null)
{
    private const int Block = 512, MostHeader = 1 << 20, MostXattrs = 1024, MostXattrBytes = 64 * 1024;
    private const string XattrKey = "SCHILY.xattr.";

    private readonly EntryBudget _budget = budget ?? new EntryBudget(limits);
    private readonly byte[] _header = new byte[Block];
    private readonly byte[] _skipped = new byte[64 * 1024];
    private long _left;
    private long _padding;
    private int _count;

    /// <summary>The next entry; null at the end. What was not read of the last one is passed over.</summary>
    public LayerEntry? Next()
    {
        Skip(_left);
        // umoci's layers end with the last byte of their last file.
        Skip(_padding, mayEnd: true);
        (_left, _padding) = (0, 0);
        var pax = new Extended();
        while (true)
        {
            if (!ReadHeader()) return null;
            var size = Number(124, 12);
            var type = (char)_header[156];
            switch (type)
            {
                case 'x':
                    pax.Read(Content(size));
                    continue;
                case 'g':
                    // Speaks of the archive as a whole: nothing of it is a file's.
                    Content(size);
                    continue;
                case 'L':
                    pax.Path ??= Terminated(Content(size));
                    continue;
                case 'K':
                    pax.Link ??= Terminated(Content(size));
                    continue;
                default:
                    return Entry(type, pax.Size ?? size, pax);
            }
        }
    }

    /// <summary>Bytes of the present file; 0 at its end.</summary>
    public int Read(Span<byte> buffer)
    {
        var wanted = (int)Math.Min(buffer.Length, _left);
        if (wanted == 0) return 0;
        var read = stream.Read(buffer[..wanted]);
        if (read == 0) throw CutShort();
        _left -= read;
        return read;
    }

    /// <summary>Fills the buffer, which must not be longer than what is left of the present file.</summary>
    public void ReadExactly(Span<byte> buffer)
    {
        for (var done = 0; done < buffer.Length;)
        {
            var read = Read(buffer[done..]);
            if (read == 0) throw CutShort();
            done += read;
        }
    }

    private LayerEntry Entry(char type, long size, Extended pax)
    {
        var path = pax.Path ?? NameOf();
        var link = pax.Link ?? Field(157, 100);
        var kind = type switch
        {
            '0' or '\0' or '7' when path.EndsWith('/') => EntryKind.Directory,
            '0' or '\0' or '7' => EntryKind.File,
            '1' => EntryKind.HardLink,
            '2' => EntryKind.Symlink,
            '5' => EntryKind.Directory,
            '6' => EntryKind.Fifo,
            '3' or '4' => throw ImageFault.Refused($"'{ImageFault.Show(path)}' is a device, and images bring none"),
            'S' => throw Sparse(path),
            _ => throw ImageFault.Refused($"'{ImageFault.Show(path)}' is of a kind ({(int)type}) that layers don't have"),
        };
        if (pax.Sparse) throw Sparse(path);
        if (path.Length > ImageLimits.Path || link.Length > ImageLimits.Path)
            throw ImageFault.Refused($"it has a name longer than {ImageLimits.Path} bytes");
        if (path.Contains('\0', StringComparison.Ordinal) || link.Contains('\0', StringComparison.Ordinal))
            throw ImageFault.Refused("it has a name with a zero byte");
        _budget.Take(path, link, pax.Xattrs);
        _left = kind == EntryKind.File ? size : 0;
        if (_left < 0 || _left > limits.Bytes) throw ImageFault.Refused($"'{ImageFault.Show(path)}' is larger than the {limits.Bytes} bytes that an image may have");
        _padding = -_left & (Block - 1);
        return new LayerEntry(
            _count++, kind, path, kind is EntryKind.Symlink or EntryKind.HardLink ? link : "", (ushort)(Number(100, 8) & 0xFFF),
            Id(pax.Uid ?? Number(108, 8)), Id(pax.Gid ?? Number(116, 8)), (uint)Math.Clamp(pax.Mtime ?? Number(136, 12), 0, uint.MaxValue), _left, pax.Xattrs);
    }

    /// <summary>False at the end: a block of zeroes, or no more bytes.</summary>
    private bool ReadHeader()
    {
        var read = stream.ReadAtLeast(_header, Block, throwOnEndOfStream: false);
        if (read == 0) return false;
        if (read < Block) throw CutShort();
        if (_header.AsSpan().IndexOfAnyExcept((byte)0) < 0) return false;
        long sum = 0, signed = 0;
        for (var i = 0; i < Block; i++)
        {
            var value = i is >= 148 and < 156 ? (byte)' ' : _header[i];
            sum += value;
            signed += (sbyte)value;
        }
        var wanted = Number(148, 8);
        return wanted == sum || wanted == signed ? true : throw ImageFault.Refused("a layer is no tar: a header's checksum is wrong");
    }

    private string NameOf()
    {
        var name = Field(0, 100);
        var prefix = _header.AsSpan(257, 6).SequenceEqual("ustar\0"u8) ? Field(345, 155) : "";
        return prefix.Length > 0 ? $"{prefix}/{name}" : name;
    }

    private string Field(int at, int length) => Terminated(_header.AsSpan(at, length));

    private static string Terminated(ReadOnlySpan<byte> bytes)
    {
        var end = bytes.IndexOf((byte)0);
        return Encoding.Latin1.GetString(end < 0 ? bytes : bytes[..end]);
    }

    // Octal digits, or GNU's and star's big-endian number with the first bit set.
    private long Number(int at, int length)
    {
        var field = _header.AsSpan(at, length);
        if ((field[0] & 0x80) != 0)
        {
            var negative = (field[0] & 0x40) != 0;
            long value = negative ? -1 : 0;
            for (var i = 0; i < length; i++)
            {
                var part = i == 0 ? negative ? field[0] : field[0] & 0x7F : field[i];
                if (value is > long.MaxValue >> 8 or < long.MinValue >> 8) throw ImageFault.Refused("a layer's header has a number that is too large");
                value = value << 8 | (byte)part;
            }
            return value;
        }
        var text = field.Trim((byte)' ').Trim((byte)0).Trim((byte)' ');
        long number = 0;
        foreach (var digit in text)
        {
            if (digit is < (byte)'0' or > (byte)'7') throw ImageFault.Refused("a layer's header has a number that is none");
            number = number << 3 | (uint)(digit - '0');
        }
        return number;
    }

    private static uint Id(long id) => id is >= 0 and < uint.MaxValue ? (uint)id : throw ImageFault.Refused($"it has a file of the owner {id}, which can't be");

    private byte[] Content(long size)
    {
        if (size is < 0 or > MostHeader) throw ImageFault.Refused($"a layer has a header longer than {MostHeader} bytes");
        var bytes = new byte[size];
        if (stream.ReadAtLeast(bytes, bytes.Length, throwOnEndOfStream: false) < bytes.Length) throw CutShort();
        Skip(-size & (Block - 1));
        return bytes;
    }

    private void Skip(long bytes, bool mayEnd = false)
    {
        if (stream.CanSeek)
        {
            var there = stream.Length - stream.Position;
            if (bytes > there && !mayEnd) throw CutShort();
            stream.Position += Math.Min(bytes, there);
            return;
        }
        while (bytes > 0)
        {
            var read = stream.Read(_skipped, 0, (int)Math.Min(bytes, _skipped.Length));
            if (read == 0 && mayEnd) return;
            if (read == 0) throw CutShort();
            bytes -= read;
        }
    }

    private static LaunchFailedException Sparse(string path) => ImageFault.Refused($"'{ImageFault.Show(path)}' is a sparse file in a form that layers don't have");

    private static LaunchFailedException CutShort() => ImageFault.Refused("a layer is cut short");

    /// <summary>What the pax header before an entry says of it.</summary>
    private sealed class Extended
    {
        private List<KeyValuePair<string, byte[]>>? _xattrs;
        private long _xattrBytes;

        public string? Path { get; set; }

        public string? Link { get; set; }

        public long? Size { get; private set; }

        public long? Uid { get; private set; }

        public long? Gid { get; private set; }

        public long? Mtime { get; private set; }

        public bool Sparse { get; private set; }

        public IReadOnlyList<KeyValuePair<string, byte[]>>? Xattrs => _xattrs;

        /// <summary>Records are "LENGTH KEY=VALUE\n", the length that of the whole record.</summary>
        public void Read(ReadOnlySpan<byte> records)
        {
            while (records.Length > 0)
            {
                if (!Utf8Parser.TryParse(records, out int length, out var digits) || length <= digits + 2 || length > records.Length
                    || records[digits] != ' ' || records[length - 1] != '\n')
                    throw ImageFault.Refused("a layer has a pax header that is none");
                var record = records[(digits + 1)..(length - 1)];
                var equals = record.IndexOf((byte)'=');
                if (equals <= 0) throw ImageFault.Refused("a layer has a pax header that is none");
                Take(Encoding.Latin1.GetString(record[..equals]), record[(equals + 1)..]);
                records = records[length..];
            }
        }

        private void Take(string key, ReadOnlySpan<byte> value)
        {
            switch (key)
            {
                case "path": Path = Encoding.Latin1.GetString(value); break;
                case "linkpath": Link = Encoding.Latin1.GetString(value); break;
                case "size": Size = Whole(value); break;
                case "uid": Uid = Whole(value); break;
                case "gid": Gid = Whole(value); break;
                case "mtime": Mtime = Seconds(value); break;
                case var sparse when sparse.StartsWith("GNU.sparse.", StringComparison.Ordinal): Sparse = true; break;
                case var xattr when xattr.StartsWith(XattrKey, StringComparison.Ordinal): AddXattr(xattr[XattrKey.Length..], value.ToArray()); break;
            }
        }

        private void AddXattr(string name, byte[] value)
        {
            _xattrBytes += name.Length + value.Length;
            if (name.Length > ImageLimits.Name || _xattrBytes > MostXattrBytes) throw ImageFault.Refused($"a file has more than {MostXattrBytes} bytes of extended attributes");
            (_xattrs ??= []).RemoveAll(one => one.Key == name);
            if (_xattrs.Count >= MostXattrs) throw ImageFault.Refused($"a file has more than {MostXattrs} extended attributes");
            _xattrs.Add(new(name, value));
        }

        private static long Whole(ReadOnlySpan<byte> value) =>
            Utf8Parser.TryParse(value, out long number, out var used) && used == value.Length && number >= 0 ? number : throw ImageFault.Refused("a pax header has a number that is none");

        private static long Seconds(ReadOnlySpan<byte> value) =>
            decimal.TryParse(Encoding.Latin1.GetString(value), NumberStyles.AllowLeadingSign | NumberStyles.AllowDecimalPoint, CultureInfo.InvariantCulture, out var time)
                ? (long)Math.Clamp(Math.Floor(time), 0, uint.MaxValue)
                : throw ImageFault.Refused("a pax header has a time that is none");
    }
}
