using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using Fleet.Host.Drivers;
using Fleet.Host.Volumes;
using Fleet.Shared.Files;
using Fleet.Shared.Vms;
using Microsoft.Win32.SafeHandles;
using Serilog;

namespace Fleet.Host.Images.Oci;

/// <summary>An image of which this host has everything.</summary>
/// <param name="Reference">Its name, in the one way to write it.</param>
/// <param name="Digest">Of the manifest that the name led to.</param>
/// <param name="Root">File name of its root file system; the same for every image of the same layers.</param>
/// <param name="Config">What it runs.</param>
public sealed record StoredImage(string Reference, string Digest, string Root, ImageRun Config);

/// <summary>What an image runs unless the microVM's spec says something else.</summary>
public sealed record ImageRun(
    IReadOnlyList<string> Entrypoint, IReadOnlyList<string> Cmd, IReadOnlyList<string> Env, string User, string WorkingDirectory, int StopSignal);

/// <summary>How far a pull is.</summary>
/// <param name="Bytes">Of its layers that are here.</param>
/// <param name="Total">Of its layers; 0: not known yet.</param>
/// <param name="Unpacking">They are all here, and the root file system is being made.</param>
public sealed record PullProgress(long Bytes, long Total, bool Unpacking);

/// <summary>How much a host keeps of images.</summary>
public sealed record ImageStoreOptions
{
    /// <summary>Bytes of layers and root file systems together; what is not in use goes first when there would be more.</summary>
    public long MaxBytes { get; init; } = 64L << 30;

    /// <summary>Bytes that stay free on the disk.</summary>
    public long KeptFree { get; init; } = 256L << 20;

    /// <summary>Longest pull.</summary>
    public TimeSpan PullLimit { get; init; } = TimeSpan.FromMinutes(30);

    public TimeProvider Clock { get; init; } = TimeProvider.System;

    public ILogger Log { get; init; } = Serilog.Core.Logger.None;

    internal ImageLimits Limits { get; init; } = ImageLimits.Default;

    internal RetryTerms Retries { get; init; } = RetryTerms.Default;
}

/// <summary>
/// The images of a host, by the digests of what is in them: <c>layers</c> as they travel, <c>roots</c> that microVMs boot, and
/// <c>names</c> that lead to them. A root is one read-only file for all microVMs of it: each has a hard link of its own in its folder, so that
/// the file lives as long as anything uses it, whatever is removed here, and whatever is killed when.
/// </summary>
/// <remarks>Everything is made under another name, brought to the disk and renamed. Of one host's agent, which holds the state directory, and of <c>fleet image</c> beside it.</remarks>
public sealed partial class ImageStore
{
    /// <summary>The host tells the control plane of so many of its images.</summary>
    public const int MostTold = 256;

    private const string Making = ".making-", Partial = ".part", RootEnd = ".squashfs";
    private const int LayersAtOnce = 3, UnpacksAtOnce = 2, RefusalsKept = 256, NoSpaceOnDevice = 28, DiskQuota = 122;

    /// <summary>Room for a layer is made so many bytes ahead: who claims that one is long has nothing removed for what does not come.</summary>
    private const int RoomAhead = 4 << 20;

    /// <summary>How often a layer is fetched again that another process removes as soon as it is here, and the pause before.</summary>
    private const int FetchesAgain = 3;
    private static readonly TimeSpan FetchPause = TimeSpan.FromMilliseconds(20);

    private readonly string _layers, _roots, _names, _fetching, _volumes;
    private readonly RegistryCredentials _credentials;
    private readonly ImageStoreOptions _options;
    private readonly ILogger _log;
    private readonly Lock _gate = new();
    // What an image may take of this process's memory while it is unpacked is bounded; so must be how many are.
    private readonly TenantTurns _unpacks = new(UnpacksAtOnce);
    private readonly RefusedRoots _refused = new(RefusalsKept);
    private int _changes;
    private readonly Dictionary<string, int> _wanted = new(StringComparer.Ordinal);
    private readonly SharedWork<StoredImage> _pulls = new();
    private readonly SharedWork<string> _blobs = new(), _builds = new();

    /// <param name="directory">A folder of the host's state directory: hard links lead from there to here, and volumes beside it have their room.</param>
    /// <param name="options">How much it keeps.</param>
    /// <exception cref="IOException">The folder can't be used.</exception>
    public ImageStore(string directory, ImageStoreOptions options)
    {
        ArgumentNullException.ThrowIfNull(options);
        (_layers, _roots, _names, _fetching) = (Path.Combine(directory, "layers"), Path.Combine(directory, "roots"), Path.Combine(directory, "names"), Path.Combine(directory, "fetching"));
        _volumes = VolumeStore.FolderBeside(directory);
        (_options, _credentials) = (options, new RegistryCredentials(directory));
        _log = options.Log.ForContext<ImageStore>();
        foreach (var folder in (string[])[_layers, _roots, _names, _fetching])
            Directory.CreateDirectory(folder);
    }

