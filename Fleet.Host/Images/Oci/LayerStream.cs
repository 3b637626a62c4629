using System.IO.Compression;
using System.Security.Cryptography;
using ZstdSharp;

namespace Fleet.Host.Images.Oci;

/// <summary>The bound on unpacked bytes that all layers of an image share.</summary>
internal sealed class ByteBudget(long bytes)
{
    private long _taken;

    public void Take(int count)
    {
        if (Interlocked.Add(ref _taken, count) > bytes) throw ImageFault.Refused($"it unpacks to more than {bytes} bytes");
    }
}

/// <summary>A layer unpacked: gzip, zstd or nothing, by its first bytes and not by what its name says. Read-only, forward only.</summary>
internal sealed class LayerStream : ForwardStream
{
    private readonly Stream _inner;
    private readonly ByteBudget? _budget;
    private readonly IncrementalHash? _hash;
    private readonly CancellationToken _cancellation;

    private LayerStream(Stream inner, ByteBudget? budget, bool hashed, CancellationToken cancellation)
    {
        _inner = inner;
        _budget = budget;
        _hash = hashed ? IncrementalHash.CreateHash(HashAlgorithmName.SHA256) : null;
        _cancellation = cancellation;
    }

    /// <param name="packed">A seekable stream at its beginning; the layer's from now on.</param>
    /// <param name="budget">What unpacked bytes are taken from; null: they were counted before.</param>
    /// <param name="hashed">Whether <see cref="Digest"/> will be asked for.</param>
    /// <param name="cancellation">Ends a read.</param>
    public static LayerStream Open(Stream packed, ByteBudget? budget, bool hashed, CancellationToken cancellation)
    {
        var start = packed.Position;
        Span<byte> magic = stackalloc byte[4];
        var length = packed.ReadAtLeast(magic, magic.Length, throwOnEndOfStream: false);
        packed.Position = start;
        Stream inner = packed;
        if (length >= 2 && magic[0] == 0x1f && magic[1] == 0x8b) inner = new GZipStream(packed, CompressionMode.Decompress);
        else if (length == 4 && magic.SequenceEqual((ReadOnlySpan<byte>)[0x28, 0xb5, 0x2f, 0xfd])) inner = new DecompressionStream(packed, leaveOpen: false);
        return new LayerStream(inner, budget, hashed, cancellation);
    }

    /// <summary>Reads what is left and gives the digest of everything.</summary>
    public string Digest()
    {
        var rest = new byte[64 * 1024];
        while (Read(rest, 0, rest.Length) > 0)
        {
        }
        return "sha256:" + Convert.ToHexStringLower(_hash!.GetHashAndReset());
    }

    public override int Read(Span<byte> buffer)
    {
        _cancellation.ThrowIfCancellationRequested();
        int read;
        try
        {
            read = _inner.Read(buffer);
        }
        catch (Exception broken) when (broken is InvalidDataException or ZstdException or EndOfStreamException)
        {
            throw ImageFault.Refused("a layer can't be unpacked", broken);
        }
        _budget?.Take(read);
        _hash?.AppendData(buffer[..read]);
        return read;
    }

    protected override void Dispose(bool disposing)
    {
        if (disposing)
        {
            _inner.Dispose();
            _hash?.Dispose();
        }
        base.Dispose(disposing);
    }
}
