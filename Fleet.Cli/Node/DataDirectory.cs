using System.CommandLine;

namespace Fleet.Cli.Node;

/// <summary>Where a node keeps what must outlive it, and the folders below that.</summary>
internal sealed record DataDirectory(string Root)
{
    public static Option<DirectoryInfo> Option() => new("--data")
    {
        Description = "Where Fleet keeps its state (or FLEET_DATA)",
        Recursive = true,
        DefaultValueFactory = _ => new DirectoryInfo(Default()),
    };

    public string Scheduler => Path.Combine(Root, "scheduler");

    public string Host => Path.Combine(Root, "host");

    public string Cache => Path.Combine(Root, "cache");

    public string Lab => Path.Combine(Root, "lab");

    /// <summary>What the node leaves for the people of this machine: an admin's token, and the cell's root certificate.</summary>
    public string Credentials => Path.Combine(Root, "credentials");

    public string Log => Path.Combine(Root, "log");

    /// <summary>Held by the one process that runs on this directory; names it.</summary>
    public string Lock => Path.Combine(Root, "fleet.lock");

    /// <summary>All that Fleet puts there, the lock last.</summary>
    public IReadOnlyList<string> Entries => [Scheduler, Host, Cache, Lab, Credentials, Log, NodeLock.PidFile(this), Lock];

    /// <summary>Least free space, in MiB, for images and a few microVMs.</summary>
    public const long WantedMib = 2048;

    /// <summary>What a host should know whose images will not fit; null: there is room, or nobody can tell.</summary>
    public string? Tight()
    {
        try
        {
            Directory.CreateDirectory(Root);
            return Tight(Root, new DriveInfo(Root).AvailableFreeSpace >> 20);
        }
        catch (Exception unknown) when (unknown is IOException or UnauthorizedAccessException)
        {
            return null;
        }
    }

    /// <inheritdoc cref="Tight()"/>
    internal static string? Tight(string root, long freeMib) => freeMib >= WantedMib ? null
        : $"{root} has {freeMib} MiB free, and images and logs want {WantedMib}: free some, or choose another --data";

    public static DataDirectory Of(DirectoryInfo chosen) => new(chosen.FullName);

    /// <summary>Why the directory can't be used, and what to do.</summary>
    public string Unusable(Exception refused) =>
        $"{Root} can't be used as data directory: {refused.Message.TrimEnd('.')}. Run as the user that it belongs to, or choose another --data.";

    private static string Default()
    {
        if (Environment.GetEnvironmentVariable("FLEET_DATA") is { Length: > 0 } set)
            return set;
        return Environment.UserName == "root"
            ? "/var/lib/fleet"
            : Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.LocalApplicationData, Environment.SpecialFolderOption.DoNotVerify), "fleet");
    }
}
