using Fleet.Host.Drivers;

namespace Fleet.Host.Images.Oci;

/// <summary>One file, folder or link of a root file system; several names may lead to the same one.</summary>
internal sealed class Inode
{
    public required EntryKind Kind { get; init; }

    public ushort Mode { get; set; }

    public uint Uid { get; set; }

    public uint Gid { get; set; }

    public uint Mtime { get; set; }

    public IReadOnlyList<KeyValuePair<string, byte[]>>? Xattrs { get; set; }

    /// <summary>Target of a symbolic link.</summary>
    public string Target { get; init; } = "";

    /// <summary>Bytes of a file, which stand in the entry <see cref="Entry"/> of the layer <see cref="Layer"/>.</summary>
    public long Size { get; init; }

    public int Layer { get; init; }

    public int Entry { get; init; }

    /// <summary>What is in a folder; null: it is none.</summary>
    public Dictionary<string, Inode>? Children { get; init; }

    public static Inode Folder() => new() { Kind = EntryKind.Directory, Mode = 0x1ED, Children = new(StringComparer.Ordinal) };
}

/// <summary>
/// The root file system that layers make, one upon the other, by the rules of the OCI image specification. Nothing touches a disk: names
/// can't lead out of the tree, whatever they are, and links are followed within it only.
/// </summary>
/// <param name="limits">How many folders are made on the way to entries, and how many steps are taken in all.</param>
internal sealed class LayerTree(ImageLimits limits)
{
    private const string Whiteout = ".wh.", Opaque = ".wh..wh..opq", Reserved = ".wh..wh.";

    /// <summary>As many as Linux follows.</summary>
    private const int MostLinks = 40;

    private readonly long _mostSteps = (long)limits.Entries * ImageLimits.StepsPerEntry;
    private int _layers, _madeOnTheWay;
    private long _steps;

    public Inode Root { get; } = Inode.Folder();

    /// <summary>Puts the next layer upon what is there: first what it takes away, whatever the order of its entries, then what it brings.</summary>
    public void Apply(IReadOnlyList<LayerEntry> entries, CancellationToken cancellation)
    {
        foreach (var entry in entries)
        {
            cancellation.ThrowIfCancellationRequested();
            var (folder, name) = Split(entry.Path);
            if (name.StartsWith(Whiteout, StringComparison.Ordinal)) TakeAway(folder, name);
        }
        foreach (var entry in entries)
        {
            cancellation.ThrowIfCancellationRequested();
            var (folder, name) = Split(entry.Path);
            if (!name.StartsWith(Whiteout, StringComparison.Ordinal)) Add(entry, folder, name);
        }
        _layers++;
    }

    private void TakeAway(List<string> folder, string name)
    {
        if (name[Whiteout.Length..] is "" or "." or "..") throw ImageFault.Refused($"'{ImageFault.Show(name)}' takes nothing away");
        if (FindFolder(folder, make: false) is not { } parent) return;
        if (name == Opaque) parent.Children!.Clear();
        else if (name.StartsWith(Reserved, StringComparison.Ordinal)) return; // aufs keeps its books under such names
        else parent.Children!.Remove(name[Whiteout.Length..]);
    }

    private void Add(LayerEntry entry, List<string> folder, string name)
    {
        if (name.Length == 0)
        {
            if (entry.Kind != EntryKind.Directory) throw ImageFault.Refused("its root is no folder");
            Describe(Root, entry);
            return;
        }
        var siblings = FindFolder(folder, make: true)!.Children!;
        var present = siblings.GetValueOrDefault(name);
        switch (entry.Kind)
        {
            case EntryKind.Directory when present?.Kind == EntryKind.Directory:
                Describe(present, entry);
                break;
            case EntryKind.Directory when folder.Count >= ImageLimits.Depth:
                throw TooDeep();
            case EntryKind.Directory:
                var made = Inode.Folder();
                Describe(made, entry);
                siblings[name] = made;
                break;
            case EntryKind.HardLink:
                siblings[name] = LinkTarget(entry);
                break;
            case EntryKind.Symlink when entry.Link.Length == 0:
                throw ImageFault.Refused($"'{ImageFault.Show(entry.Path)}' is a symbolic link to nothing");
            default:
                var node = new Inode { Kind = entry.Kind, Target = entry.Link, Size = entry.Size, Layer = _layers, Entry = entry.Index };
                Describe(node, entry);
                siblings[name] = node;
                break;
        }
    }

