using System.Formats.Tar;

namespace Fleet.Shared.Files;

/// <summary>
/// A file or a folder as a stream of tar, for copies between a host and a guest. Neither side trusts the other: what is unpacked stays
/// below the place it was asked for. Files, folders and symbolic links with their modes; owners are those of who unpacks.
/// </summary>
public static class TreeCopy
{
    private const UnixFileMode Permissions = (UnixFileMode)0x1FF;

    /// <summary>Packs it under its own name. What is neither file nor folder nor link comes as an empty file.</summary>
    /// <param name="path">A file, a folder, or a link to one, which is followed.</param>
    /// <param name="target">Takes the stream.</param>
    /// <exception cref="IOException">There is nothing, or it can't be read.</exception>
    public static void Pack(string path, Stream target)
    {
        var full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path));
        var name = Path.GetFileName(full);
        using var writer = new TarWriter(target, TarEntryFormat.Pax, leaveOpen: true);
        if (Directory.Exists(full)) AddFolder(writer, new DirectoryInfo(full), name.Length == 0 ? "root" : name);
        else if (File.Exists(full)) AddFile(writer, File.ResolveLinkTarget(full, returnFinalTarget: true) as FileInfo ?? new FileInfo(full), name);
        else throw new FileNotFoundException($"There is nothing at {path}.");
    }

    /// <summary>
    /// Unpacks into <paramref name="destination"/> if that is a folder, else as it, in a folder that is there.
    /// </summary>
    /// <param name="source">What <see cref="Pack"/> made, or somebody who only says so.</param>
    /// <param name="destination">Where to.</param>
    /// <exception cref="IOException">It can't be written, or what comes leads elsewhere; what came before stays.</exception>
    public static void Unpack(Stream source, string destination)
    {
        var full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(destination));
        var (folder, top) = Directory.Exists(full) ? (full, null) : (Path.GetDirectoryName(full) ?? "/", Path.GetFileName(full));
        if (!Directory.Exists(folder)) throw new DirectoryNotFoundException($"There is no folder {folder}.");
        // Last of all: nothing may be written through a link that came with it.
        var links = new List<(string Path, string Target)>();
        var modes = new List<(string Path, UnixFileMode Mode)>();
        using var reader = new TarReader(source, leaveOpen: true);
        try
        {
            while (reader.GetNextEntry() is { } entry)
            {
                var path = Place(folder, top, entry.Name);
                switch (entry.EntryType)
                {
                    case TarEntryType.Directory:
                        MakeFolder(folder, path);
                        modes.Add((path, entry.Mode & Permissions));
                        break;
                    case TarEntryType.RegularFile or TarEntryType.V7RegularFile or TarEntryType.ContiguousFile:
                        MakeFolder(folder, Path.GetDirectoryName(path)!);
                        WriteFile(path, entry);
                        break;
                    case TarEntryType.SymbolicLink:
                        MakeFolder(folder, Path.GetDirectoryName(path)!);
                        links.Add((path, entry.LinkName));
                        break;
                    default:
                        throw new IOException($"{entry.Name} is neither file nor folder nor link ({entry.EntryType}); it is not copied.");
                }
            }
        }
        catch (Exception broken) when (broken is FormatException or InvalidDataException or EndOfStreamException or ArgumentException)
        {
            throw new IOException($"What comes is no copy of files: {broken.Message}", broken);
        }
        foreach (var (path, target) in links)
        {
            Clear(path);
            File.CreateSymbolicLink(path, target);
        }
        // Folders last to first, so that one that may not be written takes what belongs into it.
        for (var i = modes.Count - 1; i >= 0; i--) File.SetUnixFileMode(modes[i].Path, modes[i].Mode);
    }

    private static void AddFolder(TarWriter writer, DirectoryInfo folder, string name)
    {
        writer.WriteEntry(new PaxTarEntry(TarEntryType.Directory, name + "/") { Mode = folder.UnixFileMode & Permissions, ModificationTime = folder.LastWriteTimeUtc });
        foreach (var entry in folder.EnumerateFileSystemInfos())
        {
            var inner = $"{name}/{entry.Name}";
            if (entry.LinkTarget is { } target) writer.WriteEntry(new PaxTarEntry(TarEntryType.SymbolicLink, inner) { LinkName = target });
            else if (entry is DirectoryInfo below) AddFolder(writer, below, inner);
            else AddFile(writer, (FileInfo)entry, inner);
        }
    }

    private static void AddFile(TarWriter writer, FileInfo file, string name)
    {
        // What is empty is not opened: a pipe would wait for somebody at its other end.
        using var content = file.Length > 0 ? file.OpenRead() : null;
        writer.WriteEntry(new PaxTarEntry(TarEntryType.RegularFile, name) { Mode = file.UnixFileMode & Permissions, ModificationTime = file.LastWriteTimeUtc, DataStream = content });
    }

    private static string Place(string folder, string? top, string name)
    {
        var parts = name.Split('/', StringSplitOptions.RemoveEmptyEntries);
        if (parts.Length == 0 || name.StartsWith('/') || parts.Any(part => part is "." or ".." || part.Contains('\0')))
            throw new IOException($"'{name}' leads out of the copy; nothing of it is taken.");
        if (top is not null) parts[0] = top;
        return Path.Combine([folder, .. parts]);
    }

    // Every folder below the first must be one, and no link to one somewhere else.
    private static void MakeFolder(string first, string path)
    {
        var at = first;
        foreach (var part in Path.GetRelativePath(first, path).Split('/'))
        {
            if (part == ".") continue;
            at = Path.Combine(at, part);
            var there = new DirectoryInfo(at);
            if (there.LinkTarget is not null) throw new IOException($"{at} is a link; nothing is copied through it.");
            if (!there.Exists) there.Create();
        }
    }

    private static void WriteFile(string path, TarEntry entry)
    {
        Clear(path);
        using var file = new FileStream(path, new FileStreamOptions
        {
            Mode = FileMode.CreateNew, Access = FileAccess.Write, UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        });
        entry.DataStream?.CopyTo(file);
        File.SetUnixFileMode(file.SafeFileHandle, entry.Mode & Permissions);
    }

    // What is there is replaced and not written into: it may be a link, or have other names.
    private static void Clear(string path)
    {
        var there = new FileInfo(path);
        if (there.LinkTarget is not null || there.Exists) there.Delete();
        else if (Directory.Exists(path)) throw new IOException($"{path} is a folder; no file is put in its place.");
    }
}
