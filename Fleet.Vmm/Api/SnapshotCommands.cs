using Fleet.Vmm.Linux;
using Fleet.Vmm.Snapshots;

namespace Fleet.Vmm.Api;

/// <summary>What the program does with snapshots without running a microVM.</summary>
internal static class SnapshotCommands
{
    private const int StandardOutput = 1;
    private const int StandardError = 2;

    /// <summary>Returns the exit code.</summary>
    /// <param name="arguments">One of them is asked for.</param>
    /// <param name="print">To a standard stream.</param>
    public static int Run(CommandLine arguments, Action<int, string> print)
    {
        try
        {
            if (arguments.WantsSnapshotVersion)
            {
                print(StandardOutput, $"v{StateFile.SupportedVersion}\n");
            }
            else if (arguments.DescribedSnapshot is { } path)
            {
                print(StandardOutput, $"v{StateFile.Describe(path)}\n");
            }
            else
            {
                MemoryFile.Merge(arguments.MergedDiff!, arguments.MergeTarget!);
            }

            return ExitCode.Ok;
        }
        catch (Exception failure) when (failure is SnapshotException or SystemCallException or NotARegularFileException)
        {
            print(StandardError, $"Snapshot error: {failure.Message}\n");
            return ExitCode.GenericError;
        }
    }
}
