using Fleet.Host.State;

namespace Fleet.Cli.Node;

/// <summary>The removal of everything that Fleet keeps on this machine. What others put beside it stays.</summary>
internal static class Purge
{
    /// <summary>Why it can't be now; null: it can. Files go last, since by them alone what runs or is set up is found again.</summary>
    public static (string Code, string Message)? Obstacle(DataDirectory directory)
    {
        if (Directory.Exists(directory.Lab) && Directory.GetDirectories(directory.Lab) is { Length: > 0 } nodes)
            return ("lab_in_use", $"There {(nodes.Length == 1 ? "is a lab node" : $"are {nodes.Length} lab nodes")} in {directory.Lab}. Nothing was deleted; remove them first: fleet lab down");
        if (NodeLock.IsHeld(directory))
            return null;
        if (StateDirectory.CountUnended(directory.Host) is > 0 and var left)
            return ("vms_left", $"{left} microVM{(left == 1 ? " goes" : "s go")} on by what is in {directory.Host}. Nothing was deleted; start Fleet on {directory.Root} (fleet up), then: fleet down --purge");
        if (MachineTraces.HasNetworks(directory.Host))
            return ("networks_left", $"An agent that was killed left networks on this machine. Nothing was deleted; start Fleet on {directory.Root} (fleet up), which removes them, then: fleet down --purge");
        return null;
    }

    /// <summary>What could not be removed, and why; null: nothing is left.</summary>
    public static (string Code, string Message)? Remove(DataDirectory directory)
    {
        // Held: nobody starts on what is being removed.
        using var held = NodeLock.TryTake(directory);
        if (held is null)
            return ("already_running", $"Another Fleet has started on {directory.Root}. Its files stay.");
        try
        {
            foreach (var entry in directory.Entries)
            {
                // A link is removed, not what it leads to.
                if (Directory.Exists(entry) && new DirectoryInfo(entry).LinkTarget is null)
                    Directory.Delete(entry, recursive: true);
                else
                    File.Delete(entry);
            }

            MachineTraces.RemoveControlGroup();
            if (!Directory.EnumerateFileSystemEntries(directory.Root).Any())
                Directory.Delete(directory.Root);
            return null;
        }
        catch (Exception refused) when (refused is IOException or UnauthorizedAccessException)
        {
            return ("purge_failed", $"Fleet is down, but not all of {directory.Root} could be removed: {refused.Message} Mend that, then once more: fleet down --purge");
        }
    }
}