    /// <summary>Removes what a killed agent was making, and nothing that another process is making. What it was pulling stays, and is gone on with.</summary>
    public void RemoveLeftovers()
    {
        foreach (var folder in (string[])[_roots, _names])
        {
            foreach (var left in Directory.GetFiles(folder, Making + "*"))
            {
                using var held = FileLock.TryAcquire(LockOf(Path.GetFileName(left)), out _);
                if (held is not null) File.Delete(left);
            }
        }
        foreach (var left in Directory.GetFiles(_fetching))
        {
            // Not of a process that goes on.
            using var held = FileLock.TryAcquire(left, out _);
            if (held is not null) File.Delete(left);
        }
    }

    /// <summary>How often what <see cref="List"/> gives has changed by this store.</summary>
    public int Changes => Volatile.Read(ref _changes);

    /// <summary>The image, if everything of it is here.</summary>
    public StoredImage? Find(string reference)
    {
        if (ReadName(NameFile(Parse(reference).ToString())) is not { } image || !File.Exists(RootOf(image))) return null;
        Touch(RootOf(image));
        Touch(NameFile(image.Reference));
        return image;
    }

    /// <summary>
    /// The image, pulled when it is not here: once for each tenant, however many ask at a time, and its layers once for all.
    /// Throws <see cref="LaunchFailedException"/> with <c>image_not_found</c>, <c>image_refused</c>, <c>registry_unavailable</c> or <c>image_no_space</c>.
    /// </summary>
    /// <param name="reference">Its name.</param>
    /// <param name="tenant">For whom: tenants take turns at unpacking. Empty: nobody's.</param>
    /// <param name="progress">Told how far it is, unless another pull of it is under way.</param>
    /// <param name="again">A name is looked up anew, and layers that were refused are tried once more.</param>
    /// <param name="cancellation">Ends the waiting, and the pull with the last who waits.</param>
    public async Task<StoredImage> GetAsync(string reference, string tenant, IProgress<PullProgress>? progress, bool again, CancellationToken cancellation)
    {
        var wanted = Parse(reference);
        if (!again && Find(reference) is { } here) return here;
        return await _pulls.RunAsync($"{wanted}\n{tenant}", token => PullAsync(wanted, tenant, progress, again, token), cancellation).ConfigureAwait(false);
    }

    /// <summary>The file that microVMs of the image boot from.</summary>
    public string RootOf(StoredImage image)
    {
        ArgumentNullException.ThrowIfNull(image);
        return Path.Combine(_roots, image.Root);
    }

    /// <summary>Every image that is here, the one used last first.</summary>
    public IReadOnlyList<StoredImage> List() =>
        [.. new DirectoryInfo(_names).GetFiles("*.json").OrderByDescending(file => file.LastWriteTimeUtc).Select(file => ReadName(file.FullName)).OfType<StoredImage>().Where(image => File.Exists(RootOf(image)))];

    /// <summary>What the control plane is told: at most <see cref="MostTold"/> names, the one used last first.</summary>
    public IEnumerable<string> ToldNames() => List().Take(MostTold).Select(image => image.Reference);

    /// <summary>Takes the name away, and what only it led to; microVMs that run from it go on. False when it is not here.</summary>
    public bool Remove(string reference)
    {
        lock (_gate)
        {
            var file = NameFile(Parse(reference).ToString());
            if (ReadName(file) is not { } image) return false;
            File.Delete(file);
            _changes++;
            if (!NamedRoots().Contains(image.Root)) File.Delete(RootOf(image));
            return true;
        }
    }

