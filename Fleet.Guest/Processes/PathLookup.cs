namespace Fleet.Guest.Processes;

/// <summary>Finds the program that a command names, as a shell does.</summary>
internal static class PathLookup
{
    /// <summary>
    /// A name with a slash is taken as it is. Otherwise the folders of <paramref name="searchPath"/> are asked in turn (an
    /// empty folder is the current one) for an executable file; when there is only one that may not be executed, that one is
    /// given, so that the error says "permission denied" and not "not found". Null when there is none.
    /// </summary>
    /// <param name="name">First element of the command.</param>
    /// <param name="searchPath">The value of PATH.</param>
    /// <param name="probe">What lies at a path.</param>
    public static string? Find(string name, string searchPath, Func<string, FoundFile> probe)
    {
        if (name.Contains('/')) return name;
        string? forbidden = null;
        foreach (var folder in searchPath.Split(':'))
        {
            var candidate = folder.Length == 0 ? "./" + name : folder.EndsWith('/') ? folder + name : folder + "/" + name;
            switch (probe(candidate))
            {
                case FoundFile.Executable: return candidate;
                case FoundFile.Forbidden: forbidden ??= candidate; break;
                case FoundFile.Nothing: break;
            }
        }
        return forbidden;
    }
}

/// <summary>What PATH lookup finds at a path.</summary>
internal enum FoundFile
{
    /// <summary>No file, or a directory.</summary>
    Nothing,

    /// <summary>A file that may not be executed.</summary>
    Forbidden,

    /// <summary>A program.</summary>
    Executable,
}
