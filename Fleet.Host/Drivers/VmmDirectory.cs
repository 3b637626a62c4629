using Fleet.Host.Drivers.Processes;

namespace Fleet.Host.Drivers;

/// <summary>A microVM's directory before and after a VMM.</summary>
internal static class VmmDirectory
{
    /// <summary>Makes the directory or empties it of an earlier launch's files, but for what the launch goes on from.</summary>
    /// <exception cref="LaunchFailedException"><c>launch_failed</c>: a VMM still runs in it, or it can't be written.</exception>
    public static void Prepare(string directory, ulong snapshotEpoch = 0)
    {
        try
        {
            if (VmmProcess.TryAdopt(directory, out _) is { } running)
            {
                throw new LaunchFailedException("launch_failed",
                    $"A VMM (pid {running.Pid}) still runs in {directory}; it has to be stopped before another is started there.");
            }
            if (snapshotEpoch > 0) VmmFiles.PrepareResume(directory, snapshotEpoch);
            else VmmFiles.Prepare(directory);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            throw new LaunchFailedException("launch_failed", $"The directory {directory} can't be prepared: {e.Message}", e);
        }
    }

    /// <summary>A VMM that ended before it could be spoken to.</summary>
    public static LaunchFailedException EndedAtOnce(string program, string directory) =>
        new("vmm_failed", $"{program} ended at once. Its last line: {VmmProcess.LastWords(directory) ?? "(it said nothing)"}");
}