    private async Task<StoredImage> PullAsync(ImageReference reference, string tenant, IProgress<PullProgress>? progress, bool again, CancellationToken given)
    {
        using var limit = new CancellationTokenSource(_options.PullLimit, _options.Clock);
        using var both = CancellationTokenSource.CreateLinkedTokenSource(given, limit.Token);
        var started = _options.Clock.GetTimestamp();
        try
        {
            using var origin = Origin(reference);
            var (digest, manifest, config) = await ReadDocumentsAsync(origin, both.Token).ConfigureAwait(false);
            var run = new ImageRun(config.Entrypoint, config.Cmd, config.Env, config.User, config.WorkingDirectory, StopSignals.Parse(config.StopSignal));
            var order = new RootOrder(reference, manifest, config.DiffIds);
            var image = new StoredImage(reference.ToString(), digest, order.Root, run);
            if (!File.Exists(RootOf(image)))
            {
                _log.Information("Pulling {Image}, {Layers} layers of {Bytes} bytes", reference, manifest.Layers.Count, manifest.Layers.Sum(layer => layer.Size));
                if (!again) _refused.ThrowIfKnown(order.Key);
                using var wish = _unpacks.Want(order.Key, tenant);
                await _builds.RunAsync(order.Key, token => MakeRootAsync(order, progress, token), both.Token).ConfigureAwait(false);
            }
            Touch(RootOf(image));
            await WriteNameAsync(image, both.Token).ConfigureAwait(false);
            _log.Information("{Image} is here as {Digest} after {Seconds:0.0} s", reference, digest, _options.Clock.GetElapsedTime(started).TotalSeconds);
            return image;
        }
        catch (OperationCanceledException) when (limit.IsCancellationRequested && !given.IsCancellationRequested)
        {
            throw ImageFault.Unavailable($"{reference} was not here within {_options.PullLimit.TotalMinutes:0} minutes; what came of it is kept for the next time.");
        }
        catch (LaunchFailedException full) when (full.Code == ImageFault.NoSpaceCode)
        {
            // What came for it went too far, and nothing wants it now.
            MakeRoom(0);
            throw;
        }
        catch (FileNotFoundException gone)
        {
            throw ImageFault.Unavailable($"A part of {reference} was removed while its root file system was made; it is pulled again when it is started again.", gone);
        }
        catch (Exception failed) when (failed is IOException or UnauthorizedAccessException)
        {
            MakeRoom(0);
            throw (failed.HResult & 0xFFFF) is NoSpaceOnDevice or DiskQuota
                ? ImageFault.NoSpace($"This host's disk is full; {reference} does not fit. Remove images (fleet image remove), or give the state directory a larger disk.", failed)
                : ImageUnavailable.Because($"{reference} can't be kept on this host: {failed.Message}", failed);
        }
        catch (Exception unexpected) when (unexpected is not (LaunchFailedException or OperationCanceledException))
        {
            // What an image or its registry says brought it about, and would on the next host: it must not speak against hosts.
            _log.Error(unexpected, "The pull of {Image} ended in an unexpected way", reference);
            throw ImageFault.Refused($"pulling it ended with {unexpected.GetType().Name}: {unexpected.Message}", unexpected);
        }
    }

    private IImageOrigin Origin(ImageReference reference) => reference.Location switch
    {
        ImageLocation.Layout => new LayoutOrigin(reference),
        ImageLocation.Archive => new ArchiveOrigin(reference, _options.Limits),
        _ => new RegistryOrigin(reference, _credentials.Find(reference.Registry)),
    };

    private async Task<(string Digest, ImageManifest Manifest, ImageConfig Config)> ReadDocumentsAsync(IImageOrigin origin, CancellationToken cancellation)
    {
        string? wanted = null;
        // An index leads to a manifest; one that leads to another index leads nowhere.
        for (var step = 0; step < 2; step++)
        {
            var bytes = await _options.Retries.RunAsync(_options.Clock, token => origin.ReadManifestAsync(wanted, token), cancellation).ConfigureAwait(false);
            var (manifest, next) = ImageDocuments.ReadManifest(bytes);
            if (manifest is null)
            {
                wanted = next!.Digest;
                continue;
            }
            if (manifest.Layers.Sum(layer => (decimal)layer.Size) > _options.Limits.Bytes)
                throw ImageFault.Refused($"its layers are more than {_options.Limits.Bytes} bytes");
            var config = await _options.Retries.RunAsync(_options.Clock, async token =>
            {
                using var blob = await origin.OpenBlobAsync(manifest.Config, 0, token).ConfigureAwait(false);
                return ImageDocument.Verified(await ImageDocument.ReadAsync(blob.Stream, "configuration", token).ConfigureAwait(false), manifest.Config.Digest, "configuration");
            }, cancellation).ConfigureAwait(false);
            return (ImageDocument.DigestOf(bytes), manifest, ImageDocuments.ReadConfig(config, manifest.Layers.Count));
        }
        throw ImageFault.Refused("its index leads to another index");
    }

    /// <summary>A root file system that is to be made.</summary>
    private sealed record RootOrder(ImageReference Reference, ImageManifest Manifest, IReadOnlyList<string> DiffIds)
    {
        public string Root { get; } = RootName(DiffIds);

