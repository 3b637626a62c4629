using System.Buffers.Binary;
using System.Text;

namespace Fleet.Shared.Files;

/// <summary>
/// A file or a folder as a stream of bytes, for copies between a host and a guest. Neither side trusts the other: what is unpacked stays
/// below the place it was asked for. Files, folders and symbolic links with their modes; owners are those of who unpacks.
/// </summary>
/// <remarks>
/// Entries one behind the other, each: kind (1 byte: <c>d</c>, <c>f</c>, <c>l</c>, or <c>.</c> at the end), mode (2), length of the name (2), of
/// the content or the link's target (8), the name, the content; numbers are little-endian. A tar would make fleet-init a sixth larger.
/// </remarks>
public static class TreeCopy
{
    private const UnixFileMode Permissions = (UnixFileMode)0x1FF;
    private const byte Folder = (byte)'d', File = (byte)'f', Link = (byte)'l', End = (byte)'.';
    private const int HeaderBytes = 13;
    private const int LongestName = 4096;
    private const int BufferBytes = 64 * 1024;

    /// <summary>Files, folders and links of one copy.</summary>
    public const int MostEntries = 1_000_000;

    /// <summary>Bytes of the files of one copy together.</summary>
    public const long MostBytes = 1L << 37;

    // What is known of folders and links until the end: so many letters.
    private const int MostHeld = 64 << 20;

