using System.Security.Cryptography;
using System.Text;
using System.Text.Json;
using System.Text.Encodings.Web;
using Fleet.Host.Networks;
using Fleet.Shared.Contracts;
using Serilog;

namespace Fleet.Host.Images;

/// <summary>Where the default image comes from.</summary>
/// <param name="CacheDirectory">Folder for packages and finished images; made when absent. Some 60 MB.</param>
/// <param name="FleetInitPath">The published, static fleet-init.</param>
public sealed record ImageOptions(string CacheDirectory, string FleetInitPath);

/// <summary>
/// Makes the default image from the packages of the host's Debian release on first use, and keeps it. An image is a folder
/// named after everything that went into it: package versions, the hash of fleet-init, the recipe's version. It is made
/// under another name and renamed when complete, by one process at a time, so that a folder with the right name is always
/// whole, whatever was killed when.
/// </summary>
public sealed class DefaultImageStore : IImageSource, IDisposable
{
    /// <summary>Older images stay this many deep, for launches that are just reading one.</summary>
    private const int KeptImages = 2;

    private const string MakingPrefix = ".making-";

    /// <summary>Two downloads and the unpacking, on a slow machine.</summary>
    private static readonly TimeSpan MakeLimit = TimeSpan.FromMinutes(10);

    private readonly ImageOptions _options;
    private readonly PackageSource _packages;
    private readonly ILogger _log;
    private readonly SemaphoreSlim _gate = new(1);
    private volatile BootImage? _image;

    /// <param name="options">Folders and files.</param>
    /// <param name="log">Where progress is told.</param>
    public DefaultImageStore(ImageOptions options, ILogger log)
        : this(options, log, AptCommands.OfHost)
    {
    }

    internal DefaultImageStore(ImageOptions options, ILogger log, AptCommands apt)
    {
        ArgumentNullException.ThrowIfNull(options);
        ArgumentNullException.ThrowIfNull(log);
        _options = options;
        _log = log.ForContext<DefaultImageStore>();
        _packages = new PackageSource(Path.Combine(options.CacheDirectory, "packages"), log, apt);
    }

    private string LockFile => Path.Combine(ImagesDirectory, "lock");

    private string ImagesDirectory => Path.Combine(_options.CacheDirectory, "default");

    /// <inheritdoc/>
    public async Task<BootImage> GetDefaultAsync(CancellationToken cancellation)
    {
        if (_image is { } known && IsWhole(known)) return known;
        await _gate.WaitAsync(cancellation);
        try
        {
            if (_image is { } made && IsWhole(made)) return made;
            return _image = await FindOrMakeAsync(cancellation);
        }
        catch (Exception error) when (error is IOException or UnauthorizedAccessException)
        {
            throw ImageUnavailable.Because($"The default image can't be made in {_options.CacheDirectory}: {error.Message}", error);
        }
        finally
        {
            _gate.Release();
        }
    }

    /// <inheritdoc/>
    public async Task WriteInitrdAsync(BootImage image, GuestRun run, string path, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(image);
        var overlay = new CpioWriter().AddFile("fleet/run.json", RunJson(run), Convert.ToInt32("400", 8)).ToArray();
        try
        {
            await using var shared = File.OpenRead(image.InitrdPath);
            await using var initrd = new FileStream(path, FileMode.Create, FileAccess.Write, FileShare.Read);
            await shared.CopyToAsync(initrd, cancellation);
            await initrd.WriteAsync(overlay, cancellation);
        }
        catch (Exception error)
        {
            if (File.Exists(path)) File.Delete(path);
            if (error is not (IOException or UnauthorizedAccessException)) throw;
            throw ImageUnavailable.Because($"The initrd can't be written to {path}: {error.Message}", error);
        }
    }

    /// <inheritdoc/>
    public void Dispose() => _gate.Dispose();