        /// <summary>Who claims to have the same root in other layers must not have them made for others.</summary>
        public string Key { get; } = $"{RootName(DiffIds)} {string.Join(' ', Manifest.Layers.Select(layer => layer.Hex))}";
    }

    private async Task<string> MakeRootAsync(RootOrder order, IProgress<PullProgress>? progress, CancellationToken cancellation)
    {
        var target = Path.Combine(_roots, order.Root);
        if (File.Exists(target)) return target;
        var layers = order.Manifest.Layers.DistinctBy(layer => layer.Digest).ToArray();
        Want(layers, 1);
        try
        {
            return await FetchAndBuildAsync(order, layers, target, progress, cancellation).ConfigureAwait(false);
        }
        catch (LaunchFailedException refused) when (refused.Code == ImageFault.RefusedCode)
        {
            // Hostile bytes are of no use here. What was not what it is called is gone; what another pull wants as well may be good.
            RemoveUnlessWantedByOthers(layers);
            throw;
        }
        finally
        {
            Want(layers, -1);
        }
    }

    private async Task<string> FetchAndBuildAsync(RootOrder order, Descriptor[] layers, string target, IProgress<PullProgress>? progress, CancellationToken cancellation)
    {
        using var draft = await BeginAsync(_roots, cancellation).ConfigureAwait(false);
        var held = new SafeFileHandle?[layers.Length];
        try
        {
            // Room is made as they come, and as the root is written.
            SeeThatItFits(layers.Sum(MissingOf));
            var arrived = new long[layers.Length];
            var total = layers.Sum(layer => layer.Size);
            await Parallel.ForEachAsync(Enumerable.Range(0, layers.Length), new ParallelOptions { MaxDegreeOfParallelism = LayersAtOnce, CancellationToken = cancellation }, async (i, token) =>
            {
                void Arrived(long bytes)
                {
                    Interlocked.Exchange(ref arrived[i], bytes);
                    progress?.Report(new PullProgress(arrived.Sum(), total, Unpacking: false));
                }
                held[i] = await FetchAndHoldAsync(order.Reference, layers[i], Arrived, token).ConfigureAwait(false);
            }).ConfigureAwait(false);
            using (await _unpacks.TakeAsync(order.Key, cancellation).ConfigureAwait(false))
            {
                progress?.Report(new PullProgress(total, total, Unpacking: true));
                RootBuilder.Build([.. order.Manifest.Layers.Select(LayerFile)], order.DiffIds, draft.Target, _options.Limits, MakeRoom, cancellation);
            }
            File.SetUnixFileMode(draft.Target, UnixFileMode.UserRead);
            File.Move(draft.Target, target, overwrite: true);
            FolderSync.Sync(_roots);
            return target;
        }
        catch (LaunchFailedException refused) when (refused.Code == ImageFault.RefusedCode && held.All(layer => layer is not null))
        {
            // They were all here. Bytes that went bad on this disk say nothing of the image.
            if (held.Zip(layers).All(pair => DigestOf(pair.First!, cancellation) == pair.Second.Digest)) _refused.Add(order.Key, refused);
            throw;
        }
        finally
        {
            foreach (var layer in held) layer?.Dispose();
        }
    }

    private static string DigestOf(SafeFileHandle file, CancellationToken cancellation)
    {
        using var hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        var buffer = new byte[64 * 1024];
        int read;
        for (var at = 0L; (read = RandomAccess.Read(file, buffer, at)) > 0; at += read)
        {
            cancellation.ThrowIfCancellationRequested();
            hash.AppendData(buffer, 0, read);
        }
        return "sha256:" + Convert.ToHexStringLower(hash.GetHashAndReset());
    }

    /// <summary>Fetches a layer and opens it: another process that makes room leaves what is open.</summary>
    private async Task<SafeFileHandle> FetchAndHoldAsync(ImageReference reference, Descriptor layer, Action<long> arrived, CancellationToken cancellation)
    {
        for (var again = FetchesAgain; ; again--)
        {
            var file = await _blobs.RunAsync(layer.Digest, work => FetchAsync(reference, layer, arrived, work), cancellation).ConfigureAwait(false);
            try
            {
                return File.OpenHandle(file, FileMode.Open, FileAccess.Read, FileShare.Read);
            }
            catch (IOException) when (again > 0)
            {
                // The other process has just removed it, or is about to.
                await Task.Delay(FetchPause, cancellation).ConfigureAwait(false);
            }
        }
    }

