using System.Formats.Tar;
using System.Runtime.CompilerServices;
using System.Text;

namespace Fleet.Host.Images;

/// <summary>
/// One entry of a Debian package.
/// </summary>
/// <param name="Path">Relative, with <c>/</c>, without a leading <c>./</c>; checked: no <c>..</c>, no empty part, no NUL.</param>
/// <param name="Kind">What it is; links and devices are told, never followed or made.</param>
/// <param name="Mode">Permission bits.</param>
/// <param name="Content">A file's bytes, readable until the next entry is asked for; null for anything but a file with content.</param>
public sealed record DebEntry(string Path, DebEntryKind Kind, UnixFileMode Mode, Stream? Content);

/// <summary>What an entry of a package is.</summary>
public enum DebEntryKind
{
    /// <summary>A regular file.</summary>
    File,

    /// <summary>A directory.</summary>
    Directory,

    /// <summary>A link or a device: nothing that is taken out of a package here.</summary>
    Other,
}

/// <summary>How much of a package is read before it is called broken.</summary>
/// <param name="Entries">Most entries.</param>
/// <param name="Bytes">Most unpacked bytes.</param>
public sealed record DebLimits(int Entries, long Bytes)
{
    /// <summary>Three times what the largest Debian kernel package has.</summary>
    public static DebLimits Default { get; } = new(30_000, 2L << 30);
}

/// <summary>
/// Reads the files of a Debian package without installing it. <c>dpkg-deb</c> knows the outer format and its
/// compressions; what it gives is a plain tar, read here with every name checked. All errors are
/// <see cref="Drivers.LaunchFailedException"/> with <c>image_unavailable</c>.
/// </summary>
public sealed class DebPackage(string path, DebLimits? limits = null)
{
    /// <summary>A slow disk included; the largest kernel package takes some 10 s on one emulated core.</summary>
    private static readonly TimeSpan TimeLimit = TimeSpan.FromMinutes(3);

    /// <summary>Tar pads its end to a record, 10 KiB unless told otherwise.</summary>
    private const int LongestPadding = 1 << 20;

    /// <summary>How long a failing dpkg-deb gets to finish its sentence.</summary>
    private static readonly TimeSpan LastWordsLimit = TimeSpan.FromSeconds(1);

    private readonly DebLimits _limits = limits ?? DebLimits.Default;

    /// <summary>The package's file.</summary>
    public string FilePath { get; } = path;

    /// <summary>The entries, in the package's order. Stopping early ends the reader.</summary>
    public async IAsyncEnumerable<DebEntry> ReadAsync([EnumeratorCancellation] CancellationToken cancellation)
    {
        if (!File.Exists(FilePath))
            throw ImageUnavailable.Because($"The package {FilePath} does not exist.");
        using var bounded = CancellationTokenSource.CreateLinkedTokenSource(cancellation);
        bounded.CancelAfter(TimeLimit);
        using var process = await ExternalCommand.StartAsync("dpkg-deb", ["--fsys-tarfile", FilePath], null, bounded.Token);
        var errors = ExternalCommand.ReadBoundedAsync(process.StandardError, bounded.Token);
        try
        {
            await using var tar = new TarReader(process.StandardOutput.BaseStream, leaveOpen: true);
            var entries = 0;
            var bytes = 0L;
            while (await NextAsync(tar, errors, cancellation, bounded.Token) is { } entry)
            {
                entries++;
                bytes += entry.Length;
                if (entries > _limits.Entries || bytes > _limits.Bytes)
                    throw Broken($"it unpacks to more than {_limits.Entries} entries or {_limits.Bytes} bytes");
                if (CheckedPath(entry.Name) is { } name)
                    yield return new DebEntry(name, KindOf(entry), entry.Mode, entry.DataStream);
            }
            await DrainAsync(process.StandardOutput.BaseStream, bounded.Token);
            await process.WaitForExitAsync(bounded.Token);
            if (process.ExitCode != 0)
                throw Broken(ExternalCommand.LastWords(await errors));
        }
        finally
        {
            await ExternalCommand.EndAsync(process);
        }
    }

