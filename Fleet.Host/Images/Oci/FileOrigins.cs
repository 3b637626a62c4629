using System.Text.Json.Nodes;
using Fleet.Host.Drivers.Processes;
using Fleet.Shared.Vms;

namespace Fleet.Host.Images.Oci;

/// <summary>
/// Files of an image on this host, which everybody on it may read: whoever may create a microVM names them, and the microVM shows what is in them.
/// </summary>
internal static class ImageFile
{
    public static FileStream Open(string path, string what)
    {
        try
        {
            return new FileStream(Posix.OpenAsNobody(path), FileAccess.Read);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException or ArgumentException)
        {
            throw ImageFault.NotFound($"On this host there is no {what} {ImageFault.Show(path)} that everybody may read.");
        }
    }
}

/// <summary>A folder in the OCI image layout.</summary>
internal sealed class LayoutOrigin(ImageReference reference) : IImageOrigin
{
    public async Task<byte[]> ReadManifestAsync(string? digest, CancellationToken cancellation)
    {
        if (digest is not null) return await ReadBlobAsync(digest, cancellation).ConfigureAwait(false);
        await using var file = ImageFile.Open(Path.Combine(reference.Path, "index.json"), "image index");
        var images = ImageDocuments.ReadLayoutIndex(await ImageDocument.ReadAsync(file, "index.json", cancellation).ConfigureAwait(false));
        var fitting = images.Where(image => reference.Tag.Length == 0 || image.Name == reference.Tag).ToArray();
        return fitting.Length switch
        {
            1 => await ReadBlobAsync(fitting[0].Manifest.Digest, cancellation).ConfigureAwait(false),
            0 => throw ImageFault.NotFound($"{reference.Path} has no image {ImageFault.Show(reference.Tag)}."),
            _ => throw ImageFault.NotFound($"{reference.Path} has {fitting.Length} images; say which: oci:{reference.Path}:NAME."),
        };
    }

    public Task<BlobBytes> OpenBlobAsync(Descriptor blob, long from, CancellationToken cancellation)
    {
        var file = ImageFile.Open(Path.Combine(reference.Path, "blobs", "sha256", blob.Hex), "blob");
        file.Position = from;
        return Task.FromResult(new BlobBytes(file, from));
    }

    public void Dispose()
    {
    }

    private async Task<byte[]> ReadBlobAsync(string digest, CancellationToken cancellation)
    {
        using var blob = await OpenBlobAsync(new Descriptor(digest, 0, ""), 0, cancellation).ConfigureAwait(false);
        return ImageDocument.Verified(await ImageDocument.ReadAsync(blob.Stream, "manifest", cancellation).ConfigureAwait(false), digest, "manifest");
    }
}

/// <summary>
/// A tar as <c>docker save</c> writes it. It has no manifest as registries have; one is made up in which every layer is named by the digest of
/// what it unpacks to, and is given unpacked.
/// </summary>
internal sealed class ArchiveOrigin(ImageReference reference, ImageLimits limits) : IImageOrigin
{
    private const int MostLinks = 8;

    private readonly FileStream _file = ImageFile.Open(reference.Path, "image archive");
    private readonly Dictionary<string, (long At, long Size)> _files = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> _links = new(StringComparer.Ordinal);
    private readonly Dictionary<string, string> _blobs = new(StringComparer.Ordinal);

    public async Task<byte[]> ReadManifestAsync(string? digest, CancellationToken cancellation)
    {
        var (config, diffs, layers) = await FindAsync(cancellation).ConfigureAwait(false);
        var manifest = new JsonObject
        {
            ["schemaVersion"] = 2,
            ["config"] = new JsonObject { ["digest"] = ImageDocument.DigestOf(config), ["size"] = config.Length },
            ["layers"] = new JsonArray([.. diffs.Select((diff, i) => (JsonNode)new JsonObject { ["digest"] = diff, ["size"] = Unpacked(layers[i], cancellation) })]),
        };
        return System.Text.Encoding.UTF8.GetBytes(manifest.ToJsonString());
    }

    public async Task<BlobBytes> OpenBlobAsync(Descriptor blob, long from, CancellationToken cancellation)
    {
        if (_blobs.Count == 0) await FindAsync(cancellation).ConfigureAwait(false);
        if (!_blobs.TryGetValue(blob.Digest, out var name)) throw ImageFault.Refused($"its archive has no {blob.Digest}");
        return new BlobBytes(OpenLayer(name, cancellation), 0);
    }