    // Of this process' pulls one fetches a layer for all. Others may wait for it when who asked first has left: what it reads from is its own.
    private async Task<string> FetchAsync(ImageReference reference, Descriptor layer, Action<long> arrived, CancellationToken cancellation)
    {
        var file = LayerFile(layer);
        if (File.Exists(file))
        {
            Touch(file);
            arrived(layer.Size);
            return file;
        }
        // `fleet image pull` may want the same layer as the agent.
        var turn = LockOf(layer.Hex);
        using var held = await FileLock.AcquireAsync(turn, _options.PullLimit, _log, cancellation).ConfigureAwait(false);
        try
        {
            if (!File.Exists(file)) await DownloadAsync(reference, layer, file, arrived, cancellation).ConfigureAwait(false);
        }
        finally
        {
            File.Delete(turn);
        }
        arrived(layer.Size);
        return file;
    }

    private async Task DownloadAsync(ImageReference reference, Descriptor layer, string file, Action<long> arrived, CancellationToken cancellation)
    {
        using var origin = Origin(reference);
        long looked = -RoomAhead;
        void Came(long bytes)
        {
            // One that is begun anew is looked at anew as well.
            if (Math.Abs(bytes - looked) >= RoomAhead)
            {
                MakeRoom(Math.Min(RoomAhead, layer.Size - bytes));
                looked = bytes;
            }
            arrived(bytes);
        }
        await new BlobDownload(layer, file + Partial, _options.Retries, _options.Clock, Came).RunAsync(origin, cancellation).ConfigureAwait(false);
        File.Move(file + Partial, file, overwrite: true);
        FolderSync.Sync(_layers);
    }

    private async Task WriteNameAsync(StoredImage image, CancellationToken cancellation)
    {
        var file = NameFile(image.Reference);
        using var draft = await BeginAsync(_names, cancellation).ConfigureAwait(false);
        lock (_gate)
        {
            using (var stream = new FileStream(draft.Target, new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write, UnixCreateMode = OwnFile.Private }))
            {
                JsonSerializer.Serialize(stream, image);
                stream.Flush(flushToDisk: true);
            }
            File.Move(draft.Target, file, overwrite: true);
            FolderSync.Sync(_names);
            _changes++;
        }
    }

    /// <summary>A name for what is to be made in a folder, locked for as long as it is being made.</summary>
    private async Task<Draft> BeginAsync(string folder, CancellationToken cancellation)
    {
        var name = Making + Guid.NewGuid().ToString("n");
        return new Draft(Path.Combine(folder, name), LockOf(name), await FileLock.AcquireAsync(LockOf(name), _options.PullLimit, _log, cancellation).ConfigureAwait(false));
    }

    private sealed class Draft(string target, string turn, FileLock held) : IDisposable
    {
        public string Target => target;

        public void Dispose()
        {
            File.Delete(target);
            File.Delete(turn);
            held.Dispose();
        }
    }

    private StoredImage? ReadName(string file)
    {
        try
        {
            using var stream = File.OpenRead(file);
            return JsonSerializer.Deserialize<StoredImage>(stream) is { } image && Path.GetFileName(image.Root) == image.Root ? image : null;
        }
        catch (FileNotFoundException)
        {
            return null;
        }
        catch (JsonException broken)
        {
            _log.Warning(broken, "{File} is broken; its image is pulled again when it is asked for", file);
            return null;
        }
    }

    private HashSet<string> NamedRoots() => [.. Directory.GetFiles(_names, "*.json").Select(ReadName).OfType<StoredImage>().Select(image => image.Root)];

    private void Touch(string file)
    {
        try
        {
            File.SetLastWriteTimeUtc(file, _options.Clock.GetUtcNow().UtcDateTime);
        }
        catch (Exception gone) when (gone is IOException or UnauthorizedAccessException)
        {
            // Only how old it looks.
        }
    }

    /// <summary>Whose holder fetches a layer of that name, or makes a file of it.</summary>
    private string LockOf(string name) => Path.Combine(_fetching, name + ".lock");

    private string LayerFile(Descriptor layer) => Path.Combine(_layers, layer.Hex);

    private string NameFile(string reference) => Path.Combine(_names, Hash(reference) + ".json");

    private static string RootName(IReadOnlyList<string> diffIds) => Hash($"{SquashfsWriter.FormatVersion}\n{string.Join('\n', diffIds)}") + RootEnd;

    private static string Hash(string text) => Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes(text)));

    private static ImageReference Parse(string text) =>
        ImageReference.TryParse(text, out var reference, out var problem) ? reference : throw ImageFault.NotFound(problem);
}
