using System.Security.Cryptography;
using Serilog;

namespace Fleet.Host.Images;

/// <summary>A Debian package on this host's disk.</summary>
/// <param name="Name">Package name.</param>
/// <param name="Version">Debian version.</param>
/// <param name="FilePath">The .deb, checked against the hash of the package index.</param>
public sealed record FetchedPackage(string Name, string Version, string FilePath);

/// <summary>A Debian package as the host's package index knows it.</summary>
/// <param name="Name">Package name.</param>
/// <param name="Version">Debian version of the candidate.</param>
/// <param name="Sha256">Of the .deb, lower-case hexadecimal.</param>
/// <param name="Depends">Names of what it depends on, first alternatives only.</param>
public sealed record IndexedPackage(string Name, string Version, string Sha256, IReadOnlyList<string> Depends);

/// <summary>The two programs of apt, by name or path, and how long to wait after the first failed download (then twice that).</summary>
internal sealed record AptCommands(string Cache, string Get, TimeSpan RetryDelay)
{
    public static AptCommands OfHost { get; } = new("apt-cache", "apt-get", TimeSpan.FromSeconds(1));
}

/// <summary>
/// Gets packages of the host's Debian release into a folder, without installing them: <c>apt-cache</c> says which,
/// <c>apt-get download</c> brings them from wherever the host's own sources point, verified by apt. A package that is in
/// the folder already, with the index's hash, is not downloaded again. Safe among processes that share the folder.
/// </summary>
public sealed class PackageSource
{
    private const int Attempts = 3;

    /// <summary>A kernel package is 30 to 100 MB.</summary>
    private static readonly TimeSpan DownloadLimit = TimeSpan.FromMinutes(5);

    private static readonly TimeSpan KeptFor = TimeSpan.FromDays(30);
    private static readonly TimeSpan QueryLimit = TimeSpan.FromSeconds(30);

    private readonly string _directory;
    private readonly AptCommands _apt;
    private readonly ILogger _log;

    /// <param name="directory">Where packages are kept; made when absent.</param>
    /// <param name="log">Where downloads are told.</param>
    public PackageSource(string directory, ILogger log)
        : this(directory, log, AptCommands.OfHost)
    {
    }

    internal PackageSource(string directory, ILogger log, AptCommands apt)
    {
        ArgumentNullException.ThrowIfNull(log);
        _directory = directory;
        _apt = apt;
        _log = log.ForContext<PackageSource>();
    }

    /// <summary>What the index says of a package. Costs one run of apt-cache, 10 to 500 ms.</summary>
    public async Task<IndexedPackage> LookUpAsync(string name, CancellationToken cancellation)
    {
        string text;
        try
        {
            text = await ExternalCommand.RunAsync(_apt.Cache, ["--no-all-versions", "show", name], null, QueryLimit, cancellation);
        }
        catch (Drivers.LaunchFailedException error)
        {
            throw ImageUnavailable.Because($"This host's package index has no {name}: {error.Message} Run `apt-get update` as root, or add a Debian source.", error);
        }
        return Parse(text) is { } package && package.Name == name
            ? package
            : throw ImageUnavailable.Because($"`apt-cache show {name}` gave no usable answer. Run `apt-get update` as root.");
    }

    /// <summary>
    /// The package that carries a kernel: follows a meta package such as <c>linux-image-cloud-amd64</c> to the one it
    /// depends on today.
    /// </summary>
    public async Task<IndexedPackage> LookUpKernelAsync(string metaPackage, CancellationToken cancellation)
    {
        var package = await LookUpAsync(metaPackage, cancellation);
        return package.Depends.FirstOrDefault(name => name.StartsWith("linux-image-", StringComparison.Ordinal)) is { } real
            ? await LookUpAsync(real, cancellation)
            : package;
    }