    private Inode LinkTarget(LayerEntry entry)
    {
        var (folder, name) = Split(entry.Link);
        var target = name.Length > 0 && FindFolder(folder, make: false) is { } parent ? parent.Children!.GetValueOrDefault(name) : null;
        if (target is null or { Kind: EntryKind.Directory })
            throw ImageFault.Refused($"'{ImageFault.Show(entry.Path)}' is a hard link to '{ImageFault.Show(entry.Link)}', which is no file of the image");
        return target;
    }

    private static void Describe(Inode node, LayerEntry entry)
    {
        node.Mode = node.Kind == EntryKind.Symlink ? (ushort)0x1FF : entry.Mode;
        (node.Uid, node.Gid, node.Mtime, node.Xattrs) = (entry.Uid, entry.Gid, entry.Mtime, entry.Xattrs);
    }

    /// <summary>The folder of that name, links on the way followed within the tree; null when there is none and none is to be made.</summary>
    private Inode? FindFolder(List<string> path, bool make)
    {
        var above = new List<Inode> { Root };
        var ahead = new Stack<string>(Enumerable.Reverse(path));
        var links = 0;
        while (ahead.TryPop(out var part))
        {
            if (++_steps > _mostSteps) throw ImageFault.Refused($"its names lead over more than {_mostSteps} folders and links");
            var here = above[^1];
            if (part is "" or ".") continue;
            if (part == "..")
            {
                // Only a link's target may have it; above the root is the root.
                if (above.Count > 1) above.RemoveAt(above.Count - 1);
                continue;
            }
            if (!here.Children!.TryGetValue(part, out var next))
            {
                if (!make) return null;
                if (++_madeOnTheWay > limits.Entries) throw ImageFault.Refused($"it has more than {limits.Entries} entries");
                here.Children[part] = next = Inode.Folder();
            }
            if (next.Kind == EntryKind.Symlink)
            {
                if (++links > MostLinks) throw ImageFault.Refused($"'{ImageFault.Show(string.Join('/', path))}' leads round and round through symbolic links");
                if (next.Target[0] == '/') above.RemoveRange(1, above.Count - 1);
                foreach (var step in next.Target.Split('/').Reverse()) ahead.Push(step);
            }
            else if (next.Kind == EntryKind.Directory)
            {
                above.Add(next);
                if (above.Count > ImageLimits.Depth) throw TooDeep();
            }
            else if (make)
            {
                throw ImageFault.Refused($"'{ImageFault.Show(string.Join('/', path))}' is to be a folder, and leads through a file");
            }
            else
            {
                return null;
            }
        }
        return above[^1];
    }

    /// <summary>Folder and last part of a name, which is one below the root whether it begins with a slash or not.</summary>
    private static (List<string> Folder, string Name) Split(string path)
    {
        var parts = new List<string>();
        foreach (var part in path.Split('/'))
        {
            if (part is "" or ".") continue;
            if (part == "..") throw ImageFault.Refused($"'{ImageFault.Show(path)}' leads out of the image");
            if (part.Length > ImageLimits.Name) throw ImageFault.Refused($"it has a name longer than {ImageLimits.Name} bytes");
            parts.Add(part);
        }
        if (parts.Count == 0) return (parts, "");
        var name = parts[^1];
        parts.RemoveAt(parts.Count - 1);
        return (parts, name);
    }

    private static LaunchFailedException TooDeep() => ImageFault.Refused($"it has more than {ImageLimits.Depth} folders inside each other");
}
