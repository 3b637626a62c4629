namespace Fleet.Cli.Vms;

/// <summary>A KEY=VALUE word of the command line.</summary>
internal static class KeyValue
{
    /// <summary>Null when there is no key; the value may be empty and contain more '='.</summary>
    public static (string Key, string Value)? Parse(string word)
    {
        var at = word.IndexOf('=');
        return at <= 0 ? null : (word[..at], word[(at + 1)..]);
    }
}
