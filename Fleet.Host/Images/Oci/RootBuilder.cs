namespace Fleet.Host.Images.Oci;

/// <summary>
/// Makes the root file system of an image out of its layers. Every layer is read twice: first for what is in it, so that a hostile image is
/// known before a byte is written, then for the files that are left when all layers are one upon the other.
/// </summary>
internal static class RootBuilder
{
    private const int FileBuffer = 1 << 20;

    /// <summary>
    /// Writes <paramref name="target"/>, which must not exist, down to the disk. Throws <see cref="Drivers.LaunchFailedException"/> with
    /// <c>image_refused</c>, or what the disk says.
    /// </summary>
    /// <param name="layers">From the lowest up, as seekable files of bytes that are what their digests say.</param>
    /// <param name="diffIds">The digest of each unpacked.</param>
    /// <param name="target">A path.</param>
    /// <param name="limits">How much is taken.</param>
    /// <param name="roomFor">Asked every few MiB whether so many bytes more may be written; throws what ends it.</param>
    /// <param name="cancellation">Gives up.</param>
    public static void Build(
        IReadOnlyList<string> layers, IReadOnlyList<string> diffIds, string target, ImageLimits limits, Action<long> roomFor, CancellationToken cancellation)
    {
        var contents = ScanAll(layers, diffIds, limits, cancellation);
        var tree = new LayerTree(limits);
        for (var i = 0; i < contents.Length; i++)
        {
            tree.Apply(contents[i], cancellation);
            contents[i] = [];
        }
        using var file = new FileStream(target, new FileStreamOptions
        {
            Mode = FileMode.CreateNew, Access = FileAccess.Write, Share = FileShare.None, BufferSize = FileBuffer,
            UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        });
        var writer = new SquashfsWriter(file, roomFor);
        var wanted = FilesOf(tree.Root, layers.Count);
        for (var i = 0; i < layers.Count; i++)
        {
            if (wanted[i].Count > 0) Write(layers[i], wanted[i], writer, limits, cancellation);
        }
        writer.Finish(tree.Root);
        file.Flush(flushToDisk: true);
    }

    private static IReadOnlyList<LayerEntry>[] ScanAll(IReadOnlyList<string> layers, IReadOnlyList<string> diffIds, ImageLimits limits, CancellationToken cancellation)
    {
        var contents = new IReadOnlyList<LayerEntry>[layers.Count];
        var budget = new ByteBudget(limits.Bytes);
        var entries = new EntryBudget(limits);
        try
        {
            Parallel.For(0, layers.Count, new ParallelOptions { MaxDegreeOfParallelism = Environment.ProcessorCount, CancellationToken = cancellation }, i =>
                contents[i] = Scan(layers[i], diffIds[i], budget, entries, limits, cancellation));
        }
        catch (AggregateException several)
        {
            System.Runtime.ExceptionServices.ExceptionDispatchInfo.Throw(several.InnerExceptions[0]);
        }
        return contents;
    }

    private static List<LayerEntry> Scan(string layer, string diffId, ByteBudget budget, EntryBudget shared, ImageLimits limits, CancellationToken cancellation)
    {
        using var stream = LayerStream.Open(File.OpenRead(layer), budget, hashed: true, cancellation);
        var scanner = new TarScanner(stream, limits, shared);
        var entries = new List<LayerEntry>();
        while (scanner.Next() is { } entry) entries.Add(entry);
        if (stream.Digest() != diffId) throw ImageFault.Refused($"a layer unpacked is not {diffId}, as its configuration says");
        return entries;
    }

    private static void Write(string layer, Dictionary<int, Inode> wanted, SquashfsWriter writer, ImageLimits limits, CancellationToken cancellation)
    {
        using var stream = LayerStream.Open(File.OpenRead(layer), null, hashed: false, cancellation);
        var scanner = new TarScanner(stream, limits);
        var left = wanted.Count;
        while (left > 0 && scanner.Next() is { } entry)
        {
            if (!wanted.TryGetValue(entry.Index, out var inode)) continue;
            writer.WriteFile(inode, scanner);
            left--;
        }
    }

    /// <summary>Of each layer the files that are left, by their places in it.</summary>
    private static Dictionary<int, Inode>[] FilesOf(Inode root, int layers)
    {
        var files = new Dictionary<int, Inode>[layers];
        for (var i = 0; i < layers; i++) files[i] = [];
        var folders = new Stack<Inode>([root]);
        while (folders.TryPop(out var folder))
        {
            foreach (var child in folder.Children!.Values)
            {
                if (child.Children is not null) folders.Push(child);
                else if (child.Kind == EntryKind.File) files[child.Layer][child.Entry] = child;
            }
        }
        return files;
    }
}