    /// <summary>The package's file; downloaded when the folder does not have it.</summary>
    public async Task<FetchedPackage> FetchAsync(IndexedPackage package, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(package);
        Directory.CreateDirectory(_directory);
        using var held = await FileLock.AcquireAsync(Path.Combine(_directory, "lock"), DownloadLimit, _log, cancellation);
        RemoveLeftovers();
        var file = Path.Combine(_directory, $"{package.Name}_{package.Version.Replace(':', '-')}.deb");
        var fetched = new FetchedPackage(package.Name, package.Version, file);
        if (File.Exists(file))
        {
            if (await Sha256Async(file, cancellation) == package.Sha256)
            {
                File.SetLastWriteTimeUtc(file, TimeProvider.System.GetUtcNow().UtcDateTime);
                return fetched;
            }
            _log.Warning("{File} is not what the package index describes; it is downloaded again", file);
            File.Delete(file);
        }
        for (var attempt = 1; ; attempt++)
        {
            try
            {
                await DownloadAsync(package, file, cancellation);
                return fetched;
            }
            catch (Drivers.LaunchFailedException error) when (attempt < Attempts)
            {
                _log.Warning("Download of {Package} {Version} failed, attempt {Attempt} of {Attempts}: {Reason}",
                    package.Name, package.Version, attempt, Attempts, error.Message);
                await Task.Delay(_apt.RetryDelay * attempt, cancellation);
            }
            catch (Drivers.LaunchFailedException error)
            {
                throw ImageUnavailable.Because($"{package.Name} {package.Version} can't be downloaded: {error.Message} {Cure(error.Message)}", error);
            }
        }
    }

    // As the kernel and apt say that a disk is full.
    private string Cure(string said) =>
        said.Contains("No space left", StringComparison.Ordinal) || said.Contains("enough free space", StringComparison.Ordinal)
            ? $"Free some room on the disk of {_directory}."
            : "Check the network; if the version is gone from the mirror, run `apt-get update` as root.";

    private async Task DownloadAsync(IndexedPackage package, string file, CancellationToken cancellation)
    {
        var folder = Path.Combine(_directory, $".download-{Guid.NewGuid():N}");
        Directory.CreateDirectory(folder);
        try
        {
            _log.Information("Downloading {Package} {Version}", package.Name, package.Version);
            await ExternalCommand.RunAsync(_apt.Get, ["-q", "-o", "Acquire::Retries=2", "download", $"{package.Name}={package.Version}"],
                folder, DownloadLimit, cancellation);
            var downloaded = Directory.GetFiles(folder, "*.deb");
            if (downloaded.Length != 1)
                throw ImageUnavailable.Because($"`apt-get download {package.Name}` left {downloaded.Length} files instead of one.");
            if (await Sha256Async(downloaded[0], cancellation) != package.Sha256)
                throw ImageUnavailable.Because($"{package.Name} {package.Version} arrived with another hash than the package index has.");
            File.Move(downloaded[0], file, overwrite: true);
        }
        finally
        {
            Directory.Delete(folder, recursive: true);
        }
    }

    /// <summary>
    /// What a killed process left, and packages that nobody has asked for in a long time; nobody else is writing here while
    /// the lock is held.
    /// </summary>
    private void RemoveLeftovers()
    {
        var oldest = TimeProvider.System.GetUtcNow().UtcDateTime - KeptFor;
        foreach (var package in Directory.GetFiles(_directory, "*.deb"))
        {
            if (File.GetLastWriteTimeUtc(package) < oldest) File.Delete(package);
        }
        foreach (var folder in Directory.GetDirectories(_directory, ".download-*")) Directory.Delete(folder, recursive: true);
    }

    private static async Task<string> Sha256Async(string file, CancellationToken cancellation)
    {
        await using var stream = File.OpenRead(file);
        return Convert.ToHexStringLower(await SHA256.HashDataAsync(stream, cancellation));
    }

    /// <summary>The first paragraph of <c>apt-cache show</c>.</summary>
    internal static IndexedPackage? Parse(string text)
    {
        var fields = new Dictionary<string, string>(StringComparer.Ordinal);
        foreach (var line in text.Split('\n').SkipWhile(string.IsNullOrWhiteSpace).TakeWhile(line => !string.IsNullOrWhiteSpace(line)))
        {
            var colon = line.IndexOf(": ", StringComparison.Ordinal);
            if (colon > 0 && line[0] != ' ') fields.TryAdd(line[..colon], line[(colon + 2)..].Trim());
        }
        if (!fields.TryGetValue("Package", out var name)
            || !fields.TryGetValue("Version", out var version)
            || !fields.TryGetValue("SHA256", out var hash))
        {
            return null;
        }
        // Both become a file name and an argument of apt-get.
        var harmless = name.Concat(version).All(c => char.IsAsciiLetterOrDigit(c) || "+-.:~".Contains(c, StringComparison.Ordinal));
        if (!harmless || name[0] == '-' || hash.Length != 64) return null;
        var depends = fields.GetValueOrDefault("Depends", "")
            .Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)
            .Select(item => item.Split('|')[0].Split(['(', ':', ' '])[0].Trim());
        return new IndexedPackage(name, version, hash.ToLowerInvariant(), [.. depends]);
    }
}