    /// <summary>The file that fleet-init reads (docs/guest-protocol.md).</summary>
    internal static byte[] RunJson(GuestRun run)
    {
        ArgumentNullException.ThrowIfNull(run);
        using var buffer = new MemoryStream();
        using (var json = new Utf8JsonWriter(buffer, new JsonWriterOptions { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }))
        {
            json.WriteStartObject();
            json.WriteStartArray("argv"u8);
            foreach (var argument in run.Argv) json.WriteStringValue(argument);
            json.WriteEndArray();
            json.WriteStartObject("env"u8);
            foreach (var (name, value) in run.Env) json.WriteString(name, value);
            json.WriteEndObject();
            json.WriteString("hostname"u8, run.Hostname);
            json.WriteNumber("stop_ms"u8, (int)run.StopLimit.TotalMilliseconds);
            if (run.Terminal) json.WriteBoolean("terminal"u8, true);
            if (run.Health is { } health) WriteHealth(json, health);
            if (run.Image is { } image)
            {
                json.WriteStartObject("image"u8);
                json.WriteString("user"u8, image.User);
                json.WriteString("workdir"u8, image.WorkingDirectory);
                json.WriteNumber("stop_signal"u8, image.StopSignal);
                json.WriteEndObject();
            }
            if (run.Network is { } network)
            {
                json.WriteStartObject("network"u8);
                json.WriteString("mac"u8, network.Mac);
                json.WriteString("ipv4"u8, $"{network.Address4}/{network.Subnet4.PrefixLength}");
                json.WriteString("gateway4"u8, network.Gateway4.ToString());
                json.WriteString("ipv6"u8, $"{network.Address6}/{network.Subnet6.PrefixLength}");
                json.WriteString("gateway6"u8, network.Gateway6.ToString());
                json.WriteString("resolver"u8, network.Gateway4.ToString());
                json.WriteString("domain"u8, TenantResolver.Domain);
                json.WriteEndObject();
            }
            if (run.Volumes.Count > 0)
            {
                json.WriteStartArray("volumes"u8);
                foreach (var (serial, path) in run.Volumes)
                {
                    json.WriteStartObject();
                    json.WriteString("disk"u8, serial);
                    json.WriteString("path"u8, path);
                    json.WriteEndObject();
                }
                json.WriteEndArray();
            }
            json.WriteEndObject();
        }
        return buffer.ToArray();
    }

    private static void WriteHealth(Utf8JsonWriter json, HealthCheck health)
    {
        json.WriteStartObject("health"u8);
        json.WriteStartArray("argv"u8);
        foreach (var argument in health.Command) json.WriteStringValue(argument);
        json.WriteEndArray();
        json.WriteNumber("port"u8, health.Port);
        json.WriteString("http_path"u8, health.HttpPath);
        json.WriteNumber("interval"u8, health.IntervalSeconds);
        json.WriteNumber("timeout"u8, health.TimeoutSeconds);
        json.WriteNumber("failures"u8, health.Failures);
        json.WriteNumber("start_period"u8, health.StartPeriodSeconds);
        json.WriteEndObject();
    }

    private async Task<BootImage> FindOrMakeAsync(CancellationToken cancellation)
    {
        if (!File.Exists(_options.FleetInitPath))
            throw ImageUnavailable.Because($"fleet-init is not at {_options.FleetInitPath}. Build it: `dotnet publish Fleet.Guest -c Release`.");
        string initHash;
        await using (var init = File.OpenRead(_options.FleetInitPath))
            initHash = Convert.ToHexStringLower(await SHA256.HashDataAsync(init, cancellation))[..16];
        Directory.CreateDirectory(ImagesDirectory);
        var recipe = $"r{DefaultImage.RecipeVersion}-{initHash}-";

        IndexedPackage kernel, busybox;
        try
        {
            kernel = await _packages.LookUpKernelAsync(KernelPackage.CloudMetaPackage, cancellation);
            busybox = await _packages.LookUpAsync("busybox-static", cancellation);
        }
        catch (Drivers.LaunchFailedException error) when (NewestOf(recipe) is { } present)
        {
            _log.Warning("The package index can't be asked, {Image} is used: {Reason}", present.KernelPath, error.Message);
            return present;
        }
        var name = recipe + Convert.ToHexStringLower(SHA256.HashData(Encoding.UTF8.GetBytes($"{kernel.Sha256} {busybox.Sha256}")))[..16];
        var directory = Path.Combine(ImagesDirectory, name);
        if (Directory.Exists(directory))
        {
            SweepUnlessBusy();
            return ImageIn(directory);
        }
        using var held = await FileLock.AcquireAsync(LockFile, MakeLimit, _log, cancellation);
        RemoveLeftovers();
        if (Directory.Exists(directory)) return ImageIn(directory);
        await MakeAsync(kernel, busybox, directory, cancellation);
        RemoveOldImages(directory);
        return ImageIn(directory);
    }