    public void Dispose() => _file.Dispose();

    private async Task<(byte[] Config, IReadOnlyList<string> Diffs, IReadOnlyList<string> Layers)> FindAsync(CancellationToken cancellation)
    {
        if (_files.Count == 0) Index(cancellation);
        var images = ImageDocuments.ReadArchiveManifest(await ReadAsync("manifest.json", cancellation).ConfigureAwait(false));
        var fitting = images.Where(image => reference.Tag.Length == 0 || image.Names.Contains(reference.Tag)).ToArray();
        if (fitting.Length == 0)
            throw ImageFault.NotFound($"{reference.Path} has no image{(reference.Tag.Length > 0 ? " " : "")}{reference.Tag}; `tar -xOf {reference.Path} manifest.json` shows what it has.");
        if (fitting.Length > 1)
            throw ImageFault.NotFound($"{reference.Path} has {fitting.Length} images; say which: docker-archive:{reference.Path}:NAME:TAG.");
        var image = fitting[0];
        var config = await ReadAsync(image.Config, cancellation).ConfigureAwait(false);
        var diffs = ImageDocuments.ReadConfig(config, image.Layers.Count).DiffIds;
        _blobs[ImageDocument.DigestOf(config)] = image.Config;
        for (var i = 0; i < diffs.Count; i++) _blobs[diffs[i]] = image.Layers[i];
        return (config, diffs, image.Layers);
    }

    private void Index(CancellationToken cancellation)
    {
        _file.Position = 0;
        var scanner = new TarScanner(_file, limits);
        while (scanner.Next() is { } entry)
        {
            cancellation.ThrowIfCancellationRequested();
            var name = entry.Path.StartsWith("./", StringComparison.Ordinal) ? entry.Path[2..] : entry.Path;
            if (entry.Kind == EntryKind.File) _files[name] = (_file.Position, entry.Size);
            else if (entry.Kind == EntryKind.Symlink) _links[name] = Resolve(name, entry.Link);
            else if (entry.Kind == EntryKind.HardLink) _links[name] = entry.Link;
        }
    }

    private static string Resolve(string name, string link)
    {
        var parts = new List<string>(name.Split('/')[..^1]);
        foreach (var part in link.Split('/'))
        {
            if (part != "..") parts.Add(part);
            else if (parts.Count > 0) parts.RemoveAt(parts.Count - 1);
        }
        return string.Join('/', parts);
    }

    private async Task<byte[]> ReadAsync(string name, CancellationToken cancellation)
    {
        await using var part = OpenMember(name);
        return await ImageDocument.ReadAsync(part, name.Length > 100 ? "configuration" : ImageFault.Show(name), cancellation).ConfigureAwait(false);
    }

    private LayerStream OpenLayer(string name, CancellationToken cancellation) => LayerStream.Open(OpenMember(name), new ByteBudget(limits.Bytes), hashed: false, cancellation);

    private long Unpacked(string name, CancellationToken cancellation)
    {
        using var layer = OpenLayer(name, cancellation);
        var buffer = new byte[256 * 1024];
        long bytes = 0;
        for (int read; (read = layer.Read(buffer)) > 0;) bytes += read;
        return bytes;
    }

    private PartOfFile OpenMember(string name)
    {
        for (var links = 0; links < MostLinks; links++)
        {
            if (_files.TryGetValue(name, out var place)) return new PartOfFile(_file, place.At, place.Size);
            if (!_links.TryGetValue(name, out var target)) break;
            name = target;
        }
        throw ImageFault.Refused($"its archive has no {ImageFault.Show(name)}");
    }

    /// <summary>Some bytes of a file that others read as well.</summary>
    private sealed class PartOfFile(FileStream file, long start, long length) : ForwardStream
    {
        private long _at;

        public override int Read(Span<byte> buffer)
        {
            var read = RandomAccess.Read(file.SafeFileHandle, buffer[..(int)Math.Min(buffer.Length, length - _at)], start + _at);
            _at += read;
            return read;
        }

        public override bool CanSeek => true;

        public override long Length => length;

        public override long Position
        {
            get => _at;
            set => _at = value;
        }
    }
}