    /// <summary>
    /// Writes files below <paramref name="directory"/>: <paramref name="place"/> gets a file's path in the package and says
    /// where it goes, relative to the directory, or null to leave it out. Gives the paths written. Links and devices are
    /// never made, so nothing lands outside the directory.
    /// </summary>
    public async Task<IReadOnlyList<string>> ExtractAsync(string directory, Func<string, string?> place, CancellationToken cancellation)
    {
        ArgumentNullException.ThrowIfNull(place);
        var written = new List<string>();
        await foreach (var entry in ReadAsync(cancellation))
        {
            if (entry.Kind != DebEntryKind.File || place(entry.Path) is not { } placed) continue;
            var target = Path.Combine(directory, placed);
            try
            {
                Directory.CreateDirectory(Path.GetDirectoryName(target)!);
                var options = new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write };
                if (OperatingSystem.IsLinux())
                    options.UnixCreateMode = entry.Mode & (UnixFileMode)0x1FF | UnixFileMode.UserRead | UnixFileMode.UserWrite;
                await using var file = new FileStream(target, options);
                if (entry.Content is not null) await entry.Content.CopyToAsync(file, cancellation);
            }
            catch (Exception error) when (error is IOException or UnauthorizedAccessException)
            {
                throw ImageUnavailable.Because($"'{entry.Path}' of {FilePath} can't be unpacked into {directory}: {error.Message}", error);
            }
            written.Add(placed);
        }
        return written;
    }

    private async Task<TarEntry?> NextAsync(TarReader tar, Task<string> errors, CancellationToken cancellation, CancellationToken bounded)
    {
        try
        {
            return await tar.GetNextEntryAsync(copyData: false, bounded);
        }
        catch (OperationCanceledException) when (!cancellation.IsCancellationRequested)
        {
            throw Broken($"reading it took longer than {TimeLimit.TotalSeconds:0} s");
        }
        catch (Exception error) when (error is IOException or InvalidDataException or FormatException or ArgumentException)
        {
            // A reader that met nonsense has not seen why: dpkg-deb's own words, if it had any, say more.
            await Task.WhenAny(errors, Task.Delay(LastWordsLimit, cancellation));
            var words = errors.IsCompletedSuccessfully && errors.Result.Length > 0 ? ExternalCommand.LastWords(errors.Result) : error.Message;
            throw Broken(words, error);
        }
    }

    /// <summary>The tar ends before the stream does (padding); an unread rest would make dpkg-deb fail with a broken pipe.</summary>
    private async Task DrainAsync(Stream output, CancellationToken cancellation)
    {
        var buffer = new byte[81920];
        var left = LongestPadding;
        int read;
        while ((read = await output.ReadAsync(buffer, cancellation)) > 0)
        {
            left -= read;
            if (left < 0) throw Broken("it goes on after its end");
        }
    }

    /// <summary>Null for the root itself.</summary>
    private string? CheckedPath(string name)
    {
        var trimmed = name.StartsWith("./", StringComparison.Ordinal) ? name[2..] : name;
        trimmed = trimmed.EndsWith('/') ? trimmed[..^1] : trimmed;
        if (trimmed is "" or ".") return name is "./" or "." ? null : throw Broken($"it has an entry named '{name}'");
        if (Encoding.UTF8.GetByteCount(trimmed) > 4095
            || trimmed.Contains('\0', StringComparison.Ordinal)
            || trimmed.Split('/').Any(part => part is "" or "." or ".."))
        {
            throw Broken($"it has an entry whose name leads out of the package: '{name}'");
        }
        return trimmed;
    }

    private static DebEntryKind KindOf(TarEntry entry) => entry.EntryType switch
    {
        TarEntryType.RegularFile or TarEntryType.V7RegularFile or TarEntryType.ContiguousFile => DebEntryKind.File,
        TarEntryType.Directory => DebEntryKind.Directory,
        _ => DebEntryKind.Other,
    };

    private Drivers.LaunchFailedException Broken(string why, Exception? inner = null) =>
        ImageUnavailable.Because($"The package {FilePath} can't be read: {why}. Remove it, it is downloaded again.", inner);
}
