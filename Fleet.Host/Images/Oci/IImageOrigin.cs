using System.Security.Cryptography;

namespace Fleet.Host.Images.Oci;

/// <summary>Where one image's documents and layers are read from. All errors are <see cref="Drivers.LaunchFailedException"/> or <see cref="TransientFault"/>.</summary>
internal interface IImageOrigin : IDisposable
{
    /// <summary>What the image's name leads to: a manifest or an index.</summary>
    /// <param name="digest">Of the one that is wanted; null: whatever the name says today.</param>
    /// <param name="cancellation">Gives up.</param>
    Task<byte[]> ReadManifestAsync(string? digest, CancellationToken cancellation);

    /// <summary>A blob from that byte on, or from the first, as <see cref="BlobBytes.From"/> says.</summary>
    Task<BlobBytes> OpenBlobAsync(Descriptor blob, long from, CancellationToken cancellation);
}

/// <summary>Bytes of a blob on their way.</summary>
internal sealed record BlobBytes(Stream Stream, long From) : IDisposable
{
    public void Dispose() => Stream.Dispose();
}

/// <summary>Something that may work when it is tried again.</summary>
/// <param name="message">For people.</param>
/// <param name="after">Not before; null: the caller knows.</param>
/// <param name="inner">What it came from.</param>
internal sealed class TransientFault(string message, TimeSpan? after = null, Exception? inner = null) : Exception(message, inner)
{
    public TimeSpan? After { get; } = after;

    /// <summary>It came further than the time before.</summary>
    public bool Progressed { get; init; }
}

/// <summary>Documents of images: small, read as a whole, and what their digests say.</summary>
internal static class ImageDocument
{
    public static string DigestOf(ReadOnlySpan<byte> bytes) => "sha256:" + Convert.ToHexStringLower(SHA256.HashData(bytes));

    public static async Task<byte[]> ReadAsync(Stream stream, string what, CancellationToken cancellation)
    {
        using var kept = new MemoryStream();
        var buffer = new byte[16 * 1024];
        int read;
        while ((read = await stream.ReadAsync(buffer, cancellation).ConfigureAwait(false)) > 0)
        {
            if (kept.Length + read > ImageLimits.Document) throw ImageFault.Refused($"its {what} is longer than {ImageLimits.Document} bytes");
            kept.Write(buffer, 0, read);
        }
        return kept.ToArray();
    }

    public static byte[] Verified(byte[] bytes, string? digest, string what) => digest is null || DigestOf(bytes) == digest
        ? bytes
        : throw ImageFault.Refused($"its {what} is not {digest}, as which it was asked for");
}