    /// <summary>Packs it under its own name. What is neither file nor folder nor link comes as an empty file.</summary>
    /// <param name="path">A file, a folder, or a link to one, which is followed.</param>
    /// <param name="target">Takes the stream.</param>
    /// <exception cref="IOException">There is nothing, it can't be read, or it shrinks meanwhile.</exception>
    public static void Pack(string path, Stream target)
    {
        ArgumentNullException.ThrowIfNull(target);
        var full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(path));
        var name = NameOf(full);
        if (Directory.Exists(full)) PackFolder(target, new DirectoryInfo(full), name);
        else if (System.IO.File.Exists(full)) PackFile(target, System.IO.File.ResolveLinkTarget(full, returnFinalTarget: true) as FileInfo ?? new FileInfo(full), name);
        else throw new FileNotFoundException($"There is nothing at {path}.");
        Write(target, End, 0, "", 0);
    }

    /// <summary>The name under which that is packed.</summary>
    /// <param name="full">From the root on.</param>
    public static string NameOf(string full) => Path.GetFileName(Path.TrimEndingDirectorySeparator(Path.GetFullPath(full))) is { Length: > 0 } name ? name : "root";

    /// <summary>
    /// Unpacks one file or folder into <paramref name="destination"/> if that is a folder, else as it, in a folder that is there. What ends in a slash is never made as a file.
    /// </summary>
    /// <param name="source">What <see cref="Pack"/> made, or somebody who only says so.</param>
    /// <param name="destination">Where to.</param>
    /// <param name="name">What was asked for, and nothing beside it is taken; null: whatever comes first.</param>
    /// <param name="mostEntries">Files, folders and links.</param>
    /// <param name="mostBytes">Of all files.</param>
    /// <exception cref="IOException">
    /// It can't be written, or what comes leads elsewhere, is too much or something else, or ends early; what came whole before stays, and nothing by halves.
    /// </exception>
    public static void Unpack(Stream source, string destination, string? name = null, int mostEntries = MostEntries, long mostBytes = MostBytes)
    {
        ArgumentNullException.ThrowIfNull(source);
        var full = Path.TrimEndingDirectorySeparator(Path.GetFullPath(destination));
        var (folder, top) = Directory.Exists(full) ? (full, null) : (Path.GetDirectoryName(full) ?? "/", Path.GetFileName(full));
        if (!Directory.Exists(folder)) throw new DirectoryNotFoundException($"There is no folder {folder}.");
        // Last of all: nothing may be written through a link that came with it.
        var links = new List<(string Path, string Target)>();
        var modes = new List<(string Path, UnixFileMode Mode)>();
        var header = new byte[HeaderBytes];
        var (entries, held) = (0, 0);
        while (true)
        {
            ReadAll(source, header);
            var mode = (UnixFileMode)BinaryPrimitives.ReadUInt16LittleEndian(header.AsSpan(1)) & Permissions;
            var length = BinaryPrimitives.ReadInt64LittleEndian(header.AsSpan(5));
            if (header[0] == End) break;
            if (++entries > mostEntries) throw new IOException($"The copy has more than {mostEntries} files and folders, which is the most.");
            var path = Place(folder, top, ref name, entries == 1, ReadText(source, BinaryPrimitives.ReadUInt16LittleEndian(header.AsSpan(3))));
            if (header[0] != File && (held += path.Length) > MostHeld) throw TooManyNames();
            switch (header[0])
            {
                case Folder:
                    CheckParent(folder, path);
                    MakeFolder(path);
                    modes.Add((path, mode));
                    break;
                case File when top is not null && entries == 1 && Path.EndsInDirectorySeparator(destination):
                    throw new DirectoryNotFoundException($"There is no folder {full}.");
                case File when length >= 0:
                    if (length > mostBytes) throw new IOException($"{path}: the copy has more bytes than one may have.");
                    mostBytes -= length;
                    CheckParent(folder, path);
                    UnpackFile(source, path, mode, length);
                    break;
                case Link:
                    CheckParent(folder, path);
                    var target = ReadText(source, length);
                    if (target.Length == 0 || target.Contains('\0')) throw new IOException($"The link {path} leads nowhere.");
                    if ((held += target.Length) > MostHeld) throw TooManyNames();
                    links.Add((path, target));
                    break;
                default:
                    throw new IOException("What comes is no copy of files.");
            }
        }
        foreach (var (path, leads) in links)
        {
            Clear(path);
            System.IO.File.CreateSymbolicLink(path, leads);
        }
        // Folders last to first, so that one that may not be written takes what belongs into it.
        for (var i = modes.Count - 1; i >= 0; i--) System.IO.File.SetUnixFileMode(modes[i].Path, modes[i].Mode);
    }

    private static void PackFolder(Stream target, DirectoryInfo folder, string name)
    {
        Write(target, Folder, folder.UnixFileMode, name, 0);
        foreach (var entry in folder.EnumerateFileSystemInfos())
        {
            var inner = $"{name}/{entry.Name}";
            if (entry.LinkTarget is { } link)
            {
                var bytes = Encoding.UTF8.GetBytes(link);
                Write(target, Link, 0, inner, bytes.Length);
                target.Write(bytes);
            }
            else if (entry is DirectoryInfo below) PackFolder(target, below, inner);
            else PackFile(target, (FileInfo)entry, inner);
        }
    }

    private static void PackFile(Stream target, FileInfo file, string name)
    {
        var left = file.Length;
        Write(target, File, file.UnixFileMode, name, left);
        // What is empty is not opened: a pipe would wait for somebody at its other end.
        if (left == 0) return;
        using var content = file.OpenRead();
        var buffer = new byte[BufferBytes];
        while (left > 0)
        {
            var count = content.Read(buffer, 0, (int)Math.Min(left, buffer.Length));
            if (count == 0) throw new IOException($"{file.FullName} became shorter while it was copied.");
            target.Write(buffer, 0, count);
            left -= count;
        }
    }

    private static void Write(Stream target, byte kind, UnixFileMode mode, string name, long length)
    {
        var bytes = Encoding.UTF8.GetBytes(name);
        if (bytes.Length > LongestName) throw new IOException($"The name {name[..80]}… has more than {LongestName} bytes.");
        var header = new byte[HeaderBytes];
        header[0] = kind;
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(1), (ushort)(mode & Permissions));
        BinaryPrimitives.WriteUInt16LittleEndian(header.AsSpan(3), (ushort)bytes.Length);
        BinaryPrimitives.WriteInt64LittleEndian(header.AsSpan(5), length);
        target.Write(header);
        target.Write(bytes);
    }

    private static string ReadText(Stream source, long length)
    {
        if (length is < 0 or > LongestName) throw new IOException("What comes is no copy of files.");
        var bytes = new byte[length];
        ReadAll(source, bytes);
        return Encoding.UTF8.GetString(bytes);
    }

    private static void ReadAll(Stream source, byte[] target)
    {
        for (var at = 0; at < target.Length;)
        {
            var count = source.Read(target, at, target.Length - at);
            if (count == 0) throw new IOException("The copy ends before all has come.");
            at += count;
        }
    }

    private static IOException TooManyNames() => new($"The copy's folders and links have names of more than {MostHeld} letters, which is the most.");

    // One tree: its root comes first and once, and all else is below it.
    private static string Place(string folder, string? top, ref string? root, bool first, string name)
    {
        var parts = name.Split('/');
        if (parts.Any(part => part.Length == 0 || part is "." or ".." || part.Contains('\0')))
            throw new IOException($"'{name}' leads out of the copy; nothing of it is taken.");
        root ??= parts[0];
        if (parts[0] != root || first != (parts.Length == 1))
            throw new IOException($"'{name}' comes, and only '{root}' and what is below it is taken. A path with '.' or '..' at its end has no name: write it out.");
        if (top is not null) parts[0] = top;
        return Path.Combine([folder, .. parts]);
    }

    // Every folder between the first and it must have come, and be no link to one somewhere else.
    private static void CheckParent(string first, string path)
    {
        var at = first;
        foreach (var part in Path.GetRelativePath(first, Path.GetDirectoryName(path)!).Split('/'))
        {
            if (part == ".") continue;
            at = Path.Combine(at, part);
            var there = new DirectoryInfo(at);
            if (there.LinkTarget is not null) throw new IOException($"{at} is a link; nothing is copied through it.");
            if (!there.Exists) throw new IOException($"{path} comes before the folder that it is in.");
        }
    }

    private static void MakeFolder(string path)
    {
        var there = new DirectoryInfo(path);
        if (there.LinkTarget is not null) throw new IOException($"{path} is a link; nothing is copied through it.");
        if (!there.Exists) there.Create();
    }

    private static void UnpackFile(Stream source, string path, UnixFileMode mode, long left)
    {
        ThrowIfFolder(path);
        // Under a name of its own until it is whole: nobody finds half of it, and what is there stays until then.
        var part = Path.Combine(Path.GetDirectoryName(path)!, $".fleet-{Guid.NewGuid():n}");
        using var file = new FileStream(part, new FileStreamOptions
        {
            Mode = FileMode.CreateNew, Access = FileAccess.Write, BufferSize = 0, UnixCreateMode = UnixFileMode.UserRead | UnixFileMode.UserWrite,
        });
        try
        {
            var buffer = new byte[BufferBytes];
            while (left > 0)
            {
                var count = source.Read(buffer, 0, (int)Math.Min(left, buffer.Length));
                if (count == 0) throw new IOException("The copy ends before all has come.");
                file.Write(buffer, 0, count);
                left -= count;
            }
            System.IO.File.SetUnixFileMode(file.SafeFileHandle, mode);
            // What is there is replaced and not written into: it may be a link, or have other names.
            System.IO.File.Move(part, path, overwrite: true);
        }
        catch
        {
            try
            {
                System.IO.File.Delete(part);
            }
            catch (Exception stuck) when (stuck is IOException or UnauthorizedAccessException)
            {
                // What went wrong first is what is told.
            }
            throw;
        }
    }

    // A link is made only where nothing is.
    private static void Clear(string path)
    {
        ThrowIfFolder(path);
        System.IO.File.Delete(path);
    }

    private static void ThrowIfFolder(string path)
    {
        if (new FileInfo(path).LinkTarget is null && Directory.Exists(path)) throw new IOException($"{path} is a folder; no file is put in its place.");
    }
}
