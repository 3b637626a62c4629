using Fleet.Host.Drivers;
using Fleet.Host.Volumes;

namespace Fleet.Host.Images.Oci;

/// <summary>What goes for what, when a pull needs room.</summary>
public sealed partial class ImageStore
{
    /// <summary>How old a sum of what volumes may still grow to may be.</summary>
    private static readonly TimeSpan PromisedAnew = TimeSpan.FromSeconds(1);

    private (long Bytes, long At)? _promised;

    /// <summary>What was given up lets go of its files within this.</summary>
    private static readonly TimeSpan LettingGo = TimeSpan.FromSeconds(1);

    /// <summary>A launch that was given a root links it within this; until then it is not removed for want of room.</summary>
    private static readonly TimeSpan JustUsed = TimeSpan.FromMinutes(10);

    /// <summary>Throws when so many bytes more would not fit if all were removed that nothing uses; removes nothing.</summary>
    private void SeeThatItFits(long needed)
    {
        lock (_gate)
        {
            if (!Fits(needed)) _ = FindUnused(needed);
        }
    }

    /// <summary>Removes what nothing uses, the longest unused first, until so many bytes more fit; nothing, when they would not fit then either.</summary>
    private void MakeRoom(long needed)
    {
        lock (_gate)
        {
            if (Fits(needed)) return;
            foreach (var file in FindUnused(needed))
            {
                if (Fits(needed)) break;
                _log.Information("Removing {File} of {Bytes} bytes to make room", file.FullName, LengthOf(file));
                if (file.Extension == RootEnd) file.Delete();
                else WhenUnused(file.FullName, File.Delete);
            }
            foreach (var name in Directory.GetFiles(_names, "*.json"))
            {
                if (ReadName(name) is { } image && File.Exists(RootOf(image))) continue;
                File.Delete(name);
                _changes++;
            }
            if (needed > 0 && !Fits(needed)) throw NoRoom(needed);
        }
    }

    /// <summary>What nothing uses, the longest unused first: layers, which can be had again, then whole images. Throws when without it so many bytes more do not fit either.</summary>
    private List<FileInfo> FindUnused(long needed)
    {
        var layers = new DirectoryInfo(_layers).GetFiles().Where(file => !_wanted.ContainsKey(Path.GetFileNameWithoutExtension(file.Name)) && WhenUnused(file.FullName));
        var recent = _options.Clock.GetUtcNow().UtcDateTime - JustUsed;
        var roots = new DirectoryInfo(_roots).GetFiles("*" + RootEnd).Where(file => file.LastWriteTimeUtc < recent && HasNoLink(file));
        List<FileInfo> unused = [.. layers.OrderBy(file => file.LastWriteTimeUtc), .. roots.OrderBy(file => file.LastWriteTimeUtc)];
        if (needed > 0 && !Fits(needed - unused.Sum(LengthOf))) throw NoRoom(needed);
        return unused;
    }

    private static bool HasNoLink(FileInfo root)
    {
        try
        {
            return Drivers.Processes.Posix.LinksOf(root.FullName) == 1;
        }
        catch (IOException)
        {
            // Another process has removed it.
            return false;
        }
    }

    /// <summary>Does something with a layer, or with what came of one, unless a process fetches it or has it open to make a root of it: then false.</summary>
    private bool WhenUnused(string file, Action<string>? then = null)
    {
        var turn = LockOf(Path.GetFileNameWithoutExtension(file));
        using var fetched = FileLock.TryAcquire(turn, out _);
        if (fetched is null) return false;
        try
        {
            using var alone = FileLock.TryTake(file);
            if (alone is null && File.Exists(file)) return false;
            then?.Invoke(file);
            return true;
        }
        finally
        {
            File.Delete(turn);
        }
    }

    private static LaunchFailedException NoRoom(long needed) => ImageFault.NoSpace(
        $"This host has no room for the image: it needs about {(needed >> 20) + 1} MiB more, and what is here is in use or promised to volumes. Remove microVMs, volumes or images (fleet image remove), or give the state directory a larger disk.");

    // A volume's holes are promised to its guest: what fills them would fail a write there.
    private bool Fits(long needed)
    {
        var used = ((string[])[_layers, _roots]).Sum(folder => new DirectoryInfo(folder).GetFiles().Sum(LengthOf));
        return used + needed <= _options.MaxBytes && new DriveInfo(_roots).AvailableFreeSpace - Promised() - needed >= _options.KeptFree;
    }

    // A look at every volume costs milliseconds where there are many, and a pull asks for every few MiB.
    private long Promised()
    {
        if (_promised is { } known && _options.Clock.GetElapsedTime(known.At) < PromisedAnew)
            return known.Bytes;
        var bytes = VolumeStore.PromisedIn(_volumes);
        _promised = (bytes, _options.Clock.GetTimestamp());
        return bytes;
    }

    /// <summary>Bytes of a layer that are still to come.</summary>
    private long MissingOf(Descriptor layer) =>
        File.Exists(LayerFile(layer)) ? 0 : Math.Max(0, layer.Size - LengthOf(new FileInfo(LayerFile(layer) + Partial)));

    // Others bring their layers and roots under their names meanwhile.
    private static long LengthOf(FileInfo file)
    {
        try
        {
            return file.Length;
        }
        catch (FileNotFoundException)
        {
            return 0;
        }
    }

    private void Want(Descriptor[] layers, int change)
    {
        lock (_gate)
        {
            foreach (var layer in layers)
            {
                var count = _wanted.GetValueOrDefault(layer.Hex) + change;
                if (count > 0) _wanted[layer.Hex] = count;
                else _wanted.Remove(layer.Hex);
            }
        }
    }

    private void RemoveUnlessWantedByOthers(Descriptor[] layers)
    {
        lock (_gate)
        {
            foreach (var layer in layers.Where(layer => _wanted.GetValueOrDefault(layer.Hex) <= 1))
            {
                foreach (var file in (string[])[LayerFile(layer), LayerFile(layer) + Partial])
                    SpinWait.SpinUntil(() => WhenUnused(file, File.Delete), LettingGo);
            }
        }
    }
}
