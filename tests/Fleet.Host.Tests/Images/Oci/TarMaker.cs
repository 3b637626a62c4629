using System.Globalization;
using System.IO.Compression;
using System.Security.Cryptography;
using System.Text;

namespace Fleet.Host.Tests.Images.Oci;

/// <summary>Makes tars as layers are, hostile ones included: nothing is checked. Names are characters 0 to 255, one byte each.</summary>
internal sealed class TarMaker
{
    private readonly List<byte> _tar = [];

    public TarMaker Folder(string path, int mode = 0x1ED, uint owner = 0) => Add('5', path, mode: mode, owner: owner);

    public TarMaker File(string path, byte[] content, int mode = 0x1A4, uint owner = 0, params (string Name, byte[] Value)[] xattrs) =>
        Add('0', path, content: content, mode: mode, owner: owner, xattrs: xattrs);

    public TarMaker File(string path, string content, int mode = 0x1A4) => File(path, Encoding.UTF8.GetBytes(content), mode);

    public TarMaker Symlink(string path, string target) => Add('2', path, target);

    public TarMaker HardLink(string path, string target) => Add('1', path, target);

    public TarMaker Add(
        char type, string path, string link = "", byte[]? content = null, int mode = 0x1A4, uint owner = 0, long mtime = 1_600_000_000,
        (string Name, byte[] Value)[]? xattrs = null, long? claimedSize = null)
    {
        var records = new MemoryStream();
        if (path.Length > 100) Record(records, "path", Encoding.Latin1.GetBytes(path));
        if (link.Length > 100) Record(records, "linkpath", Encoding.Latin1.GetBytes(link));
        foreach (var (name, value) in xattrs ?? []) Record(records, "SCHILY.xattr." + name, value);
        if (records.Length > 0) Raw('x', "pax", "", records.ToArray(), 0x1A4, 0, 0, null);
        Raw(type, Cut(path), Cut(link), content ?? [], mode, owner, mtime, claimedSize);
        return this;
    }

    public TarMaker Raw(char type, string path, string link, byte[] content, int mode, uint owner, long mtime, long? claimedSize)
    {
        var header = new byte[512];
        Encoding.Latin1.GetBytes(path).CopyTo(header, 0);
        Octal(header, 100, 8, mode);
        Octal(header, 108, 8, owner);
        Octal(header, 116, 8, owner);
        Octal(header, 124, 12, claimedSize ?? content.Length);
        Octal(header, 136, 12, mtime);
        header[156] = (byte)type;
        Encoding.Latin1.GetBytes(link).CopyTo(header, 157);
        "ustar\000"u8.CopyTo(header.AsSpan(257));
        header.AsSpan(148, 8).Fill((byte)' ');
        Octal(header, 148, 8, header.Sum(b => b));
        _tar.AddRange(header);
        _tar.AddRange(content);
        _tar.AddRange(new byte[-content.Length & 511]);
        return this;
    }

    /// <summary>The tar with its end.</summary>
    public byte[] ToArray() => [.. _tar.ToArray(), .. new byte[1024]];

    public static byte[] Gzip(byte[] bytes)
    {
        using var packed = new MemoryStream();
        using (var gzip = new GZipStream(packed, CompressionLevel.Fastest, leaveOpen: true)) gzip.Write(bytes);
        return packed.ToArray();
    }

    public static string Digest(byte[] bytes) => "sha256:" + Convert.ToHexStringLower(SHA256.HashData(bytes));

    private static string Cut(string name) => name.Length > 100 ? name[..100] : name;

    private static void Octal(byte[] header, int at, int length, long value) =>
        Encoding.ASCII.GetBytes(Convert.ToString(value, 8).PadLeft(length - 1, '0')).CopyTo(header, at);

    private static void Record(MemoryStream records, string key, byte[] value)
    {
        var rest = $" {key}=".Length + value.Length + 1;
        var length = rest + 1;
        while (rest + length.ToString(CultureInfo.InvariantCulture).Length != length) length++;
        records.Write(Encoding.Latin1.GetBytes($"{length} {key}="));
        records.Write(value);
        records.WriteByte((byte)'\n');
    }
}