    private async Task MakeAsync(IndexedPackage kernel, IndexedPackage busybox, string directory, CancellationToken cancellation)
    {
        var started = TimeProvider.System.GetTimestamp();
        _log.Information("Making the default image from {Kernel} {Version} and busybox; this happens once", kernel.Name, kernel.Version);
        var kernelPackage = await _packages.FetchAsync(kernel, cancellation);
        var busyboxPackage = await _packages.FetchAsync(busybox, cancellation);
        var making = Path.Combine(ImagesDirectory, MakingPrefix + Guid.NewGuid().ToString("N"));
        try
        {
            var work = Directory.CreateDirectory(Path.Combine(making, "work")).FullName;
            var image = Directory.CreateDirectory(Path.Combine(making, "image")).FullName;
            _log.Information("Unpacking kernel {Version}", kernel.Version);
            await DefaultImage.MakeAsync(kernelPackage, busyboxPackage, _options.FleetInitPath, work, image, cancellation);
            Directory.Move(image, directory);
        }
        finally
        {
            Directory.Delete(making, recursive: true);
        }
        _log.Information("The default image is ready after {Seconds:0.0} s: {Directory}, initramfs of {Bytes} bytes",
            TimeProvider.System.GetElapsedTime(started).TotalSeconds, directory, new FileInfo(ImageIn(directory).InitrdPath).Length);
    }

    /// <summary>A process may have died between finishing the image and removing what it was made from.</summary>
    private void SweepUnlessBusy()
    {
        if (Directory.GetDirectories(ImagesDirectory, MakingPrefix + "*").Length == 0) return;
        using var held = FileLock.TryAcquire(LockFile, out _);
        if (held is not null) RemoveLeftovers();
    }

    /// <summary>What a killed process was making; only under the lock.</summary>
    private void RemoveLeftovers()
    {
        foreach (var folder in Directory.GetDirectories(ImagesDirectory, MakingPrefix + "*"))
        {
            _log.Information("Removing {Folder}, which a process that died left unfinished", folder);
            Directory.Delete(folder, recursive: true);
        }
    }

    private void RemoveOldImages(string current)
    {
        var old = new DirectoryInfo(ImagesDirectory).GetDirectories("r*")
            .Where(folder => folder.FullName != Path.GetFullPath(current))
            .OrderByDescending(folder => folder.CreationTimeUtc)
            .Skip(KeptImages - 1);
        foreach (var folder in old) folder.Delete(recursive: true);
    }

    private BootImage? NewestOf(string recipe) =>
        new DirectoryInfo(ImagesDirectory).GetDirectories(recipe + "*").MaxBy(folder => folder.CreationTimeUtc) is { } folder
            ? ImageIn(folder.FullName)
            : null;

    private static BootImage ImageIn(string directory) =>
        new(Path.Combine(directory, DefaultImage.KernelFile), Path.Combine(directory, DefaultImage.InitramfsFile));

    private static bool IsWhole(BootImage image) => File.Exists(image.KernelPath) && File.Exists(image.InitrdPath);
}
