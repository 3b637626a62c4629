using System.Text;

namespace Fleet.Shared.Files;

/// <summary>A file that is written whole or not at all, and is there after power loss when the call has returned.</summary>
public static class OwnFile
{
    /// <summary>Readable and writable by its user alone.</summary>
    public const UnixFileMode Private = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    /// <summary>Writes it; a folder that is missing is made, for its user alone.</summary>
    /// <param name="path">Where.</param>
    /// <param name="text">ASCII.</param>
    /// <param name="mode">Who may read it.</param>
    /// <param name="overwrite">Whether it may be there already.</param>
    /// <exception cref="IOException">It can't be written, or is there and must not be.</exception>
    /// <exception cref="UnauthorizedAccessException">It may not be written.</exception>
    public static void Write(string path, string text, UnixFileMode mode = Private, bool overwrite = true)
    {
        var folder = Path.GetDirectoryName(Path.GetFullPath(path))!;
        // Also the entries of folders that are made here are to be on the disk.
        var changed = new List<string> { folder };
        while (!Directory.Exists(changed[^1]) && Path.GetDirectoryName(changed[^1]) is { } parent)
            changed.Add(parent);
        Directory.CreateDirectory(folder, UnixFileMode.UserRead | UnixFileMode.UserWrite | UnixFileMode.UserExecute);
        var half = path + ".new";
        File.Delete(half);
        using (var stream = new FileStream(half, new FileStreamOptions { Mode = FileMode.CreateNew, Access = FileAccess.Write, UnixCreateMode = mode }))
        {
            stream.Write(Encoding.ASCII.GetBytes(text));
            stream.Flush(flushToDisk: true);
        }
        File.Move(half, path, overwrite);
        changed.ForEach(FolderSync.Sync);
    }
}
