using Fleet.Shared.Admin;

namespace Fleet.Cli.Admin;

/// <summary>Lines that were entered before, in a file that is its user's alone. A file that can't be kept is no reason not to work.</summary>
internal sealed class History
{
    /// <summary>Lines that are remembered.</summary>
    public const int Kept = 500;

    private const UnixFileMode OwnerOnly = UnixFileMode.UserRead | UnixFileMode.UserWrite;

    private readonly string? _file;
    private readonly List<string> _lines = [];

    /// <param name="file">Null: only in memory.</param>
    public History(string? file)
    {
        _file = file;
        if (file is null || !File.Exists(file))
            return;
        try
        {
            var all = 0;
            foreach (var line in File.ReadLines(file))
            {
                all++;
                if (line.Length is > 0 and <= CommandWords.MaxLine)
                    _lines.Add(line);
                if (_lines.Count > Kept)
                    _lines.RemoveAt(0);
            }
            if (all > Kept)
                Rewrite(file);
        }
        catch (Exception unreadable) when (unreadable is IOException or UnauthorizedAccessException)
        {
            _file = null;
        }
    }

    public int Count => _lines.Count;

    /// <summary>Where it is for this user: below XDG_STATE_HOME; null when there is no such place.</summary>
    public static string? DefaultFile()
    {
        var state = Environment.GetEnvironmentVariable("XDG_STATE_HOME") is { Length: > 0 } set
            ? set
            : Environment.GetFolderPath(Environment.SpecialFolder.UserProfile) is { Length: > 0 } home ? Path.Combine(home, ".local", "state") : null;
        return state is null ? null : Path.Combine(state, "fleet", "admin_history");
    }

    /// <summary>The line so far back: 1 is the newest.</summary>
    public string Back(int places) => _lines[^places];

    public void Add(string line)
    {
        if (line.Length == 0 || (_lines.Count > 0 && _lines[^1] == line))
            return;
        _lines.Add(line);
        if (_lines.Count > Kept)
            _lines.RemoveAt(0);
        if (_file is null)
            return;
        try
        {
            Directory.CreateDirectory(Path.GetDirectoryName(_file)!);
            // Appended, so that two shells don't take each other's lines away; the next start shortens it.
            using var stream = new FileStream(_file, new FileStreamOptions { Mode = FileMode.Append, Access = FileAccess.Write, UnixCreateMode = OwnerOnly });
            using var writer = new StreamWriter(stream);
            writer.WriteLine(line);
        }
        catch (Exception unwritable) when (unwritable is IOException or UnauthorizedAccessException)
        {
            // What was entered is remembered as long as the shell runs.
        }
    }

    private void Rewrite(string file)
    {
        var next = $"{file}.{Environment.ProcessId}";
        using (var stream = new FileStream(next, new FileStreamOptions { Mode = FileMode.Create, Access = FileAccess.Write, UnixCreateMode = OwnerOnly }))
        using (var writer = new StreamWriter(stream))
        {
            foreach (var line in _lines)
                writer.WriteLine(line);
        }
        File.Move(next, file, overwrite: true);
    }
}
